"""Where each role serves /metrics, /healthz and /readyz: one scheme of ports for all roles (docs/metrics.md).

The same numbers on one machine and in containers, so one setting is enough, and a scrape configuration can be written
without asking anybody.
"""

from __future__ import annotations

from clearline import __version__
from clearline.config import Settings
from streams.metrics import MetricsAddress

# Added to CLEARLINE_METRICS__PORT; of roles of which there are several, the slot comes to it.
ROLE_PORTS = {
    "worker": 0, "gateway": 64, "webhooks": 128, "sink-clickhouse": 192, "sink-redis": 193, "sealer": 194,
    "tieout": 195,
}  # fmt: skip


def metrics_address(settings: Settings, role: str, slot: int = 0) -> MetricsAddress:
    """Where this role serves, from the settings."""
    m = settings.metrics
    return MetricsAddress(
        m.host, m.port + ROLE_PORTS[role] + slot if m.port else 0, m.lag_s_max, settings.world, __version__,
        settings.data_dir,
    )  # fmt: skip
