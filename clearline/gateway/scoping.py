"""Whose figures an asker is given: the one place where the parameters of reports and data are held to a subtree."""

from __future__ import annotations

from collections.abc import Mapping

from clearline.gateway.parts import Parts
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from ledger.names import PARTNER_ID
from schemas.identity import BANK, owner_of, root_of
from sinks.finance.catalogue import Report

SCOPE = "reports"


def may_ask(who: Principal, report: Report) -> bool:
    """Whether an asker with the scope `reports` may ask this report at all."""
    return report.scoped or who.sees_all_figures


def whose(who: Principal) -> str:
    """For whom answers are kept apart: the partner that is acted for, or the bank for everything."""
    return BANK if who.sees_all_figures else who.acting


async def scoped(parts: Parts, who: Principal, report: Report, given: Mapping[str, str]) -> dict[str, str]:
    """The parameters as this asker is answered: a partner's `partner` is itself unless it names one below it, and its
    accounts are its own or of its subtree. The bank may name any, or none.

    Raises Problem("scope_missing"), and Problem("not_found") for another tree's exactly as for what does not exist.
    """
    who.need(SCOPE)
    if not may_ask(who, report):
        raise Problem("not_found")
    held, out = who.sees_all_figures, dict(given)
    for p in report.parameters:
        named = given.get(p.name, "")
        if p.asked == "partner":
            if named:
                await _may_name_partner(parts, who, named)
            elif not who.sees_all_figures:
                out[p.name] = who.acting
            held = True
        elif p.asked == "account" and named:
            await _may_name_account(parts, who, named)
            held = True
        elif p.asked == "account" and p.default is None:
            held = True  # it is refused for what is missing
    if not held:  # a report that cannot be held to a subtree is nobody's but the bank's, whatever the catalogue says
        raise Problem("not_found")
    return out


async def _may_name_partner(parts: Parts, who: Principal, partner_id: str) -> None:
    if who.sees_all_figures:
        if partner_id == BANK:
            return
    elif not who.sees(partner_id):
        raise Problem("not_found")
    if not PARTNER_ID.fullmatch(partner_id) or await parts.reads.partner(partner_id) is None:
        raise Problem("not_found")


async def _may_name_account(parts: Parts, who: Principal, account_id: str) -> None:
    if who.sees_all_figures:
        if root_of(owner_of(account_id)) == BANK:
            return  # it has a shard in each partition; one that does not exist has no lines
    elif not who.sees_account(account_id):
        raise Problem("not_found")
    if await parts.reads.account(account_id) is None:
        raise Problem("not_found")
