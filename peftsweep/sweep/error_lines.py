"""How does a study record the error that ended its sweep?"""

from __future__ import annotations

from peftsweep.errors import PeftsweepError


def in_a_line(error: BaseException) -> str:
    """An error for a study's record: of one that is not for users only its kind, since anything may be in its text."""
    lines = str(error).splitlines() if isinstance(error, PeftsweepError) else []
    return lines[0] if lines else type(error).__name__
