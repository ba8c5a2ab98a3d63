"""Toxiproxy between the roles and a part: what a network does when it is not well, one toxic at a time.

The server is `toxiproxy-server` on the path, or made once by Go (`go install`, kept in the cache folder).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from clearline.config import load_settings
from clearline.embedded import leash
from clearline.embedded.probes import HOST, port_open
from tests.faults.stack import wait_for

MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
_GO = ("go", "/usr/local/go/bin/go")


def find_server() -> Path | None:
    """The server's executable; None when there is none and no Go to make it."""
    on_path = shutil.which("toxiproxy-server")
    if on_path:
        return Path(on_path)
    made = load_settings().cache_dir / "toxiproxy-2.12.0" / "server"
    go = next((g for name in _GO if (g := shutil.which(name))), None)
    if not made.exists() and go is not None:
        env = {**os.environ, "GOBIN": str(made.parent)}
        subprocess.run([go, "install", MODULE], env=env, capture_output=True, timeout=300, check=False)
    return made if made.exists() else None


def find_server_or_tell() -> Path | None:
    """The same; says on standard error that there is none."""
    server = find_server()
    if server is None:
        print("there is no toxiproxy-server on the path and no Go to make it", file=sys.stderr)
    return server


class Toxiproxy:
    """A server with its proxies. Use it with `with`: it ends it."""

    def __init__(self, server: Path, port: int) -> None:
        self._url = f"http://{HOST}:{port}"
        self._http = httpx.Client(base_url=self._url, timeout=10, trust_env=False)
        command = [str(server), "-host", HOST, "-port", str(port)]
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
        self._process = subprocess.Popen(leashed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("toxiproxy to serve", lambda: port_open(port), 30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._http.close()

    def proxy(self, name: str, listen: int, upstream: int) -> None:
        """Passes on what comes at port `listen` to port `upstream`."""
        document = {"name": name, "listen": f"{HOST}:{listen}", "upstream": f"{HOST}:{upstream}", "enabled": True}
        self._ask("POST", "/proxies", document)

    def poison(self, name: str, toxic: str, stream: str, **attributes: int) -> None:
        """A toxic on a proxy; `stream`: upstream (to the part), downstream (from it) or both."""
        for way in ("upstream", "downstream") if stream == "both" else (stream,):
            self._ask("POST", f"/proxies/{name}/toxics", {"type": toxic, "stream": way, "attributes": attributes})

    def cut(self, name: str) -> None:
        """Ends all connections and takes no more."""
        self._ask("POST", f"/proxies/{name}", {"enabled": False})

    def heal(self) -> None:
        """Every proxy passes on everything again."""
        self._ask("POST", "/reset", {})

    def _ask(self, method: str, path: str, document: dict[str, Any]) -> None:
        self._http.request(method, path, json=document).raise_for_status()
