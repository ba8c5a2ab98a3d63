"""What all tests share: the mark of those that need a running part, and how hard hypothesis looks.

HYPOTHESIS_PROFILE chooses the latter: `ci` unless set; `long`, which `./run test --long` sets; `quick`.
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

_INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in tests/integration needs a running part."""
    for item in items:
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.stack)
