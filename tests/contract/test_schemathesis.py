"""Schemathesis over the whole OpenAPI document, against the application over the twin: every phase, the stateful one along
the links too. No server error, no answer that is not documented (status, type, headers, schema), nothing accepted that
the schema forbids, nothing without a credential, nothing after its end.

CLEARLINE_TEST_SCHEMATHESIS_CASES=50000 runs as many cases; 2,000 unless it is set. CLEARLINE_TEST_SCHEMATHESIS_SEED
chooses others.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from itertools import count
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from clearline.gateway.openapi.operations import OPERATIONS
from tests.contract.gateway_world import ACCOUNTS, PARTNERS, GatewayWorld

CASES = int(os.environ.get("CLEARLINE_TEST_SCHEMATHESIS_CASES", "2000"))
SEED = int(os.environ.get("CLEARLINE_TEST_SCHEMATHESIS_SEED", "1"))
ROUNDS_MAX = 50
# What nobody brings about by calls alone: a receiver that answers, a delivery that failed, an inspection passed.
NEVER_WELL = {
    "POST /v1/webhooks/{webhook_id}/verify", "POST /v1/onboarding/go-live",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
}  # fmt: skip
# Of what there is in the world: drawn at random, nobody would ever find it. The rest of the draws stays wild.
KNOWN: dict[str, tuple[Any, ...]] = {
    "acting": ("acme", "acme", "acme/shop-17", "acme/shop-17/desk"),
    "waits": ("wait=1", "wait=1", "wait=0"),
    "accounts": ACCOUNTS,
    "new_accounts": tuple(f"acme:wallet:new-{i}" for i in range(20)),
    "partners": PARTNERS,
    "products": ("wallet", "scan-to-pay", "payment", "deposit"),
    "operations": ("transfer", "hold", "entry", "capture", "refund"),
    "currencies": ("CNY", "CNY", "USD"),
    "amounts": (1, 100, 12_550, 2**63 - 1, 770_000_036, 770_000_041),
    "codes": ("insufficient_funds", "rate_limited", "no_such_code"),
}


def config(token: str, seed: int, examples: int, *, first: bool) -> SchemathesisConfig:
    """`first`: also the phases that would do the same again."""
    return SchemathesisConfig.from_dict({
        "seed": seed,
        "headers": {"Authorization": f"Bearer {token}"},
        "generation": {
            "max-examples": examples, "with-security-parameters": False, "no-shrink": True, "deterministic": False,
            "database": "none",
        },
        "checks": {
            # What is in order by itself may still be refused by the ledger: which is what most drawn amounts come to.
            "positive_data_acceptance": {"enabled": False},
        },
        # A batch takes what is no transaction, and answers that entry with its own 422: that is what a batch is for.
        "operations": [{
            "include-operation-id": "post_transactions",
            "checks": {"negative_data_rejection": {"expected-statuses": ["200", "4xx"]}},
        }],
        "phases": {
            "examples": {"enabled": first}, "coverage": {"enabled": first}, "fuzzing": {"enabled": True},
            "stateful": {"enabled": True, "generation": {"max-examples": 3 * examples}},
        },
        "workers": 1,
        "dictionaries": {name: {"values": list(values)} for name, values in KNOWN.items()},
        "parameters": {
            name: {"dictionary": dictionary, "probability": probability}
            for name, dictionary, probability in (
                ("header.Clearline-Partner", "acting", 0.9), ("header.Prefer", "waits", 0.9), ("path.account_id", "accounts", 0.7),
                ("path.partner_id", "partners", 0.7), ("path.product", "products", 0.7), ("body.product", "products", 0.8),
                ("body.operation", "operations", 0.8), ("body.currency", "currencies", 0.9), ("body.amount", "amounts", 0.5),
                ("body.account_id", "new_accounts", 0.5), ("path.code", "codes", 0.5),
            )
        },
    })  # fmt: skip


class Tally:
    """What came of a run."""

    def __init__(self) -> None:
        self.cases = 0
        self.statuses: Counter[int] = Counter()
        self.phases: Counter[str] = Counter()
        self.by: dict[str, Counter[int]] = defaultdict(Counter)  # operation -> statuses
        self.checks: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.errors: list[str] = []

    def take(self, event: Any) -> None:
        if isinstance(event, events.NonFatalError):
            self.errors.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            self.errors.append(repr(event.exception))
        elif isinstance(event, events.ScenarioFinished):
            self._scenario(event)

    def _scenario(self, event: events.ScenarioFinished) -> None:
        r = event.recorder
        self.cases += len(r.cases)
        self.phases[event.phase.value] += len(r.cases)
        for case_id, nodes in r.checks.items():
            for check in nodes:
                self.checks[check.name] += 1
                if check.status == Status.FAILURE and check.failure_info is not None:
                    failure = check.failure_info.failure
                    label = r.cases[case_id].value.operation.label
                    told = f"{check.name} {label}: {failure.title}: {failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault(f"{check.name} {label} {failure.title}", told)
        for case_id, interaction in r.interactions.items():
            if interaction.response is not None and case_id in r.cases:
                status = interaction.response.status_code
                self.statuses[status] += 1
                self.by[r.cases[case_id].value.operation.label][status] += 1


def steered(token: str) -> Any:
    """A hook that gives three in four writes a key of their own, because drawn keys are mostly alike and so conflicts,
    and keeps the run from revoking its own credential, whose id it finds in the list of keys."""
    own = token.split("_")[1]
    numbers = count()

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        if (case.path_parameters or {}).get("key_id") == own:
            case.path_parameters["key_id"] = own[::-1]
        key = (case.headers or {}).get("Idempotency-Key")
        number = next(numbers)
        if isinstance(key, str) and 1 <= len(key) <= 128 and key.isascii() and key.isprintable() and number % 4:
            case.headers["Idempotency-Key"] = f"s-{number}"

    return before_call


def run(world: GatewayWorld, cases: int, seed: int) -> Tally:
    """Rounds with other seeds until so many cases were tried."""
    tally = Tally()
    logging.getLogger("schemathesis").setLevel(logging.ERROR)
    token = world.key("acme")
    hook = steered(token)
    schemathesis.hook(hook)
    try:
        _rounds(world, tally, cases, seed, token)
    finally:
        schemathesis.hooks.unregister(hook)
    return tally


def _rounds(world: GatewayWorld, tally: Tally, cases: int, seed: int, token: str) -> None:
    for number in range(ROUNDS_MAX):
        if tally.cases >= cases or tally.failures:
            break
        examples = max(3, (cases - tally.cases) // 60)
        schema = schemathesis.openapi.from_asgi(
            "/openapi.json", world.app, config=config(token, seed + number, min(examples, 200), first=not number)
        )
        for event in from_schema(schema).execute():
            tally.take(event)
        print(f"round {number}: {tally.cases} cases, {len(tally.failures)} failures", flush=True)


@pytest.mark.stack  # reports are asked of a real ClickHouse
@pytest.mark.no_cover  # tracing doubles its time, and the tests of each route cover its lines
@pytest.mark.timeout(max(600, CASES // 2))
def test_nothing_is_answered_that_is_not_documented_and_nothing_fails():
    tally = run(GatewayWorld(), CASES, SEED)
    print(f"{tally.cases} cases; {dict(tally.phases)}; answers {dict(sorted(tally.statuses.items()))}")
    assert not tally.errors, "\n".join(tally.errors[:20])
    assert not tally.failures, "\n\n".join(tally.failures.values())
    assert tally.cases >= CASES
    assert not [s for s in tally.statuses if s >= 500]
    labels = {f"{method} {path}" for method, path in OPERATIONS} - {"GET /openapi.json"}  # where all of this is from
    assert set(tally.by) == labels
    never = {label for label in labels if not any(s < 300 for s in tally.by[label])}
    assert never <= NEVER_WELL, f"these were never answered well, so what they do was not looked at: {never}"
    assert {"examples", "coverage", "fuzzing", "stateful"} <= {p.lower().split()[0] for p in tally.phases}
