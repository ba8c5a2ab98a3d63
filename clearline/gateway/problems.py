"""What a caller is told when it does not go on: RFC 9457 problems, each with a code that has a page.

Codes of the ledger's reasons keep their names; those of this module are the gateway's own (docs/gateway.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clearline.contract import FieldError
from clearline.redaction import hide
from ledger.reasons import CURE, MEANING, Reason

MEDIA_TYPE = "application/problem+json"


class Own(NamedTuple):
    """A code of the gateway's own: the status it is answered with, what it means, and what helps."""

    status: int
    meaning: str
    cure: str


OWN: dict[str, Own] = {
    "idempotency_key_missing": Own(400, "A write has no Idempotency-Key.", "Send a key of your own with each write."),
    "idempotency_key_invalid": Own(400, "The Idempotency-Key is no key.", "1 to 128 printable characters."),
    "body_invalid": Own(400, "The body is not a JSON object.", "Send one JSON object in UTF-8."),
    "cursor_invalid": Own(400, "The cursor is none of ours.", "Take `next_cursor` of the page before, unchanged."),
    "prefer_invalid": Own(400, "Prefer cannot be read.", "Write `Prefer: wait=5`: whole seconds."),
    "unauthenticated": Own(
        401, "No credential that is known here.", "Send `Authorization: Bearer KEY`, of this world."
    ),
    "signature_required": Own(401, "This key takes signed requests only.", "Sign the request: docs/gateway.md."),
    "signature_invalid": Own(401, "The signature does not fit the request.", "Sign exactly what is sent."),
    "signature_expired": Own(
        401, "The signature is too old, or from the future.", "Sign each request anew; set the clock."
    ),
    "signature_replayed": Own(401, "This nonce was used before.", "Take a new nonce for each request."),
    "certificate_required": Own(
        401, "This key needs its client certificate.", "Connect with the registered certificate."
    ),
    "forbidden": Own(403, "Not a partner that this credential may act for.", "Name yourself, or a partner below you."),
    "scope_missing": Own(403, "The key has no scope for this.", "Have a key made with the scope that `scope` names."),
    "not_found": Own(404, "Nothing of yours is here.", "Check the id and its encoding."),
    "method_not_allowed": Own(405, "The path does not have this method.", "`Allow` names those it has."),
    "checks_missing": Own(409, "The inspection is not complete.", "Do what `GET /v1/onboarding` says for each check."),
    "tables_full": Own(409, "The partner has as many tables as it may.", "Delete one that nobody needs."),
    "body_too_large": Own(413, "The body is too large.", "Send less at once; a batch takes up to 1,000."),
    "unsupported_media_type": Own(
        415, "This type of body is not taken.", "Send `Content-Type: application/json`; a table as `text/csv`."
    ),
    "rate_limited": Own(429, "More calls than the partner may make at once.", "Wait for as long as Retry-After says."),
    "quota_exceeded": Own(429, "The day's calls are used up.", "Wait for the next day, UTC, or have the quota raised."),
    "verification_failed": Own(
        422, "The receiver did not send the challenge back.", "Answer 2xx with `data.challenge` in the body."
    ),
    "report_too_large": Own(
        422, "The report would be too large, or take too long.", "Ask for fewer days, one partner, or less detail."
    ),
    "internal": Own(500, "Our own mistake.", "Try again with the same key; tell us the `instance`."),
    "unavailable": Own(503, "A part that this needs does not answer.", "Try again with the same key: it is harmless."),
}


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """Ends a request with a problem. `more`: further members of the document; `headers`: of the answer."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def status(self) -> int:
        """The HTTP status: 422 for what the ledger rejects."""
        return OWN[self.code].status if self.code in OWN else 422


def codes() -> list[str]:
    """Every code that a problem can have: the gateway's own, then the ledger's in their order."""
    return [*OWN, *(r.value for r in Reason)]


def meaning(code: str) -> tuple[str, str]:
    """What a code means, and what helps. Raises KeyError for what is none."""
    if code in OWN:
        return OWN[code].meaning, OWN[code].cure
    return MEANING[Reason(code)], CURE[Reason(code)]


def document(problem: Problem, base_url: str, instance: str) -> dict[str, Any]:
    """The problem as RFC 9457 has it. `base_url`: of the pages of codes; `instance`: names this one answer.

    It may quote what was sent, and a key may have been sent in the wrong place: secrets are hidden.
    """
    title, cure = meaning(problem.code)
    detail = problem.detail or "; ".join(map(str, problem.errors)) or title
    return {
        "type": f"{base_url}/reasons/{problem.code}",
        "title": title,
        "status": problem.status,
        "detail": hide(detail),
        "instance": instance,
        "code": problem.code,
        "cure": cure,
        **(
            {"errors": [{"field": hide(e.field), "rule": hide(e.rule)} for e in problem.errors]}
            if problem.errors
            else {}
        ),
        **problem.more,
    }
