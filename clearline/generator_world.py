"""The partners and accounts of a generated world: who exists before the first transaction, and what they own.

Everything follows from one seed. Aggregators are roots with sub-partners below them; load is Zipf-skewed over roots and
over each root's tree, so that a few partners carry most of the day, as in a real bank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random

from ledger.money import EXPONENTS
from schemas.identity import BANK, root_of
from schemas.records import AdmitPartner, BlockAccount, Command, OpenAccount, Posting, SetPartnerState, Transaction

CURRENCIES = ("CNY", "USD", "EUR", "JPY", "KWD")
_CURRENCY_SHARE = (0.6, 0.16, 0.12, 0.07, 0.05)
# What one unit of each is worth in CNY, in thousandths: only to make amounts and exchanges look sane.
RATE_MILLI = {"CNY": 1_000, "USD": 7_100, "EUR": 7_700, "JPY": 47, "KWD": 23_100}
_FIRST = (
    "amber", "birch", "cedar", "coral", "delta", "ember", "fern", "golden", "harbor", "indigo", "jade", "kestrel",
    "lotus", "maple", "north", "ocean", "pearl", "quartz", "river", "silver", "tiger", "union", "velvet", "willow",
)  # fmt: skip
_LAST = ("bazaar", "cloud", "foods", "freight", "health", "learn", "mall", "market", "pay", "ride", "stay", "works")
_BELOW = ("shop", "store", "branch", "studio", "outlet")
_FUNDING_LEGS_MAX = 200


class GenAccount:
    """An account as the generator sees it: `balance` is what it predicts, minor units."""

    __slots__ = ("account_id", "balance", "currency")

    def __init__(self, account_id: str, currency: str) -> None:
        self.account_id = account_id
        self.currency = currency
        self.balance = 0


class GenPayment:
    """A hold or a payment that later commands point at: `left` is what can still be captured or given back."""

    __slots__ = ("key", "left", "payer")

    def __init__(self, key: str, payer: GenAccount, left: int) -> None:
        self.key = key
        self.payer = payer
        self.left = left


class GenPartner:
    """A partner with its accounts. `wallets` are its customers', `till` takes payments, `pool` is held in escrow.

    `holds` are open, for its till; `payments` are its customers' to its till.
    """

    __slots__ = (
        "blocked", "currency", "holds", "partner_id", "payments", "pool", "root", "till", "treasury", "wallets",
    )  # fmt: skip

    def __init__(self, partner_id: str, currency: str) -> None:
        self.partner_id = partner_id
        self.root = root_of(partner_id)
        self.currency = currency
        self.wallets: list[GenAccount] = []
        self.till = GenAccount(f"{partner_id}:settlement:till", currency)
        self.pool = GenAccount(f"{partner_id}:escrow:pool", currency)
        self.treasury: tuple[GenAccount, GenAccount] | None = None  # roots that exchange: both currencies
        self.blocked: GenAccount | None = None
        self.holds: list[GenPayment] = []
        self.payments: list[GenPayment] = []

    def accounts(self) -> list[GenAccount]:
        """Its accounts, in the order in which they are opened."""
        return [*self.wallets, self.till, self.pool, *(self.treasury or ()), *([self.blocked] if self.blocked else [])]


class World:
    """Partners, accounts and the load of each. `partners_max` and `accounts_max` bound their numbers."""

    def __init__(self, seed: int, partners_max: int, accounts_max: int, hot_share: float = 0.0) -> None:
        if partners_max < 1 or accounts_max < 5 * partners_max:
            raise ValueError("a world needs at least 1 partner, and 5 accounts for each")
        if not 0.0 <= hot_share <= 1.0:
            raise ValueError("hot_share is a part of the load, 0 to 1")
        self.seed = seed
        rng = Random(f"world {seed}")
        self.partners: list[GenPartner] = []
        self.suspended: list[GenPartner] = []
        weights: list[float] = []
        roots = max(1, round(partners_max / 6))
        for rank, root_id in enumerate(_names(rng, roots)):
            tree = self._tree(rng, root_id, partners_max * (rank + 1) // roots - partners_max * rank // roots)
            load = _root_load(rank, roots, hot_share)
            parts = [1 / (i + 1) for i in range(len(tree))]
            weights += [load * part / sum(parts) for part in parts]
            self.partners += tree
        self.cumulative: list[float] = list(accumulate(weights))
        self.siblings: dict[tuple[str, str], list[GenPartner]] = {}
        for p in self.partners:
            self.siblings.setdefault((p.root, p.currency), []).append(p)
        self._open(rng, weights, accounts_max)

    @staticmethod
    def _tree(rng: Random, root_id: str, size: int) -> list[GenPartner]:
        currency = rng.choices(CURRENCIES, _CURRENCY_SHARE)[0]
        tree = [GenPartner(root_id, currency)]
        for i in range(1, size):
            above = root_id
            if i > 2 and rng.random() < 0.15:  # a chain of shops: one level deeper
                above = tree[rng.randrange(1, min(i, 3))].partner_id
            own = currency if rng.random() < 0.85 else rng.choice(CURRENCIES)
            tree.append(GenPartner(f"{above}/{rng.choice(_BELOW)}-{i}", own))
        return tree

    def _open(self, rng: Random, weights: list[float], accounts_max: int) -> None:
        """Gives each partner customers in proportion to its load, at least two."""
        spare = accounts_max - 5 * len(self.partners)
        total = sum(weights)
        for p, weight in zip(self.partners, weights, strict=True):
            number = 2 + int(spare * weight / total)
            p.wallets = [GenAccount(f"{p.partner_id}:wallet:c{i:05d}", p.currency) for i in range(number)]
            if number > 3:
                p.blocked = p.wallets.pop()
            if p.partner_id == p.root and number > 4:
                other = rng.choice([c for c in CURRENCIES if c != p.currency])
                del p.wallets[-2:]
                p.treasury = (
                    GenAccount(f"{p.root}:treasury:{p.currency.lower()}", p.currency),
                    GenAccount(f"{p.root}:treasury:{other.lower()}", other),
                )
        # A few sub-partners were suspended; their transactions are refused.
        self.suspended = [
            p for p in self.partners[1:] if p.partner_id != p.root and rng.random() < 0.04 and not self._has_children(p)
        ]
        for p in self.suspended:
            i = self.partners.index(p)
            before = self.cumulative[i - 1] if i else 0.0
            self.cumulative[i:] = [c - (self.cumulative[i] - before) for c in self.cumulative[i:]]
            self.siblings[p.root, p.currency].remove(p)

    def _has_children(self, p: GenPartner) -> bool:
        return any(q.partner_id.startswith(p.partner_id + "/") for q in self.partners)

    def accounts(self) -> int:
        """How many accounts there are, the bank's not counted."""
        return sum(len(p.accounts()) for p in self.partners)

    def setup(self, day: int, *, by_bank: bool = False) -> Iterator[Command]:
        """The commands that make this world, in the order in which they must be given.

        `day`: value date, days. `by_bank`: the bank brings the opening balances in, by product `wallet`.
        """
        number = 0

        def key() -> str:
            nonlocal number
            number += 1
            return f"{self.seed}-setup-{number}"

        for currency in CURRENCIES:
            for name, kind in (("clearing", "asset"), ("position", "asset"), ("fees", "income")):
                yield OpenAccount(BANK, key(), f"bank:{name}:{currency}", kind, currency, None)
        for p in self.partners:
            yield AdmitPartner(BANK, key(), p.partner_id, p.partner_id.rpartition("/")[2].replace("-", " ").title())
        for p in self.partners:
            for a in p.accounts():
                yield OpenAccount(p.partner_id, key(), a.account_id, "liability", a.currency, 0)
            yield from self._fund(p, day, key, by_bank)
            if p.blocked is not None:
                yield BlockAccount(BANK, key(), p.blocked.account_id, True, False, note="court order")
        for p in self.suspended:
            yield SetPartnerState(BANK, key(), p.partner_id, "suspended", "risk", "inspection")

    def _fund(self, p: GenPartner, day: int, key: Callable[[], str], by_bank: bool) -> Iterator[Transaction]:
        asker, product, operation = (BANK, "wallet", "entry") if by_bank else (p.partner_id, "deposit", "transfer")
        by_currency: dict[str, list[GenAccount]] = {}
        for a in p.accounts():
            by_currency.setdefault(a.currency, []).append(a)
        for currency, accounts in by_currency.items():
            for i in range(0, len(accounts), _FUNDING_LEGS_MAX - 1):
                some = accounts[i : i + _FUNDING_LEGS_MAX - 1]
                each = opening_amount(currency)
                for a in some:
                    a.balance = each
                legs = [Posting(f"bank:clearing:{currency}", "debit", each * len(some), currency)]
                legs += [Posting(a.account_id, "credit", each, currency) for a in some]
                yield Transaction(
                    asker, key(), product, operation, 0, currency, {}, tuple(legs), day, "opening balances",
                )  # fmt: skip


def opening_amount(currency: str) -> int:
    """What every account starts with: about 5,000 CNY, in minor units of its currency."""
    return int(5_000 * 1_000 * 10 ** EXPONENTS[currency] // RATE_MILLI[currency])


def _root_load(rank: int, roots: int, hot_share: float) -> float:
    """Zipf's law with exponent 1.1; with `hot_share`, the first root has just that share, the others are equals."""
    if not hot_share:
        zipf: list[float] = [1 / (r + 1) ** 1.1 for r in range(roots)]
        return zipf[rank] / sum(zipf)
    if roots == 1:
        return 1.0
    return hot_share if rank == 0 else (1 - hot_share) / (roots - 1)


def _names(rng: Random, number: int) -> list[str]:
    names = [f"{a}-{b}" for a in _FIRST for b in _LAST]
    rng.shuffle(names)
    return [names[i] if i < len(names) else f"{names[i % len(names)]}-{i // len(names) + 1}" for i in range(number)]
