"""How does a study record the error that ended its sweep?"""

from __future__ import annotations

from peftsweep.errors import PeftsweepError


def in_a_line(error: BaseException) -> str:
    """An error as a study records it. If it is not meant for users, only its kind: its text may contain anything."""
    lines = str(error).splitlines() if isinstance(error, PeftsweepError) else []
    return lines[0] if lines else type(error).__name__
