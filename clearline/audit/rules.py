"""Whether a transaction may be: one rule after the other, each asked of all legs before the next is."""

from __future__ import annotations

import re

from clearline.audit.calendars import Calendar
from clearline.audit.currencies import CURRENCIES, DECIMALS
from clearline.audit.figures import COUNTER_MAX, DEBIT_NORMAL, LAST_DAY, LONG_MAX, TRANSIT, Leg
from clearline.audit.limits import Gross, Subject
from clearline.audit.originals import OF_AN_ORIGINAL, Originals
from clearline.audit.partners import OF_KIND, is_below
from clearline.audit.products import Plan, split_role
from clearline.audit.registrations import is_account_name
from clearline.audit.templates import Template, uses_amount
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Limit, Transaction

REFERENCE_CHARS_MAX, METADATA_FIELDS_MAX, NOTE_CHARS_MAX = 1024, 64, 1024
POSTINGS_MIN, POSTINGS_MAX = 2, 1000
RATE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,12}))?")
CROSSES = {"transfer", "entry"}  # kinds of operations whose credits may lie in other partitions
COUNTS = {"transfer", "entry", "hold", "exchange"}  # kinds that count against limits
HERE, ALIEN, HIDDEN, AWAY = "here", "alien", "hidden", "away"  # alien: not his to post to; hidden: not looked up


def rate_of(text: str) -> tuple[int, int] | None:
    """The rate as numerator and denominator, or None when it is none."""
    found = RATE.fullmatch(text)
    if not found or not text.isascii():
        return None
    whole, part = found[1], found[2] or ""
    numerator = int(whole + part)
    return (numerator, 10 ** len(part)) if numerator else None


