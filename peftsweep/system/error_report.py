"""What does a command print when an error ends it?"""

from __future__ import annotations

import os
import re
import sys
import traceback

from peftsweep.errors import PeftsweepError
from peftsweep.safe_text.quoting import PATH, bounded, shortened
from peftsweep.system.terminal import say


def report(error: BaseException, debug: bool) -> int:
    """Print what went wrong, in one line unless the message has several; returns the exit status.

    Args:
        debug: print the traceback instead.
    """
    if debug:
        say("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    else:
        say(bounded(f"error: {_message(error)}"), sys.stderr)
    return error.exit_status if isinstance(error, PeftsweepError) else 1


def _message(error: BaseException) -> str:
    if isinstance(error, PeftsweepError):
        return str(error)
    said = f"{type(error).__name__}: {error}"
    if library := _not_loaded(error):
        names = ", ".join(_variables(error)[:3])
        hint = f"it may be the variable {names}" if names else "is it installed whole, and are its variables right?"
        return f"{library} cannot be loaded: {shortened(' '.join(said.split()), PATH)}; {hint}"
    return f"{said} (this should not happen: run it again with --debug to see where)"


def _not_loaded(error: BaseException) -> str | None:
    """The library whose import failed; None if the error came from elsewhere."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and library not in ("peftsweep", "__main__"):
            return library
    return None


def _variables(error: BaseException) -> list[str]:
    """Environment variables whose value is a word in the error: libraries read theirs while they are imported. Values
    that are paths are left out, since an error shows many paths; so are numbers without quotation marks."""
    text = str(error)
    shown = {word[1:-1] for word in re.findall(r"'[^']*'|\"[^\"]*\"", text)}
    shown |= {word for word in re.findall(r"[^\s'\",:;()]+", text) if not word.isdecimal()}
    return [name for name, value in os.environ.items() if len(value) > 1 and "/" not in value and value in shown]


def report_lost_output(why: OSError) -> int:
    """Print that stdout could not be written, unless its reader closed the pipe; returns the exit status."""
    if not isinstance(why, BrokenPipeError):
        say(f"error: stdout cannot be written: {why.strerror or why}", sys.stderr)
    return 1
