"""What partners and accounts may be called: a partner is a path, an account is its owner, a colon and a local name."""

from __future__ import annotations

import re

NAME_MAX = 64  # characters of each name in a partner's path
PARTNER_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,7}")
LOCAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def within(partner_id: str, above: str) -> bool:
    """Whether a partner is `above` itself or below it."""
    return partner_id == above or partner_id.startswith(above + "/")


def is_account(account_id: str) -> bool:
    """Whether an account can have this id."""
    owner, _, local = account_id.partition(":")
    return LOCAL_NAME.fullmatch(local) is not None and PARTNER_ID.fullmatch(owner) is not None
