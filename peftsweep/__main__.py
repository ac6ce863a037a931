"""`python -m peftsweep`."""

from __future__ import annotations

from peftsweep.cli import main

main()
