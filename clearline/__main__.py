"""`python -m clearline`: the same as the `clearline` command."""

from __future__ import annotations

import sys

from clearline.cli import main

if __name__ == "__main__":
    sys.exit(main())
