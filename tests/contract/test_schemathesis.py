"""Schemathesis over the whole OpenAPI document, against the application over the twin: every phase, the stateful one along
the links too. No server error, no answer that is not documented (status, type, headers, schema), nothing accepted that
the schema forbids, nothing without a credential, nothing after its end.

CLEARLINE_TEST_SCHEMATHESIS_CASES=50000 runs as many cases; 2,000 unless it is set. CLEARLINE_TEST_SCHEMATHESIS_SEED
chooses others.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from tests.contract.gateway_world import ACCOUNTS, PARTNERS, GatewayWorld

CASES = int(os.environ.get("CLEARLINE_TEST_SCHEMATHESIS_CASES", "2000"))
SEED = int(os.environ.get("CLEARLINE_TEST_SCHEMATHESIS_SEED", "1"))
ROUNDS_MAX = 50
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
    "amounts": (1, 100, 12_550, 2**63 - 1),
    "codes": ("insufficient_funds", "rate_limited", "no_such_code"),
}


def config(token: str, seed: int, examples: int) -> SchemathesisConfig:
    made = SchemathesisConfig.from_dict({
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
        "phases": {"examples": {"enabled": True}, "coverage": {"enabled": True}, "stateful": {"enabled": True}},
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
    return made


class Tally:
    """What came of a run."""

    def __init__(self) -> None:
        self.cases = 0
        self.statuses: Counter[int] = Counter()
        self.phases: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
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
        for node in r.cases.values():
            self.operations[node.value.operation.label] += 1
        for case_id, nodes in r.checks.items():
            for check in nodes:
                self.checks[check.name] += 1
                if check.status == Status.FAILURE and check.failure_info is not None:
                    failure = check.failure_info.failure
                    label = r.cases[case_id].value.operation.label
                    told = f"{check.name} {label}: {failure.title}: {failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault(f"{check.name} {label} {failure.title}", told)
        for interaction in r.interactions.values():
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1


def spared(token: str) -> Any:
    """A hook that keeps the run from revoking its own key, whose id it finds in the list of keys."""
    own = token.split("_")[1]

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        if (case.path_parameters or {}).get("key_id") == own:
            case.path_parameters["key_id"] = own[::-1]

    return before_call


def run(world: GatewayWorld, cases: int, seed: int) -> Tally:
    """Rounds with other seeds until so many cases were tried."""
    tally = Tally()
    logging.getLogger("schemathesis").setLevel(logging.ERROR)
    token = world.key("acme")
    hook = spared(token)
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
            "/openapi.json", world.app, config=config(token, seed + number, min(examples, 200))
        )
        for event in from_schema(schema).execute():
            tally.take(event)


@pytest.mark.timeout(max(600, CASES // 2))
def test_nothing_is_answered_that_is_not_documented_and_nothing_fails():
    tally = run(GatewayWorld(), CASES, SEED)
    print(f"{tally.cases} cases; {dict(tally.phases)}; answers {dict(sorted(tally.statuses.items()))}")
    assert not tally.errors, "\n".join(tally.errors[:20])
    assert not tally.failures, "\n\n".join(tally.failures.values())
    assert tally.cases >= CASES
    assert not [s for s in tally.statuses if s >= 500]
    assert {"examples", "coverage", "fuzzing", "stateful"} <= {p.lower().split()[0] for p in tally.phases}
