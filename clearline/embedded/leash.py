"""Runs a command that cannot outlive its parent: `python -I -S leash.py PARENT_PID COMMAND...`.

On Linux the kernel is asked to kill this process when the thread that started it ends, however it ends (kill -9 too);
then the command replaces this process, which keeps the promise and the pid. It is a program of its own, not a
preexec_fn, because code between fork and exec is unsafe in a process with threads. Elsewhere it only replaces itself.
Imports nothing but ctypes and os, so that it costs some 15 ms.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main() -> None:
    """Ties, checks that the parent is still there, becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
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


if __name__ == "__main__":
    main()
