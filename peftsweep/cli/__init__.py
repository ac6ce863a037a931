"""What does `peftsweep` do around each command? `main` masks secrets, runs the command and reports its errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from peftsweep.cli.app import app
from peftsweep.cli.exit_status import report
from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import remember_words
from peftsweep.system import error_report
from peftsweep.system.command_line import command
from peftsweep.system.garbage import collected_seldom, keep_until_exit
from peftsweep.system.terminal import masked_streams, open_standard_streams

__all__ = ["app", "main", "quiet"]


def main() -> None:
    """Run the command. An error becomes one message on stderr and an exit status."""
    debug = "--debug" in sys.argv or bool(os.environ.get("PEFTSWEEP_DEBUG"))
    open_standard_streams()
    with masked_streams() as out, command(sys.argv[1:]), collected_seldom():
        if not debug:
            quiet()
        try:
            _check_arguments(sys.argv[1:])
            status = app(prog_name="peftsweep", standalone_mode=False)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # tokenizers and safetensors panic with errors that are not Exceptions
            status = report(error, debug)
        out.flush()
        if out.lost is not None and not status:
            status = error_report.report_lost_output(out.lost)
    keep_until_exit()
    sys.exit(status)


def _check_arguments(words: list[str]) -> None:
    """Register the secrets in the arguments, so that they are masked, and reject arguments that are not UTF-8."""
    remember_words(words)
    given = [os.environ.get(name, "") for name in ("PEFTSWEEP_STORAGE", "MLFLOW_TRACKING_URI")]
    for word in [*words, *given]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{quoted(os.fsencode(word))} is not UTF-8; names, addresses and texts must be") from None


def quiet() -> None:
    """Silence what libraries log for developers. Call it before they are imported: some check only then."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # several libraries set their own loggers' levels when they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
