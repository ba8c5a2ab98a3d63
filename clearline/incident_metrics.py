"""What `clearline status` sees, for Prometheus: how many incidents of each code there are now.

The role `tieout` looks, because there is one of it and it speaks with every part anyway. It sees parts, topics and
schemas; how the other roles are Prometheus learns from themselves.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from clearline.config import Settings
from clearline.embedded.folder import DataFolder
from clearline.status.collect import Collector as Looks
from clearline.status.incidents import CODES
from streams.metric_names import Name
from streams.metrics import by_label, family

log = structlog.get_logger()

EVERY_S = 10.0


class IncidentWatch(Collector):
    """Looks every ten seconds, in a thread of its own, while it is entered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, name="incidents", daemon=True)
        self.counts: Counter[str] = Counter()
        self.looked_at = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(5)

    def _look_again_and_again(self) -> None:
        looks = Looks(self._settings, DataFolder(self._settings.data_dir))
        try:
            while not self._ended.wait(EVERY_S):
                try:
                    found = looks.collect()
                except Exception as e:  # it must not end whoever compares, and says when it last looked
                    log.warning("incidents are not known", why=str(e))
                    continue
                self.counts = Counter(i.code for i in found.incidents)
                self.looked_at = time.time()
        finally:
            looks.close()

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask before there is anything."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield by_label(Name.INCIDENTS, {code: self.counts[code] for code in CODES})
        yield family(Name.INCIDENTS_AT, self.looked_at)
