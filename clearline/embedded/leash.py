"""Runs a command that cannot outlive its parent: `python -I -S leash.py [--nice N] PARENT_PID COMMAND...`.

On Linux the kernel is asked to kill this process when the thread that started it ends, however it ends (kill -9 too);
then the command replaces this process, which keeps the promise and the pid. It is a program of its own, not a
preexec_fn, because code between fork and exec is unsafe in a process with threads. Elsewhere it only replaces itself.

With `--nice` the command also yields the processor to those without it. Linux may group processes by session and share
the processor between groups; then niceness counts within the group only, and the group's own is set as well.

Imports next to nothing, so that it costs some 15 ms.
"""

import os
import sys
import time

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main() -> None:
    """Ties, checks that the parent is still there, becomes the command."""
    arguments = sys.argv[1:]
    if arguments[0] == "--nice":
        _step_back(int(arguments[1]))
        arguments = arguments[2:]
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        print(f"cannot run {command[0]}: {e.strerror}", file=sys.stderr)
        sys.exit(127)


def _step_back(niceness: int) -> None:
    """Lets others go first, as far as this system has a way to say so."""
    try:
        os.nice(niceness)
    except OSError:
        return
    for _ in range(20):
        try:
            with open("/proc/self/autogroup", "w") as group:
                group.write(str(niceness))
            return
        except BlockingIOError:  # the kernel takes ten a second from all users that are not root
            time.sleep(0.1)
        except OSError:
            return


if __name__ == "__main__":
    main()
