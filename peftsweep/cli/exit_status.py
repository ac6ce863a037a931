"""What does a command print when it fails or is interrupted, and which status does it exit with?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from peftsweep.safe_text.quoting import bounded
from peftsweep.system import error_report
from peftsweep.system.command_line import this_command
from peftsweep.system.signals import number_of, stopped_by_signals
from peftsweep.system.terminal import say


def report(error: BaseException, debug: bool) -> int:
    """Print the error's message; returns the exit status."""
    if isinstance(error, typer.TyperException):
        if message := error.format_message().rstrip("."):  # empty if the help was shown instead
            command = getattr(getattr(error, "ctx", None), "command_path", "peftsweep")
            say(f"error: {bounded(message)}; see {command} --help", sys.stderr)
        return error.exit_code
    return error_report.report(error, debug)


@contextmanager
def exit_on_signal(outcome: str = "everything is kept. To resume") -> Iterator[None]:
    """After a signal, print how to resume, and exit with the signal's status. Signals are handled from here on, not
    only during training: the imports of a sweep alone take seconds."""
    with stopped_by_signals() as stop:
        try:
            yield
            return
        except KeyboardInterrupt as ended:
            number = number_of(ended)
        except Exception:
            if stop.number is None:
                raise
            number = stop.number  # a library that was interrupted while importing raises an error of its own
    say(f"stopped; {outcome}: {this_command()}", sys.stderr)
    raise typer.Exit(128 + number)
