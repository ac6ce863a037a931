"""Which commands does `peftsweep` have?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from peftsweep import __version__
from peftsweep.cli.adapter_commands import export, predict
from peftsweep.cli.options import Debug
from peftsweep.cli.study_commands import best, compare, retrain, run, status, stop, sync, ui
from peftsweep.errors import UsageError
from peftsweep.system.terminal import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hyperparameter sweeps of parameter-efficient fine-tuning, dozens of trials on one frozen base.",
)
for command in (run, retrain, best, status, stop, compare, export, predict, sync, ui):  # in the order of --help
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"peftsweep {__version__}", sys.stdout)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    try:
        Path.cwd()
    except OSError as error:  # libraries would end the whole process
        raise UsageError(
            f"the working folder does not exist ({error.strerror}); change to another one with cd"
        ) from None
