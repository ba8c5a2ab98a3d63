"""What all tests share: the mark of those that need a running part, how hard hypothesis looks, and how brokers are compiled.

HYPOTHESIS_PROFILE chooses how hard: `ci` unless set; `long`, which `./run test --long` sets; `quick`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

# No deadlines: the machine is shared, and a slow example is not a wrong one. A failure prints its blob to replay it.
settings.register_profile("ci", deadline=None, print_blob=True, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile(
    "long", deadline=None, print_blob=True, suppress_health_check=_SLOW_IS_FINE, max_examples=5_000
)
settings.register_profile("quick", deadline=None, max_examples=20, phases=(Phase.explicit, Phase.generate))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A broker of a test lives a minute: what the second compiler would do for the next hours costs more than it gives back.
# Starting, making 60 topics and taking 15,000 records in 150 transactions took 14.6 s of processor with it, 6.2 s without.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

_INTEGRATION, _CONTRACT = (Path(__file__).parent / name for name in ("integration", "contract"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in tests/integration needs a running part. Elsewhere only tests of a contract may: `./run test` looks
    for them nowhere else."""
    for item in items:
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.stack)
        elif item.get_closest_marker("stack") and _CONTRACT not in item.path.parents:
            raise pytest.UsageError(
                f"{item.nodeid} needs a running part: it belongs into tests/contract or tests/integration"
            )
