"""A ClickHouse whose disk is full keeps its tables: nobody changes their definitions while there is no room for the file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from schemas.errors import NO_SPACE, ClearlineError, PartUnavailableError
from sinks import migrate
from sinks.fence import take_over
from tests.faults.full_disk import fill, small_disk
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack
TABLES = ("outcomes", "postings")


def test_a_sink_does_not_take_over_while_the_disk_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, 200))
        except ClearlineError as e:
            pytest.skip(str(e))
        server = ClickHouseServer(folder)
        stack.callback(server.stop)
        server.start()
        migrate.apply(server.config("clearline_live"))
        db = server.database("clearline_live")
        stack.callback(db.close)
        first = take_over(db, TABLES)
        fill(folder / "filler")
        with pytest.raises(PartUnavailableError, match=r"ClickHouse at .* has no space left: 0 MB are free") as caught:
            take_over(db, TABLES)
        assert caught.value.code == NO_SPACE
        (folder / "filler").unlink()
        assert take_over(db, TABLES) != first
