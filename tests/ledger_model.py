"""The ledger's rules said a second time, as plainly as they can be said: dicts, copies, and one question after another.

Written from docs/operations.md and docs/products.md; it shares no code with the ledger. Where the Book is quick, this is
slow; where both agree on every outcome, reason, posting, release and balance over many thousands of commands, either
both are right or both are wrong in the same way. The parts are in tests/model.
"""

from __future__ import annotations

from tests.model.model import Model
from tests.model.values import (
    COUNTER_MAX,
    LONG_MAX,
    OPERATIONS,
    WITH_ORIGINAL,
    Answer,
    Entry,
    Flight,
    Hold,
    Key,
    Known,
    Other,
)

__all__ = [
    "COUNTER_MAX",
    "LONG_MAX",
    "OPERATIONS",
    "WITH_ORIGINAL",
    "Answer",
    "Entry",
    "Flight",
    "Hold",
    "Key",
    "Known",
    "Model",
    "Other",
]
