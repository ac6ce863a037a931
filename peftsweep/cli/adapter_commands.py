"""Which commands export an adapter, and use it?"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from peftsweep.cli.exit_status import exit_on_signal
from peftsweep.cli.options import AsJson, Debug, Storage
from peftsweep.system.default_places import STORAGE
from peftsweep.system.terminal import say_data, say_lines_of_json


def export(
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to create.")],
    study: Annotated[str, typer.Option(help="Name of the study.")],
    trial: Annotated[int | None, typer.Option(min=0, help="Export this trial instead of the best one.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into the base's weights (not with a base in 4 bits).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier export.")] = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Export an adapter with everything needed to use it. Stock peft scores it again first."""
    with exit_on_signal("nothing was written. To try again"):
        from peftsweep import export, progress

        display = progress.for_stream(sys.stderr)
        export.export(study, folder, trial=trial, storage=storage, merge=merge, force=force, note=display.note)
    display.note(f"exported to {folder}; to use it: peftsweep predict {shlex.quote(str(folder))} --text '…'")


def predict(
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="Folder that `export` wrote.")],
    text: Annotated[list[str] | None, typer.Option(help="Text to label. Repeatable.")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="File of texts to label: CSV, TSV, JSONL or Parquet.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write. Without it, JSON lines are printed.")] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the texts. By default the one used in training.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of --input if it is CSV, TSV or JSONL.")] = "utf-8",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the base. Read it first.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Label texts with an exported adapter."""
    if (source is None) == (not text):
        raise typer.BadParameter("give either --text (once or several times) or --input")
    if source is None and (output or column):
        raise typer.BadParameter("--output and --column need --input")
    if output and as_json:
        raise typer.BadParameter("--json prints to stdout, --output writes a file; give only one of them")
    if not all(each.strip() for each in text or []):
        raise typer.BadParameter("--text: the text is empty")
    with exit_on_signal("nothing was written. To try again"):
        _predict(folder, text or [], source, output, column, encoding, trust_remote_code, as_json)


def _predict(
    folder: Path,
    text: list[str],
    source: Path | None,
    output: Path | None,
    column: str | None,
    encoding: str,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    from peftsweep import export, progress

    if source is None:
        predictions = export.Classifier(folder, trust_remote_code=trust_remote_code).predict(text)
        if as_json:
            rows = [{"text": text, **asdict(each)} for text, each in zip(text, predictions, strict=True)]
            say_lines_of_json([json.dumps(rows, indent=2, ensure_ascii=False)], sys.stdout)
        else:
            say_data(
                "\n".join(progress.prediction(each.labels, each.probabilities) for each in predictions), sys.stdout
            )
        return
    bar, display = partial(progress.bar, sys.stderr), progress.for_stream(sys.stderr)
    lines = export.predict_file(
        folder,
        source,
        output,
        column=column,
        encoding=encoding,
        trust_remote_code=trust_remote_code,
        bar=bar,
        warn=display.warn,
        note=display.note,
    )
    if as_json:
        say_lines_of_json(["[", ",\n".join(lines), "]"], sys.stdout)
    elif lines:
        say_lines_of_json(lines, sys.stdout)
