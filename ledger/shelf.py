"""The shelf: which version of a product settles a transaction, and how a version gets there.

The page is docs/products.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from ledger.changes import Changes, audit, bank_only
from ledger.days import iso_date
from ledger.fields import invalid, is_day
from ledger.product_rules import PRODUCT, VERSION_MAX
from ledger.product_sense import check
from ledger.products import Offer, compiled
from ledger.reasons import Reason, Rejection
from ledger.state import Draft
from schemas.records import ProductState, PublishProduct, Transaction

if TYPE_CHECKING:
    from ledger.book import Book

DOCUMENT_MAX = 100_000  # characters
DEPTH_MAX = 32  # objects and lists in one another; asked here, for a parser's own bound depends on who called it


def offer(draft: Draft, t: Transaction, day: int) -> Offer:
    """The operation that a transaction asks for, of the highest version that is in force on `day`.

    `day`: the later of its value date and today, so that nobody gets yesterday's prices by a date of yesterday.
    Raises Rejection: product_unknown, operation_unknown.
    """
    versions = draft.versions(t.product)
    for row in reversed(versions):
        if row.effective_from <= day or not row.effective_from:
            found = compiled(row.document).offers.get(t.operation)
            if found is None:
                raise Rejection(Reason.OPERATION_UNKNOWN, field="operation", operation=t.operation[:64])
            return found
    detail: dict[str, object] = {"field": "product", "product": t.product[:64]}
    if versions:
        detail["effective_from"] = iso_date(min(row.effective_from for row in versions))
    raise Rejection(Reason.PRODUCT_UNKNOWN, **detail)


def plain_version(draft: Draft, t: Transaction, day: int) -> int:
    """The version under which this is a plain transfer of a partner, without limits of the product; -1 if it is not."""
    try:
        found = offer(draft, t, day)
    except Rejection:
        return -1
    if draft.is_frozen("product", t.product):
        return -1
    currencies = found.product.currencies
    plain = found.operation.plain and "partner" in found.callers and not found.limits
    return found.version if plain and (not currencies or t.currency in currencies) else -1


def publish(book: Book, c: PublishProduct, offset: int) -> Changes:
    """Puts a version on the shelf of this partition. Raises Rejection."""
    bank_only(c)
    document = _checked_fields(c)
    versions = book.draft.versions(c.product)
    if versions and c.version <= versions[-1].version:
        raise Rejection(Reason.PRODUCT_VERSION, field="version", version=c.version, highest=versions[-1].version)
    found = check(document)
    if found:
        path, rule, reason = found[0]
        raise Rejection(reason, field="document", path=path[:256], rule=rule[:256])
    book.draft.publish(ProductState(c.product, c.version, c.effective_from, c.document, offset))
    effective_from = iso_date(c.effective_from) if c.effective_from else ""
    digest = sha256(c.document.encode()).hexdigest()
    return c.product, audit(c, version=c.version, effective_from=effective_from, digest=digest)


def _checked_fields(c: PublishProduct) -> dict[str, Any]:
    """The command's document as values, once its other fields are right and it is theirs."""
    if not PRODUCT.fullmatch(c.product):
        invalid("product", "a-z, then up to 63 of a-z 0-9 -")
    if not 1 <= c.version <= VERSION_MAX:
        invalid("version", f"1 to {VERSION_MAX}")
    if not is_day(c.effective_from):
        invalid("effective_from", "0 for at once, or a day up to 2299-12-31")
    if len(c.document) > DOCUMENT_MAX:
        invalid("document", f"at most {DOCUMENT_MAX} characters")
    if _depth(c.document) > DEPTH_MAX:
        invalid("document", f"at most {DEPTH_MAX} objects and lists in one another")
    try:
        document = msgspec.json.decode(c.document)
        _check_range(document)
    except (msgspec.DecodeError, UnicodeEncodeError, OverflowError):
        invalid("document", "JSON, and no number beyond a double's range")
    if not isinstance(document, dict):
        invalid("document", "a JSON object")
    if document.get("product") != c.product or document.get("version") != c.version:
        invalid("document", "its product and version are the command's")
    return document


def _check_range(value: Any) -> None:
    """Raises OverflowError for a whole number that no double comes near: not every reader would take it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _check_range(inner)
    elif isinstance(value, int):
        float(value)


def _depth(text: str) -> int:
    """How many objects and lists stand in one another at most."""
    deepest = depth = 0
    in_text = escaped = False
    for c in text:
        if in_text:
            in_text = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c == '"':
            in_text = True
        elif c in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "]}":
            depth -= 1
    return deepest
