"""History under another product version: documents that stand in for those that were published.

A document stands in for the version of its number; when that number was never published, for the newest that was. It
keeps the number, the day from which it is in force and the place in the log of the version that it stands in for, so
records name the same version as before, and whatever differs does so because of what the document says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from clearline.product_file import ProductFile, read_product
from ledger.state import PartitionBase
from schemas.codec import Codec
from schemas.errors import BadInputError
from schemas.records import JournalRecord, ProductState, PublishProduct
from streams.reader import LogRecord


@dataclass(frozen=True, slots=True)
class Rule:
    """A document (canonical JSON) that stands in for one version of its product. `given`: the file's own number."""

    product: str
    version: int
    document: str
    given: int

    @property
    def digest(self) -> str:
        """SHA-256 of the document, in hex."""
        return sha256(self.document.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a plan."""
        return {"product": self.product, "version": self.version, "given": self.given, "document": self.document}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Rule:
        """The rule that `to_dict` wrote."""
        return cls(str(d["product"]), int(d["version"]), str(d["document"]), int(d["given"]))


def read_rules(files: Iterable[Path], published: Mapping[str, Sequence[int]]) -> list[Rule]:
    """The rules of these files. `published`: versions of each product that the ledger has.

    Raises BadInputError for a file that is no product, a product that was never published, or one version twice.
    """
    rules = [_rule(read_product(file), published) for file in files]
    for rule in rules:
        if sum((r.product, r.version) == (rule.product, rule.version) for r in rules) > 1:
            raise BadInputError(f"--rules: {rule.product} version {rule.version} stands twice")
    return rules


def _rule(file: ProductFile, published: Mapping[str, Sequence[int]]) -> Rule:
    versions = sorted(published.get(file.product, ()))
    if not versions:
        raise BadInputError(f"--rules {file.file}: {file.product} was never published, so there is no history under it")
    version = file.version if file.version in versions else versions[-1]
    document = msgspec.json.decode(file.text)
    document["version"] = version
    text = msgspec.json.encode(document, order="sorted").decode()
    return Rule(file.product, version, text, file.version)


class Rewriting:
    """Puts the documents of rules in the place of those that were published, in the commands of the log."""

    def __init__(self, rules: Sequence[Rule], codec: Codec) -> None:
        self._documents = {(r.product, r.version): r.document for r in rules}
        self._codec = codec

    def rewritten(self, r: LogRecord, history: JournalRecord | None) -> LogRecord:
        """The command as it is to be settled. `history`: what it came to; only a version that was taken is replaced."""
        if not r.value or self._codec.name_of(r.value) != "PublishProduct":
            return r
        if history is None or history.outcome not in ("applied", "repeated"):
            return r
        c = self._codec.decode(r.value)
        assert isinstance(c, PublishProduct)
        document = self._documents.get((c.product, c.version))
        if document is None:
            return r
        return r._replace(value=self._codec.encode(msgspec.structs.replace(c, document=document)))

    def shelf(self, base: PartitionBase) -> list[ProductState]:
        """The versions that stand on a shelf now and are concerned, each with the document that stands in for it."""
        out = []
        for (product, version), document in self._documents.items():
            out += [
                ProductState(v.product, v.version, v.effective_from, document, v.source_offset)
                for v in base.shelf.get(product, ())
                if v.version == version
            ]
        return out

    def put(self, base: PartitionBase) -> None:
        """The same in books that begin after these versions were published."""
        for row in self.shelf(base):
            base.put_row(f"d:{row.product}:{row.version}", row)

    def concerns(self, r: JournalRecord) -> bool:
        """Whether a record is of a version's publication that was replaced."""
        version = r.changes.get("version", "")
        return r.command == "PublishProduct" and (r.subject_id, int(version or 0)) in self._documents
