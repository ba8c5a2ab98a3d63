"""A trial of the runbook: one of its twelve incidents is made for real, and nobody is told which.

    CLEARLINE_DATA_DIR=FOLDER python -m tests.faults.incidents --inject random [--seed S]
    CLEARLINE_DATA_DIR=FOLDER python -m tests.faults.incidents --judge | --cure | --end

`--inject N` makes that of number N (1 to 12, in the order of INCIDENTS); of some there are several ways, which the seed
chooses. A stack is started where none runs, and one that runs is taken over, which starts it again: only its own
supervisor can keep a part down. Commands keep coming in, one a second. Whoever is tried has docs/OPERATING.md and the
command `clearline`, with the same CLEARLINE_DATA_DIR, and nothing else. `--judge` tells what it was; `--cure` takes it
back, and waits until all is well, so that the next can follow; `--end` stops everything, and removes what a trial made.

What was chosen stands packed in a folder of its own below the system's temporary folder, so that nobody reads it by
accident. A disk can only be filled where a trial started on a new data folder as root: then the broker has a small one.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clearline import detached
from clearline.config import Settings, load_settings, settings_env
from clearline.connection import connect
from clearline.embedded.folder import DataFolder
from clearline.embedded.process import create_time, same_process
from clearline.stack import python_path, resolved_settings
from clearline.status.collect import collect
from schemas.errors import ClearlineError
from schemas.records import OpenAccount
from tests.faults.injections import (
    INCIDENTS,
    PARTNER,
    DiskFull,
    Ground,
    IncidentStack,
    Injection,
    ReadOnly,
    SchemaRefused,
    TopicWrong,
    Zombie,
)
from tests.faults.small_disk import mount, remove
from tests.faults.stack import wait_for

BROKER_DISK_MB = 400
PATIENCE_S = 600.0  # a start, an injection or a cure; guards against a hang
_AGAIN_S = 1.0
_OUTSIDE = (DiskFull, ReadOnly, TopicWrong, SchemaRefused)  # can be cured by whoever is not the supervisor


class Secret:
    """What a trial knows, beside its data folder and not in it: packed JSON, one value a file."""

    def __init__(self, data: Path) -> None:
        named = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
        self.folder = Path(tempfile.gettempdir()) / f"clearline-trial-{named}"

    def put(self, name: str, value: Any) -> None:
        """Replaces it at once."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        draft = self.folder / f".{name}"
        draft.write_bytes(base64.b85encode(zlib.compress(json.dumps(value).encode())))
        draft.replace(self.folder / name)

    def get(self, name: str) -> Any:
        """None when there is none."""
        try:
            return json.loads(zlib.decompress(base64.b85decode((self.folder / name).read_bytes())))
        except OSError:
            return None

    def drop(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


# ---- the process that runs the stack ---------------------------------------------------------------------------------


class Host:
    """The supervisor of the stack, which takes orders: `inject` and `cure`."""

    def __init__(self, settings: Settings, secret: Secret) -> None:
        self.secret = secret
        self.ending = threading.Event()
        disk = _kafka(settings)
        self.ground = Ground(IncidentStack(settings), disk if disk.is_mount() else None)
        self.injection: Injection | None = None
        self._quiet = threading.Event()  # no commands come in while something is being changed

    def run(self) -> None:
        """Until SIGTERM, which `clearline down` sends."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ending.set())
        with self.ground.stack as stack:
            try:
                stack.start(roles=True)
            except ClearlineError as e:
                self.secret.put("done", str(e))
                return
            threading.Thread(target=self._traffic, daemon=True).start()
            self.secret.put("done", "")
            while not self.ending.wait(_AGAIN_S):
                if order := self.secret.get("order"):
                    self.secret.drop("order")
                    self.secret.put("done", self._obey(order))
                elif self.injection is not None:
                    self._go_on(self.injection)

    def _obey(self, order: dict[str, Any]) -> str:
        """Why it could not, or empty."""
        self._quiet.set()
        try:
            if order["what"] == "inject":
                self._inject(order["number"], order["seed"])
            elif self.injection is not None:
                self.injection.cure()
                self.injection = None
        except Exception as e:  # the one place: whatever it is, who waits for the answer gets it
            return f"{type(e).__name__}: {e}" if order["what"] == "cure" else "it could not be made: see --judge"
        finally:
            self._quiet.clear()
        return ""

    def _inject(self, number: int, seed: int) -> None:
        dice = random.Random(seed)
        ways = [(n, w) for n, made in INCIDENTS.items() for w in range(len(made)) if number in (0, n)]
        ways = [(n, w) for n, w in ways if not INCIDENTS[n][w](self.ground).impossible()]
        if not ways:
            raise ClearlineError(INCIDENTS[number][0](self.ground).impossible())
        # Each number is as likely as the others, however many ways there are to make it.
        drawn = dice.choice(sorted({n for n, _ in ways}))
        drawn, way = dice.choice([x for x in ways if x[0] == drawn])
        self.injection = made = INCIDENTS[drawn][way](self.ground)
        what = {"number": drawn, "way": way, "seed": seed, "code": made.named, "why": type(made).__doc__, "named": None}
        self.secret.put("secret", what)
        made.inject()
        if isinstance(made, Zombie) and made.stranger is not None:
            what["stranger"] = [made.stranger.pid, create_time(made.stranger.pid)]
        self.secret.put("secret", {**what, "at": time.time()})

    def _go_on(self, injection: Injection) -> None:
        """Keeps it up, and notes when status named it first."""
        with suppress(ClearlineError):
            injection.keep_up()
        what = self.secret.get("secret") or {}
        if what.get("named") is None and "at" in what:
            found = collect(self.ground.stack.settings, self.ground.stack.folder)
            if any(i.code == injection.named for i in found.incidents):
                self.secret.put("secret", {**what, "named": time.time()})

    def _traffic(self) -> None:
        publisher = None
        while not self.ending.wait(_AGAIN_S):
            if self._quiet.is_set():
                continue
            try:
                publisher = publisher or connect(self.ground.settings).publisher(delivery_timeout_s=5.0)
                account = OpenAccount(PARTNER, f"t-{time.time_ns()}", f"{PARTNER}:wallet:a", "liability", "CNY", 0)
                publisher.publish(account)
                publisher.flush(6.0)
            except ClearlineError:
                publisher = None


# ---- who gives the orders --------------------------------------------------------------------------------------------


def _kafka(settings: Settings) -> Path:
    return DataFolder(settings.data_dir).part("kafka")


def _hosted(settings: Settings, secret: Secret) -> bool:
    """Whether the stack's supervisor is a trial's."""
    run, host = detached.running(DataFolder(settings.data_dir)), secret.get("host")
    return run is not None and host is not None and run["supervisor"]["pid"] == host


def _start_host(settings: Settings, secret: Secret) -> None:
    """A stack under a trial's own supervisor; one of another supervisor is stopped first."""
    folder = Path(settings.data_dir)
    detached.stop(settings)
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        mount(_kafka(settings), BROKER_DISK_MB)
        (folder / "clearline.json").write_text('{"format": 1, "components": {}}')
        secret.put("made", True)
    secret.drop("done")
    secret.drop("order")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.incidents", "--host"],
        env={**os.environ, **settings_env(settings), **python_path()},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    secret.put("host", process.pid)
    _await_done(secret, lambda: process.poll() is None)


def _order(secret: Secret, order: dict[str, Any], alive: Callable[[], bool]) -> None:
    secret.drop("done")
    secret.put("order", order)
    _await_done(secret, alive)


def _await_done(secret: Secret, alive: Callable[[], bool]) -> None:
    """Waits until the host has done what it was told. Raises ClearlineError when it could not."""

    def done() -> bool:
        if secret.get("done") is None and not alive():
            raise ClearlineError("the stack ended meanwhile")
        return secret.get("done") is not None

    wait_for("the stack of the trial", done, PATIENCE_S, 0.2)
    if said := secret.get("done"):
        raise ClearlineError(said)


def _await_well(settings: Settings) -> None:
    folder = DataFolder(settings.data_dir)

    def well() -> bool:
        found = collect(settings, folder)
        return found.healthy and all(r.state == "ready" and not r.waiting_for for r in found.roles)

    wait_for("a system that is well: `clearline status` says what is not", well, PATIENCE_S, 0.5)


def inject(settings: Settings, secret: Secret, number: int, seed: int) -> None:
    """Prints nothing of what it does. Raises ClearlineError or TimeoutError."""
    if not _hosted(settings, secret):
        _start_host(settings, secret)
    _await_well(settings)
    _order(secret, {"what": "inject", "number": number, "seed": seed}, lambda: _hosted(settings, secret))
    print("Something is wrong now. Begin with `clearline status` and docs/OPERATING.md; `--judge` tells what it was.")


def judge(secret: Secret) -> None:
    """Raises ClearlineError when nothing was injected."""
    what = secret.get("secret")
    if what is None:
        raise ClearlineError("nothing was injected on this data folder")
    print(
        f"incident {what['number']}, {what['code']} (docs/OPERATING.md#{what['code'].replace('_', '-')}): {what['why']}"
    )
    if "at" not in what:
        print(f"seed {what['seed']}; it could not be made")
        return
    at = datetime.fromtimestamp(what["at"], UTC).strftime("%H:%M:%S")
    named = f"named by status {what['named'] - what['at']:.1f} s later" if what["named"] else "status did not name it"
    print(f"seed {what['seed']}, made at {at} UTC, {named}")


def cure(settings: Settings, secret: Secret) -> None:
    """Raises ClearlineError when it cannot be taken back, TimeoutError when all is not well after it."""
    what = secret.get("secret") or {}
    if _hosted(settings, secret):
        _order(secret, {"what": "cure"}, lambda: _hosted(settings, secret))
    elif detached.running(DataFolder(settings.data_dir)) is None:
        raise ClearlineError("no stack runs here: start it with `clearline up`, or end the trial with --end")
    elif what:  # the stack was stopped and started meanwhile: what a supervisor holds is over
        _end_stranger(what)
        injection = INCIDENTS[what["number"]][what["way"]](_Outside(settings))
        if isinstance(injection, _OUTSIDE):
            injection.cure()
    _await_well(settings)
    print("All is well.")


class _Outside(Ground):
    """The ground as it is seen by who does not supervise it."""

    def __init__(self, settings: Settings) -> None:
        disk = _kafka(settings)
        super().__init__(IncidentStack(settings), disk if disk.is_mount() else None)

    @property
    def settings(self) -> Settings:
        return resolved_settings(self.stack.settings)


def _end_stranger(what: dict[str, Any]) -> None:
    pid, created = what.get("stranger", (None, None))
    if process := same_process(pid, created):
        process.kill()


def end(settings: Settings, secret: Secret) -> None:
    """Stops everything. A data folder that a trial made is removed with its small disk."""
    detached.stop(settings)
    _end_stranger(secret.get("secret") or {})
    if secret.get("made"):
        remove(Path(settings.data_dir))
    shutil.rmtree(secret.folder, ignore_errors=True)
    print("Everything is stopped.")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.incidents", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--inject", metavar="N|random", choices=["random", *map(str, INCIDENTS)])
    for name in ("judge", "cure", "end", "host"):
        what.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS if name == "host" else None)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args(arguments)
    settings = load_settings()
    secret = Secret(Path(settings.data_dir))
    try:
        if options.host:
            Host(settings, secret).run()
        elif options.judge:
            judge(secret)
        elif options.cure:
            cure(settings, secret)
        elif options.end:
            end(settings, secret)
        else:
            inject(settings, secret, 0 if options.inject == "random" else int(options.inject), options.seed)
    except (ClearlineError, TimeoutError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
