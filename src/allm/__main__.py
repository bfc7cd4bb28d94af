"""`python -m allm`: the command line."""

from __future__ import annotations

from allm.ext.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
