"""Packets that are lost on the way to a port and from it, by nftables: what Toxiproxy cannot do, because it answers.

The rules live in a table that belongs to one `nft` process (`flags owner`): the kernel takes them away with it, however
this run ends. Needs Linux 5.12, the right to change the packet filter, and `nft`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import TracebackType
from typing import Self

from clearline.embedded import leash
from tests.faults.stack import wait_for

_PORT_OF = {"upstream": "dport", "downstream": "sport"}


class Lossy:
    """Drops packets of loopback ports. Use it with `with`: it takes its rules away. Raises TimeoutError without `nft`'s
    obedience."""

    def __init__(self) -> None:
        self._table = f"inet clearline_{os.getpid()}"
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(shutil.which("nft")), "-i"]
        self._nft = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._tell(
            f"add table {self._table} {{ flags owner; }}",
            f"add chain {self._table} out {{ type filter hook output priority 0; }}",
        )
        wait_for("nft to make its table", lambda: self._rules() is not None, 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nft.kill()
        self._nft.wait()

    def drop(self, port: int, percent: int, stream: str) -> None:
        """Loses so many of 100 packets from now on; `stream`: upstream (to the port), downstream (from it) or both."""
        ways = ("upstream", "downstream") if stream == "both" else (stream,)
        lost = "drop" if percent >= 100 else f"numgen random mod 100 < {percent} drop"
        self._tell(*(f"add rule {self._table} out tcp {_PORT_OF[way]} {port} {lost}" for way in ways))
        wait_for("nft to drop packets", lambda: len(self._rules() or ()) == len(ways), 10)

    def heal(self) -> None:
        """Nothing is lost any more."""
        self._tell(f"flush chain {self._table} out")
        wait_for("nft to drop nothing", lambda: self._rules() == [], 10)

    def _tell(self, *commands: str) -> None:
        assert self._nft.stdin is not None
        self._nft.stdin.write("".join(f"{c}\n" for c in commands).encode())
        self._nft.stdin.flush()

    def _rules(self) -> list[str] | None:
        """The rules that the kernel has, None without the table."""
        chain = ["nft", "list", "chain", *self._table.split(), "out"]
        found = subprocess.run(chain, capture_output=True, text=True, timeout=10, check=False)
        return [x for x in found.stdout.splitlines() if x.endswith(" drop")] if found.returncode == 0 else None


def can_drop() -> bool:
    """Whether packets can be dropped here."""
    if sys.platform != "linux" or shutil.which("nft") is None:
        return False
    try:
        with Lossy():
            return True
    except TimeoutError:
        return False
