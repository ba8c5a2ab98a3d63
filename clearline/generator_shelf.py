"""The same day with products on the shelf: each transaction asks for what its product offers, fees and splits included.

Here money crosses between root partners, so between partitions; the bank brings deposits in; fees are worked out by
the product, and foreseen here by hand. What comes to another root's till is not counted on: it arrives when it does.
"""

from __future__ import annotations

from msgspec.structs import replace

from clearline.generator import Day, keep
from clearline.generator_world import RATE_MILLI, GenAccount, GenPartner, GenPayment, World
from clearline.product_file import read_product, shelf_files
from ledger.money import EXPONENTS
from schemas.identity import BANK
from schemas.records import NamedAmount, PublishProduct, Transaction

_RATE_DIGITS = 8


def shelf_of(seed: int) -> tuple[PublishProduct, ...]:
    """The products that come with Clearline as the commands that publish them."""
    files = [read_product(file) for file in shelf_files()]
    return tuple(
        PublishProduct(BANK, f"{seed}-shelf-{f.product}", f.product, f.version, 0, f.text, "products", "the shelf")
        for f in files
    )


class ShelfDay(Day):
    """Draws the transactions of a world whose shelf holds the twelve products of `products/`."""

    def __init__(self, world: World, faults: float, day: int) -> None:
        super().__init__(world, faults, True, day)
        self._roots = [p for p in world.partners if p.partner_id == p.root]
        self._add_shapes((0.05, self._send), (0.02, self._sweep), (0.02, self._reward))
        self._refusals = (
            *self._refusals, *(self._to_nobody_elsewhere,) * 2, self._unknown_product, self._foreign_currency,
            self._unknown_role, self._missing_role, self._other_decimals, self._too_much_at_once,
        )  # fmt: skip

    # What settles.

    def _top_up(self, p: GenPartner, wallet: GenAccount | None = None) -> Transaction:
        """A deposit that has arrived at the bank."""
        wallet = wallet or self._wallet(p)
        amount = 10 * self._amount(p.currency)
        wallet.balance += amount
        return self._asked(BANK, "wallet", "top_up", amount, p.currency, {"recipient": wallet.account_id})

    def _scan_to_pay(self, p: GenPartner) -> Transaction:
        payer, amount = self._wallet(p), self._amount(p.currency)
        if payer.balance < amount:
            return self._top_up(p, payer)
        if self.rng.random() < 0.4:
            paid = self._move(p, "scan-to-pay", payer, p.till, amount)
            keep(p.payments, GenPayment(paid.idempotency_key, payer, amount))
            return paid
        near = self.world.siblings[p.root, p.currency]
        shop = near[int(self.rng.random() * len(near))]
        fee = max(1, (amount * 6 + 500) // 1_000)
        if fee >= amount:
            return self._transfer(p)
        payer.balance -= amount
        shop.till.balance += amount - fee
        roles = {"payer": payer.account_id, "merchant": shop.till.account_id}
        return self._asked(p.partner_id, "scan-to-pay", "pay", amount, p.currency, roles)

    def _send(self, p: GenPartner) -> Transaction:
        """From a customer to the till of any other root in the same currency, wherever it lives."""
        payer, amount = self._wallet(p), self._amount(p.currency)
        others = [q for q in self._roots if q.root != p.root and q.currency == p.currency]
        if payer.balance < amount or not others:
            return self._top_up(p, payer)
        payer.balance -= amount
        roles = {"payer": payer.account_id, "recipient": self.rng.choice(others).till.account_id}
        return self._asked(p.partner_id, "wallet", "send", amount, p.currency, roles)

    def _pay_out(self, p: GenPartner) -> Transaction:
        amount = p.till.balance // 2
        if amount < 1:
            return self._top_up(p)
        p.till.balance -= amount
        return self._asked(p.partner_id, "payment", "pay_out", amount, p.currency, {"payer": p.till.account_id})

    def _split(self, p: GenPartner) -> Transaction:
        """Escrow released to several shops of the tree; what is left after the fee goes to the partner's till."""
        near = self.world.siblings[p.root, p.currency]
        number = 2 + self.rng.getrandbits(2)
        amount = self._amount(p.currency) * number
        if p.pool.balance < amount:
            p.pool.balance += amount * 4
            return self._asked(BANK, "escrow", "deposit", amount * 4, p.currency, {"pool": p.pool.account_id})
        p.pool.balance -= amount
        each = amount // (number + 1)
        if not each:
            return self._top_up(p)
        shops = {f"payees.{i}": near[int(self.rng.random() * len(near))].till for i in range(1, number + 1)}
        for shop in shops.values():
            shop.balance += each
        p.till.balance += amount - each * number - amount // 1_000  # the fee is at most a thousandth
        roles = {"pool": p.pool.account_id, "rest": p.till.account_id, **{n: a.account_id for n, a in shops.items()}}
        amounts = tuple(NamedAmount(name, each) for name in sorted(shops))
        return self._asked(p.partner_id, "escrow", "split", amount, p.currency, roles, amounts)

    def _exchange(self, p: GenPartner) -> Transaction:
        if p.treasury is None:
            return self._top_up(p)
        sold, bought = p.treasury if p.treasury[0].balance > p.treasury[1].balance else p.treasury[::-1]
        give, unit = sold.balance // 20, 10**_RATE_DIGITS
        rate = RATE_MILLI[sold.currency] * unit // RATE_MILLI[bought.currency]
        here, there = 10 ** EXPONENTS[sold.currency], 10 ** EXPONENTS[bought.currency]
        take = (2 * give * rate * there + unit * here) // (2 * unit * here)
        if give < 1 or take < 1:
            return self._top_up(p)
        sold.balance -= give
        bought.balance += take
        roles = {"payer": sold.account_id, "payee": bought.account_id}
        text = f"{rate // unit}.{rate % unit:0{_RATE_DIGITS}d}"
        return self._asked(BANK, "treasury", "exchange", give, sold.currency, roles, rate=text)

    def _sweep(self, p: GenPartner) -> Transaction:
        """All that two tills of the tree have goes to the root's treasury, in one entry."""
        header = next((a for a in p.treasury or () if a.currency == p.currency), None)
        near = [q.till for q in self.world.siblings[p.root, p.currency]][:3]
        moved = sum(till.balance for till in near)
        if header is None or moved < 1:
            return self._top_up(p)
        for till in near:
            till.balance = 0
        header.balance += moved
        roles = {"header": header.account_id, **{f"accounts.{i}": a.account_id for i, a in enumerate(near, 1)}}
        return self._asked(p.partner_id, "treasury", "sweep", 0, p.currency, roles)

    def _reward(self, p: GenPartner) -> Transaction:
        """Interest on a customer's account, which the first deposit opens."""
        amount = 1 + self._amount(p.currency) // 100
        account = f"{p.partner_id}:e-account:s{self.rng.getrandbits(6):02d}"
        return self._asked(BANK, "e-account", "deposit", amount, p.currency, {"account": account})

    def _asked(
        self, partner_id: str, product: str, operation: str, amount: int, currency: str, accounts: dict[str, str],
        amounts: tuple[NamedAmount, ...] = (), rate: str = "", exponent: int = -1,
    ) -> Transaction:  # fmt: skip
        self._number += 1
        n = self._number
        return Transaction(
            partner_id, f"{self.world.seed}-{n}", product, operation, amount, currency, accounts, (), self.day,
            f"{operation} {n}", amounts=amounts, rate=rate, exponent=exponent,
        )  # fmt: skip

    # What is refused.

    def _unbalanced(self, p: GenPartner) -> tuple[Transaction, str]:
        made, reason = super()._unbalanced(p)
        return replace(made, operation="entry"), reason

    def _to_nobody_elsewhere(self, p: GenPartner) -> tuple[Transaction, str] | None:
        """The other root has no such account: the other partition says so, or this one."""
        payer = self._wallet(p)
        others = [q for q in self._roots if q.root != p.root]
        if payer.balance < 1 or not others:
            return None
        roles = {"payer": payer.account_id, "recipient": f"{self.rng.choice(others).partner_id}:wallet:nobody"}
        return self._asked(p.partner_id, "wallet", "send", 1, p.currency, roles), "account_unknown"

    def _unknown_product(self, p: GenPartner) -> tuple[Transaction, str]:
        return replace(self._draft(p, 1), product="lottery"), "product_unknown"

    def _foreign_currency(self, p: GenPartner) -> tuple[Transaction, str]:
        return replace(self._draft(p, 1, currency="GBP"), product="scan-to-pay"), "product_currency"

    def _unknown_role(self, p: GenPartner) -> tuple[Transaction, str]:
        made = self._draft(p, 1)
        return replace(made, accounts={**made.accounts, "broker": p.till.account_id}), "role_unknown"

    def _missing_role(self, p: GenPartner) -> tuple[Transaction, str]:
        return replace(self._draft(p, 1), accounts={"payer": p.wallets[0].account_id}), "role_missing"

    def _other_decimals(self, p: GenPartner) -> tuple[Transaction, str]:
        return replace(self._draft(p, 1), exponent=EXPONENTS[p.currency] + 1), "exponent_mismatch"

    def _too_much_at_once(self, p: GenPartner) -> tuple[Transaction, str] | None:
        """More than scan-to-pay takes in one transaction, where somebody has so much."""
        rich = max(p.accounts(), key=lambda a: a.balance)
        payee = p.till if rich is not p.till else p.wallets[0]
        if rich is p.blocked or rich.currency != payee.currency or rich.currency != "CNY" or rich.balance < 500_001:
            return None
        made = self._draft(p, 500_001, payer=rich.account_id, payee=payee.account_id)
        return replace(made, product="scan-to-pay"), "limit_exceeded"
