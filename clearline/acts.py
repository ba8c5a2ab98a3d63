"""What operators do outside of the ledger, recorded in it: a command that changes nothing and stands in the chain."""

from __future__ import annotations

from clearline.connection import Connection
from clearline.control import give, new_key
from clearline.outcomes import Outcome
from schemas.identity import BANK
from schemas.records import OperatorAct


def record_act(
    system: Connection, *, act: str, subject_id: str, digest: str, requested_by: str, note: str,
    approved_by: str = "", key: str = "", stall_s: float = 30.0,
) -> Outcome:  # fmt: skip
    """Gives the act to the ledger and waits until it stands in the journal; `repeated` when it stood there before.

    `act`: what is done, such as `replay.apply`; `digest`: SHA-256 of the document concerned, 64 hexadecimal digits, or
    empty; `key`: the same key again is the same act, one of its own when left out. Raises RejectedError when a field
    breaks a rule (docs/operations.md) or the key was used for another act, PartUnavailableError when no worker answers
    in `stall_s`; who asks again then gives the same `key`.
    """
    command = OperatorAct(
        BANK, key or new_key(), act, subject_id, digest, requested_by=requested_by, approved_by=approved_by, note=note
    )
    return give(system, command, stall_s)[0]