def bought(amount: int, currency: str, rate: str, other: str) -> int:
    """What an amount buys of the other currency, minor units, rounded half up."""
    numerator, denominator = rate_of(rate) or (0, 1)
    numerator *= amount * 10 ** DECIMALS[other]
    denominator *= 10 ** DECIMALS[currency]
    return int((2 * numerator + denominator) // (2 * denominator))


def is_free(t: Transaction, plan: Plan) -> bool:
    """Whether the transaction brings its own postings."""
    if plan.kind == "transfer" and plan.version is None:
        return bool(t.postings)
    return plan.kind in ("entry", "adjustment")


Asked = list[tuple[Subject, tuple[Limit, ...], Calendar, Gross]]


class Rules(Originals):
    """Asks everything of a transaction up to the limits."""

    def judge(self, t: Transaction) -> tuple[str, Plan]:
        """The first rule that the transaction breaks, in the order of the reasons, or empty; and what it would do."""
        for today in self.todays():
            why, plan = self.judge_on(today, t)
            if self.witness is None or (why, 0 if why else plan.number) == (
                self.witness.reason, self.witness.product_version
            ):  # fmt: skip
                break
        return why, plan

    def judge_on(self, today: int, t: Transaction) -> tuple[str, Plan]:
        """The same, `today` being the local date of the settlement calendar."""
        if t.partner_id != BANK and self.unknown(t.partner_id):
            return "partner_unknown", Plan("")
        why, plan = self.plan(t, today)
        why = why or self.denied(t.partner_id, OF_KIND.get(plan.kind, "business"))
        why = why or self.stopped(t.partner_id, t.product, plan.kind) or self.misfilled(t, plan)
        if not why and not is_free(t, plan) and plan.kind not in OF_AN_ORIGINAL:
            why = self.misnamed(t, plan)
        why = why or self.malformed(t, plan) or self.uninvited(t, plan)
        if why:
            return why, plan
        if plan.kind in OF_AN_ORIGINAL:
            why = self.of_original(t, plan)
        else:
            self.lay_out(t, plan)
        why = why or self.forbidden(t, plan) or self.unmovable(t, plan) or self.unaffordable(t, plan)
        if not why and plan.kind in COUNTS and self.exceeded(self.asked_of(t, plan)):
            why = "limit_exceeded"
        return why, plan

    # ---- fields ------------------------------------------------------------------------------------------------------

    def misfilled(self, t: Transaction, plan: Plan) -> str:
        """Rules about which fields an operation has."""
        k = plan.kind
        names = [a.name for a in t.amounts]
        right = (
            0 <= t.value_date <= LAST_DAY
            and len(t.reference) <= REFERENCE_CHARS_MAX
            and len(t.metadata) <= METADATA_FIELDS_MAX
            and bool(t.original) == (k in OF_AN_ORIGINAL)
            and (k == "capture" or not t.final)
            and (t.expires_at == 0 or (k == "hold" and t.expires_at > self.event_time))
            and (1 <= len(t.note) <= NOTE_CHARS_MAX if k == "adjustment" else not t.note)
            and (k == "exchange" or not t.rate)
            and all(p.side in ("debit", "credit") for p in t.postings)
        )
        if k in OF_AN_ORIGINAL:
            right = right and not t.accounts and not t.postings and (k in ("capture", "refund") or t.amount == 0)
        elif is_free(t, plan):
            right = right and not t.amount and not t.accounts
        else:
            right = right and not t.postings
        wanted: list[str] = []
        if plan.has_steps():
            right = right and (t.amount == 0 or uses_amount(plan.operation))
            right = right and not self.debits_twice(t, plan)
            wanted = self.amounts_used(t, plan)
        return "" if right and names == wanted else "field_invalid"

    @staticmethod
    def debits_twice(t: Transaction, plan: Plan) -> bool:
        """Whether a role of several accounts that is debited names one of them twice: its balance is there once."""
        for role in {s["from"] for s in plan.operation["steps"] if plan.roles[s["from"]].get("many", False)}:
            mine = [account for name, account in t.accounts.items() if split_role(name)[0] == role]
            if len(set(mine)) != len(mine):
                return True
        return False

    @staticmethod
    def amounts_used(t: Transaction, plan: Plan) -> list[str]:
        """The names of the amounts that the steps use, sorted."""
        steps = plan.operation["steps"]
        named = {x["role"] for s in steps for x in s["to"] if x.get("amount") == "named"}
        parts = ((name, *split_role(name)) for name in t.accounts)
        return sorted(
            {*plan.operation.get("amounts", []), *(name for name, role, n in parts if role in named and n > 0)}
        )

    @staticmethod
    def malformed(t: Transaction, plan: Plan) -> str:
        """Rules about currencies, amounts and the rate that need no account."""
        free = is_free(t, plan)
        legs = [(p.side, p.amount, p.currency or t.currency) for p in t.postings]
        if any(c not in CURRENCIES for c in ([c for _, _, c in legs] if free else [t.currency])):
            return "currency_unknown"
        if plan.version is not None and plan.kind not in OF_AN_ORIGINAL:
            offered = plan.version.document.get("currencies", [])
            if offered and t.currency not in offered:
                return "product_currency"
        if t.exponent not in (-1, DECIMALS.get(t.currency)):
            return "exponent_mismatch"
        if free:
            amounts = [amount for _, amount, _ in legs]
        elif plan.kind in ("void", "reversal"):
            amounts = []
        elif plan.has_steps():
            amounts = [t.amount] if uses_amount(plan.operation) else []
            amounts += [a.amount for a in t.amounts]
        else:
            amounts = [t.amount]
        if any(amount <= 0 for amount in amounts):
            return "amount_not_positive"
        if any(amount > LONG_MAX for amount in amounts):
            return "amount_too_large"
        if plan.kind == "exchange" and rate_of(t.rate) is None:
            return "rate_invalid"
        if not free:
            return ""
        if not POSTINGS_MIN <= len(legs) <= POSTINGS_MAX:
            return "postings_count"
        net: dict[str, int] = {}
        for side, amount, currency in legs:
            net[currency] = net.get(currency, 0) + (amount if side == "debit" else -amount)
        return "postings_unbalanced" if any(net.values()) else ""

    @staticmethod
    def uninvited(t: Transaction, plan: Plan) -> str:
        """Rules about who may ask for the operation at all."""
        if plan.kind == "adjustment":
            return "" if t.partner_id == BANK else "not_permitted"
        callers = plan.operation.get("callers", ["partner"]) if plan.version else ["bank", "partner"]
        return "" if ("bank" if t.partner_id == BANK else "partner") in callers else "not_permitted"

    # ---- legs --------------------------------------------------------------------------------------------------------

    def lay_out(self, t: Transaction, plan: Plan) -> None:
        """Puts the legs into the plan, with the owner that a product's role says for each."""
        if is_free(t, plan):
            plan.legs = [(p.account_id, p.side, p.amount, p.currency or t.currency) for p in t.postings]
            plan.owners = [""] * len(plan.legs)
            return
        accounts = {r: self.accounts_of(t, plan, r) for r in plan.role_names()}
        rules = {r: plan.roles[r].get("owner", "") for r in accounts}
        for role, named in accounts.items():
            if "open" in plan.roles[role]:
                plan.opens.update((account, plan.roles[role]["open"]) for _, account in named)
        one = {r: named[0][1] for r, named in accounts.items()}
        plan.same = "payer" in one and one["payer"] == one.get("payee")
        if plan.has_steps():
            self._work_out(t, plan, accounts)
            return
        roles = ["payer", "payee"]
        plan.legs = [(one["payer"], "debit", t.amount, t.currency), (one["payee"], "credit", t.amount, t.currency)]
        if plan.kind == "exchange":
            roles = ["payer", "sold", "bought", "payee"]
            other = self.currency.get(one["payee"], "")
            other = "" if other == t.currency else other  # it must be another one: no account has the currency of ""
            n = bought(t.amount, t.currency, t.rate, other) if other else 0
            plan.legs = [
                plan.legs[0], (one["sold"], "credit", t.amount, t.currency), (one["bought"], "debit", n, other),
                (one["payee"], "credit", n, other),
            ]  # fmt: skip
        plan.owners = [rules[r] for r in roles]

    def _work_out(self, t: Transaction, plan: Plan, accounts: dict[str, list[tuple[str, str]]]) -> None:
        """The legs of a product's steps. In an account that is not the role's nobody looks what there is."""

        def there(role: str, account: str, side: str) -> int:
            whose = self.whose(t, plan, (account, side, 0, ""), plan.roles[role]["owner"])
            return self.available(account) if whose == HERE and account in self.type else 0

        def given(role: str, account: str) -> int:
            available = there(role, account, "debit")
            return -available if self.type.get(account) in DEBIT_NORMAL else available

        def owed(role: str, account: str) -> int:
            return there(role, account, "credit") if self.type.get(account) in DEBIT_NORMAL else 0

        amounts = {a.name: a.amount for a in t.amounts} | {"amount": t.amount}
        worked = Template(plan.operation, accounts, amounts, t.currency, given, owed).work_out()
        plan.legs, plan.late, plan.same = worked.legs, worked.why, worked.same
        plan.owners = [plan.roles[r]["owner"] for r in worked.roles]
        plan.asked = [(account, side, plan.roles[r]["owner"]) for account, side, r in worked.asked]

    # ---- accounts ----------------------------------------------------------------------------------------------------

    def whose(self, t: Transaction, plan: Plan, leg: Leg, rule: str) -> str:
        """How the asker stands to the account of a leg."""
        account, side, _, _ = leg
        asker, owner = t.partner_id, owner_of(account)
        root = root_of(owner)
        family = root == root_of(asker)
        if account.startswith(TRANSIT):
            return HIDDEN
        away = side == "credit" and plan.kind in CROSSES and self.is_away(root)
        if asker == BANK:
            if rule and (rule == "bank") != (root == BANK):
                return ALIEN if root == BANK else HIDDEN
            return AWAY if away and rule in ("", "any") else HERE  # of roles, only those of any partner cross
        if rule:
            right = {"caller": is_below(owner, asker), "tree": family, "any": root != BANK, "bank": root == BANK}[rule]
            if right:
                return AWAY if away else HERE
            return ALIEN if family or root == BANK else HIDDEN
        if root == BANK:
            return ALIEN if plan.kind == "entry" and side == "debit" else HERE
        if side == "debit":
            return HERE if is_below(owner, asker) else ALIEN if family else HIDDEN
        if plan.kind in ("hold", "exchange") and not family:
            return HIDDEN
        return AWAY if away else HERE

    def openable(self, plan: Plan, account: str, whose: str) -> bool:
        """Whether the account is there, or would be opened on first use: only one that is the role's is opened."""
        if account in self.type:
            return True
        owner = owner_of(account)
        return whose == HERE and account in plan.opens and is_account_name(account) and not self.denied(owner, "opens")

    def forbidden(self, t: Transaction, plan: Plan) -> str:
        """Rules about who may post to which account. Puts into the plan which legs are away."""
        legs, corrects = plan.legs, plan.kind == "adjustment"
        owners = plan.owners or [""] * len(legs)
        whose = [self.whose(t, plan, leg, rule) for leg, rule in zip(legs, owners, strict=True)]
        asked = [(a, self.whose(t, plan, (a, side, 0, ""), rule)) for a, side, rule in plan.asked]
        local = [leg for leg, w in zip(legs, whose, strict=True) if w != AWAY]
        looked_up = [(leg[0], w) for leg, w in zip(legs, whose, strict=True)] + asked
        if any(not self.openable(plan, a, w) for a, w in looked_up if w in (HERE, ALIEN)):
            return "account_unknown"
        if any(not is_account_name(leg[0]) for leg, w in zip(legs, whose, strict=True) if w == AWAY):
            return "account_unknown"
        if any(w in (ALIEN, HIDDEN) for _, w in looked_up):
            return "account_not_owned"
        if any(self.withheld(t.partner_id, owner_of(a), plan.kind) for a, side, _, _ in local if side == "debit"):
            return "owner_state"
        word = "repaid" if plan.kind in ("refund", "reversal") else "paid" if plan.kind in COUNTS else ""
        if word and any(self.unpaid(t.partner_id, a, word) for a, side, _, _ in local if side == "credit"):
            return "owner_state"
        if not corrects and any(self.kept_by(t.partner_id, a) for a, _, _, _ in local):
            return "owner_frozen"
        return self.unfit(local, corrects=corrects) or ("same_account" if plan.same else "")

    def unpaid(self, asker: str, account: str, word: str) -> bool:
        """Whether the account's owner may not be paid, or repaid."""
        owner = owner_of(account)
        return owner not in (asker, BANK) and bool(self.denied(owner, word))

    def unfit(self, legs: list[Leg], *, corrects: bool = False) -> str:
        """Rules about the accounts' own condition. `corrects`: an adjustment, which no block or freeze stops."""
        there = [leg for leg in legs if leg[0] in self.type]  # what is opened on first use is fit
        if any(self.closed[a] for a, _, _, _ in there):
            return "account_closed"
        if not corrects and any(self.frozen[a] for a, _, _, _ in there):
            return "account_frozen"
        if any(self.currency[a] != c for a, _, _, c in there):
            return "account_currency"
        if not corrects and any(side == "debit" and self.debits_blocked[a] for a, side, _, _ in there):
            return "debits_blocked"
        if not corrects and any(side == "credit" and self.credits_blocked[a] for a, side, _, _ in there):
            return "credits_blocked"
        return ""

    def unmovable(self, t: Transaction, plan: Plan) -> str:
        """What an exchange or a product's steps cannot do, looked at when the accounts are right."""
        if plan.kind in CROSSES and self.terms.partitions > 1:
            away = [leg for leg in plan.legs if leg[1] == "credit" and self.is_away(root_of(owner_of(leg[0])))]
            if any(n > LONG_MAX for n in self.transits(away).values()):
                return "amount_too_large"
        if plan.kind != "exchange":
            return plan.late
        if plan.legs[3][2] < 1:
            return "rate_invalid"
        return "amount_too_large" if plan.legs[3][2] > LONG_MAX else ""

    def transits(self, away: list[Leg]) -> dict[tuple[int, str], int]:
        """What goes to each other partition in each currency, minor units, in the order in which they appear."""
        out: dict[tuple[int, str], int] = {}
        for account, _, amount, currency in away:
            to = (self.terms.place(root_of(owner_of(account))), currency)
            out[to] = out.get(to, 0) + amount
        return out

    # ---- counters and limits -----------------------------------------------------------------------------------------

    def local_legs(self, plan: Plan) -> list[Leg]:
        """The legs of this partition."""
        if plan.kind not in CROSSES:
            return plan.legs
        return [leg for leg in plan.legs if leg[1] == "debit" or not self.is_away(root_of(owner_of(leg[0])))]

    def unaffordable(self, t: Transaction, plan: Plan) -> str:
        """Rules about the counters, counted after all legs and after what the transaction releases."""
        legs = self.local_legs(plan)
        crosses = len(legs) != len(plan.legs)
        released = {a: plan.release for a, _ in plan.hold.sides()} if plan.hold else {}
        debits, credits = sums(legs, "debit"), sums(legs, "credit")
        for account in {**debits, **credits}:
            opens = plan.opens.get(account, {}) if account not in self.type else {}
            kind = opens["type"] if opens else self.type[account]
            least = opens.get("min_available") if opens else self.floor(account)
            if opens and least is not None:
                least -= opens.get("credit_limit", 0)
            debit_normal = kind in DEBIT_NORMAL
            against, for_it = (credits, debits) if debit_normal else (debits, credits)
            if least is None or account not in against:
                continue
            more = 0 if crosses else for_it.get(account, 0)  # what is only pending in its favour does not count
            before = 0 if opens else self.available(account)
            if before + released.get(account, 0) + more - against[account] < least:
                return "insufficient_funds"
        pending = crosses or plan.kind == "hold"  # as a transfer would, and what is pending counts, too
        return "counter_overflow" if self.overflows(debits, credits, pending=pending) else ""

    def overflows(self, debits: dict[str, int], credits: dict[str, int], *, pending: bool) -> bool:
        """Whether a counter would pass what it may hold."""
        figures = [(self.debits, debits), (self.credits, credits)]
        if pending:
            figures += [(self.debits_pending, debits), (self.credits_pending, credits)]
        return any(counter.get(a, 0) + n > COUNTER_MAX for counter, more in figures for a, n in more.items())

    def asked_of(self, t: Transaction, plan: Plan) -> Asked:
        """The subjects whose limits count here, with their gross."""
        gross: Gross = {t.currency: t.amount} if t.amount else {}
        if not gross:
            for _, side, amount, currency in plan.legs:
                if side == "debit":
                    gross[currency] = gross.get(currency, 0) + amount
        limits = plan.version.limits if plan.version else ()
        return self.asked(t.partner_id, plan.legs, gross, t.product, limits)


def sums(legs: list[Leg], side: str) -> dict[str, int]:
    """Minor units by account on one side."""
    out: dict[str, int] = {}
    for account, s, amount, _ in legs:
        if s == side:
            out[account] = out.get(account, 0) + amount
    return out
