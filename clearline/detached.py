"""The stack in the background: `up` starts a supervisor that outlives the terminal, `restart` ends a part, `down` all.

The supervisor is this same command with --foreground; it says in run.json (in the data folder) what it runs, and that
file is all that `status`, `restart` and `down` need.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from clearline.config import Settings, settings_env
from clearline.embedded.folder import DataFolder, end_all
from clearline.embedded.process import State, same_process
from clearline.stack import check_world, components, python_path, supervisor_of
from schemas.errors import BadInputError, ClearlineError

START_S = 240.0
STOP_S = 60.0
END_S = 15.0  # of one part or role, before it is killed


def running(folder: DataFolder) -> dict[str, Any] | None:
    """What run.json says, when its supervisor lives; None when nothing is supervised."""
    run = folder.read_run()
    if run is None or supervisor_of(run) is None:
        return None
    return run


def running_here(settings: Settings) -> dict[str, Any] | None:
    """The run on the settings' folder; None when nothing runs there. Raises ClearlineError when it serves another
    world than the settings'."""
    run = running(DataFolder(settings.data_dir))
    if run is not None:
        check_world(settings, run)
    return run


def start(settings: Settings, progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Starts the supervisor and waits until everything serves; returns its run. `progress` is called with each state.

    Raises ClearlineError with the supervisor's own sentence when the start fails; then nothing is left running.
    """
    folder = DataFolder(settings.data_dir)
    folder.check(components())
    try:
        folder.logs.mkdir(parents=True, exist_ok=True)
        log_path = folder.logs / "supervisor.log"
        log = log_path.open("ab")
    except OSError as e:
        sentence = f"the data folder {settings.data_dir} cannot be used: {e.strerror}; set CLEARLINE_DATA_DIR"
        raise ClearlineError(sentence) from None
    with log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "clearline", "up", "--foreground"],
            env={**os.environ, **settings_env(settings), **python_path()},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        return _wait_up(folder, process, progress, lambda: _said(log_path, begin))
    except BaseException:
        if process.poll() is None:  # Ctrl-C, or it took too long: whatever came up goes down again
            process.terminate()
            process.wait(STOP_S)
        raise


def _wait_up(
    folder: DataFolder,
    process: subprocess.Popen[bytes],
    progress: Callable[[dict[str, Any]], None],
    said: Callable[[], str],
) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise StartFailedError(said() or f"the supervisor ended with code {code}; see {folder.logs}", code)
        run = folder.read_run() or {}
        if run.get("supervisor", {}).get("pid") == process.pid:
            progress(run)
            if run.get("state") == "running":
                return run
        time.sleep(0.1)
    raise ClearlineError(f"the stack did not come up within {START_S:.0f} s; see {folder.logs}")


class StartFailedError(ClearlineError):
    """The supervisor gave up; its exit code is ours."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code if code in (1, 2, 3) else 3


def _said(log_path: Any, begin: int) -> str:
    """The supervisor's last error sentence in its log."""
    with log_path.open("rb") as log:
        log.seek(begin)
        lines = log.read().decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else ""


def stop(settings: Settings) -> bool:
    """Stops everything of the data folder and waits until it is gone. False when nothing was running.

    Raises ClearlineError when a process stays.
    """
    folder = DataFolder(settings.data_dir)
    run = folder.read_run()
    supervisor = supervisor_of(run) if run else None
    if supervisor is not None:
        supervisor.terminate()
        try:
            supervisor.wait(STOP_S)
        except psutil.TimeoutExpired:
            supervisor.kill()
    left = end_all(folder.leftovers())
    if left:
        raise ClearlineError(f"processes that do not end: {', '.join(str(p.pid) for p in left)}")
    return supervisor is not None


def restart(settings: Settings, names: Sequence[str], progress: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Ends parts or roles of the running stack, one after the other, and waits for each until its successor serves;
    returns both pids and the seconds by name. `progress` is called with each name before.

    One that is paused is woken to end; one that does not end within 15 s is killed, which is as safe. Raises
    BadInputError for a name that the stack does not have, ClearlineError when nothing of this world runs or no
    successor comes.
    """
    running_here(settings)
    folder = DataFolder(settings.data_dir)
    _children(folder, names)  # a wrong name is told before anything ends
    return {name: _restart_one(folder, name, progress) for name in dict.fromkeys(names)}


@contextmanager
def paused(settings: Settings, prefix: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Pauses the roles of the stack whose names begin with `prefix`, if one runs, and starts them again at the end."""
    run = running(DataFolder(settings.data_dir)) or {"roles": {}}
    names = [name for name in run["roles"] if name.startswith(prefix)]
    try:
        for name in names:
            process = same_process(run["roles"][name]["pid"], run["roles"][name]["create_time"])
            if process is not None:
                process.suspend()
        yield
    finally:
        if names:
            restart(settings, names, progress)


def _restart_one(folder: DataFolder, name: str, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(name)
    began, child = time.monotonic(), _children(folder, [name])[name]
    process = same_process(child["pid"], child["create_time"])
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            process.resume()
            try:
                process.wait(END_S)
            except psutil.TimeoutExpired:
                process.kill()
    while time.monotonic() - began < START_S:
        now = _children(folder, [name])[name]
        if now["state"] == State.READY and now["create_time"] != child["create_time"]:
            return {"ended": child["pid"], "pid": now["pid"], "seconds": round(time.monotonic() - began, 2)}
        time.sleep(0.05)
    raise ClearlineError(f"{name} does not come back: it is {now['state']}; {now['error'] or 'it has said nothing'}")


def _children(folder: DataFolder, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    run = running(folder)
    if run is None:
        raise ClearlineError(f"nothing runs on {folder.root}; `clearline up` starts it")
    known = {**run.get("parts", {}), **run.get("roles", {})}
    for name in names:
        if name not in known:
            raise BadInputError(f"name: {name} is not part of this stack; it runs {', '.join(known)}")
    return {name: known[name] for name in names}
