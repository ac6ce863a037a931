"""The command line: sweep, look, export, predict. It computes nothing; it asks, prints and sets the exit status."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from peftsweep import __version__
from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import bounded, quoted
from peftsweep.safe_text.secrets import remember_words
from peftsweep.system import error_report
from peftsweep.system.signals import Stopped, stopped_by_signals
from peftsweep.system.terminal import masked_streams, open_standard_streams, say, say_data, say_json, say_lines_of_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hyperparameter sweeps of parameter-efficient fine-tuning, dozens of trials on one frozen base.",
)


def main() -> None:
    """Run the command; what went wrong is one message on stderr and an exit status."""
    debug = "--debug" in sys.argv or bool(os.environ.get("PEFTSWEEP_DEBUG"))
    open_standard_streams()
    with masked_streams() as out:
        if not debug:
            quiet()
        try:
            _heed(sys.argv[1:])
            status = app(prog_name="peftsweep", standalone_mode=False)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a panic of tokenizers or safetensors is no Exception
            status = _told(error, debug)
        out.flush()
        if out.lost is not None and not status:
            status = error_report.unread(out.lost)
    sys.exit(status)


def _heed(words: list[str]) -> None:
    """Know the secrets among the command's words, and refuse what is no text."""
    remember_words(words)
    given = [os.environ.get(name, "") for name in ("PEFTSWEEP_STORAGE", "MLFLOW_TRACKING_URI")]
    for word in [*words, *given]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{quoted(os.fsencode(word))} is not UTF-8, as every name, address and text must be"
            ) from None


def _told(error: BaseException, debug: bool) -> int:
    """Say what went wrong; returns the exit status."""
    if isinstance(error, typer.TyperException):
        if said := error.format_message().rstrip("."):  # nothing, where the help was shown in its place
            command = getattr(getattr(error, "ctx", None), "command_path", "peftsweep")
            say(f"error: {bounded(said)}; {command} --help shows what there is", sys.stderr)
        return error.exit_code
    return error_report.failed(error, debug)


def quiet() -> None:
    """Keep to themselves what libraries say to their own developers. Before they are imported: some look only then."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # several raise their own loggers' levels when they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _duration(text: str) -> float:
    """Seconds of `2h`, `30m`, `90s`, `1h30m`, `90`."""
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", text)
    if not text or match is None:
        raise typer.BadParameter(f"expected a time such as 2h, 30m, 90s or 1h30m, got {quoted(text)}")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def _slots(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:  # Python reads no number of thousands of digits
        raise typer.BadParameter(f"expected auto or a whole number of at least 1, got {quoted(text)}")
    return int(text)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"peftsweep {__version__}", sys.stdout)
        raise typer.Exit


Study = Annotated[list[str], typer.Option("--study", help="A name in sweeps/, or a path to a study file. Repeatable.")]
Studies = Annotated[
    list[str] | None, typer.Option("--study", help="Name of a study to include; by default all. Repeatable.")
]
Slots = Annotated[
    Any, typer.Option(parser=_slots, metavar="K|auto", help="Trials at once. auto: as many as the GPU holds.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study file: train.epochs=5. Repeatable."),
]
Storage = Annotated[
    str,
    typer.Option(envvar="PEFTSWEEP_STORAGE", help="Where the studies are: an SQLite file or a PostgreSQL database."),
]
Tracking = Annotated[
    str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Where MLflow keeps its runs: an SQLite file or a server.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", envvar="PEFTSWEEP_DEBUG", help="Show tracebacks and all warnings.")]
STORAGE, TRACKING = "sqlite:///studies.db", "sqlite:///mlflow.db"


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    try:
        Path.cwd()
    except OSError as error:  # where it was removed, libraries end the whole process
        raise UsageError(f"the working folder is not there ({error.strerror}): go to another one by cd") from None


@app.command()
def run(
    study: Study,
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials, including earlier runs.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=_duration, metavar="TIME", help="Stop starting new trials after this long: 2h, 30m, 90s, 1h30m."
        ),
    ] = None,
    slots: Slots = "auto",
    settings: Settings = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    debug: Debug = False,
) -> None:
    """Run a study, or go on with it where it stopped. Several studies run one after the other."""
    with _ended_by_signals():
        configs = [_config(name, settings) for name in study]  # all are right before the first one begins

        from peftsweep import progress, sweep

        for config in configs:
            shown = progress.for_stream(sys.stderr)
            result = sweep.run(
                config,
                trials=trials,
                timeout=timeout,
                slots=slots,
                storage=storage,
                tracking_uri=tracking_uri,
                progress=shown,
            )
            best = result.best
            score = None if best is None else (best.trial, getattr(best, best.objective))
            adapter = None if best is None else best.adapter
            shown.note(progress.finished(config.name, result.counts, score, adapter, config.search.objective))
            if result.seconds:
                shown.note(progress.spent(result.seconds))
            if result.interrupted is not None:
                raise Stopped(result.interrupted)


@app.command()
def retrain(
    study: Annotated[str, typer.Option(help="A name in sweeps/, or a path to a study file; it has been run.")],
    seeds: Annotated[
        int, typer.Option(min=2, help="Total number of seeds for each configuration, including earlier ones.")
    ] = 5,
    top: Annotated[int, typer.Option(min=1, help="Number of the study's best configurations to train.")] = 3,
    slots: Slots = "auto",
    settings: Settings = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a study's best configurations again with fresh seeds: mean ± standard deviation, and the test split."""
    with _ended_by_signals():
        config = _config(study, settings)

        from peftsweep import progress, sweep

        shown = progress.for_stream(sys.stderr)
        result = sweep.retrain(
            config, seeds=seeds, top=top, slots=slots, storage=storage, tracking_uri=tracking_uri, progress=shown
        )
        if result.seconds:
            shown.note(progress.spent(result.seconds))
        if result.interrupted is not None:
            raise Stopped(result.interrupted)
        _print(result.rows, as_json, progress.retrained_table)


def _config(study: str, settings: list[str] | None) -> Any:
    """The study of a file. Mistakes in it, and in the data that it names, are found before anything slow begins."""
    from peftsweep.config import load
    from peftsweep.data import mistakes

    return load(study, settings or (), check=mistakes)


@contextmanager
def _ended_by_signals(said: str = "everything is kept. To go on") -> Iterator[None]:
    """After a signal, say how to go on, and leave as a process does that it has ended. Heard from here on: the imports
    of a sweep alone take seconds."""
    with stopped_by_signals() as stop:
        try:
            yield
            return
        except KeyboardInterrupt as ended:
            number = ended.number if isinstance(ended, Stopped) else signal.SIGINT
        except Exception:
            if stop.number is None:
                raise
            number = stop.number  # a library, interrupted in its import, makes another error of it
    command = shlex.join(["peftsweep", *sys.argv[1:]])
    say(f"stopped; {said}: {command}", sys.stderr)
    raise typer.Exit(128 + number)


@app.command()
def best(study: Studies = None, storage: Storage = STORAGE, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show the best trial of every study; of those on the same validation rows, the best first and marked."""
    from peftsweep import progress
    from peftsweep.study import results
    from peftsweep.study.status import status as statuses

    warn = progress.for_stream(sys.stderr).warn
    rows = [row.as_dict() for row in results.best(storage, study, warn=warn)]
    begun = bool(rows) or bool(statuses(storage, study))
    nothing = "no trial is complete yet; peftsweep status shows how far they are" if begun else _no_studies(storage)
    _print(rows, as_json, progress.best_table, nothing)


@app.command()
def status(storage: Storage = STORAGE, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show how far every study is: trials by state, running or stopped, the best value, the time spent."""
    from peftsweep import progress
    from peftsweep.study.status import status as statuses

    warn = progress.for_stream(sys.stderr).warn
    _print(statuses(storage, warn=warn), as_json, progress.status_table, _no_studies(storage))


@app.command()
def compare(
    study: Studies = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File of the page; by default among the artifacts."),
    ] = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw all studies side by side, one HTML page, and keep it in MLflow too."""
    from peftsweep import progress, sweep

    found = sweep.compare(
        studies=study,
        storage=storage,
        tracking_uri=tracking_uri,
        output=output,
        note=progress.for_stream(sys.stderr).warn,
    )
    if as_json:
        say_json(found.as_dict(), sys.stdout)
    else:
        say(str(found.page), sys.stdout)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to make.")],
    study: Annotated[str, typer.Option(help="Name of the study.")],
    trial: Annotated[int | None, typer.Option(min=0, help="Number of a trial, in place of the best one.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="A plain model, the adapter in its weights (no qlora).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that an earlier export made.")] = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Write an adapter with all that it takes to use it, after scoring it again by stock peft."""
    with _ended_by_signals("nothing is left. To do it again"):
        from peftsweep import export, progress

        shown = progress.for_stream(sys.stderr)
        export.export(study, folder, trial=trial, storage=storage, merge=merge, force=force, note=shown.note)
    shown.note(f"{folder} is there; to use it: peftsweep predict {shlex.quote(str(folder))} --text '…'")


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="A folder that `export` made.")],
    text: Annotated[list[str] | None, typer.Option(help="A text. Repeatable.")] = None,
    source: Annotated[Path | None, typer.Option("--input", help="A file of texts: CSV, TSV, JSONL, Parquet.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; without it, lines of JSON are printed.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of texts, if it is not the one trained on.")] = None,
    encoding: Annotated[str, typer.Option(help="The encoding of --input, if it is CSV, TSV or JSONL.")] = "utf-8",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that the base brings along. Read it first.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Label texts by an exported adapter."""
    if (source is None) == (not text):
        raise typer.BadParameter("give either --text, once or several times, or --input")
    if source is None and (output or column):
        raise typer.BadParameter("--output and --column go with --input")
    if output and as_json:
        raise typer.BadParameter("--json is for stdout; --output writes a file")
    if not all(each.strip() for each in text or []):
        raise typer.BadParameter("--text: there is nothing in it")
    with _ended_by_signals("nothing is left. To do it again"):
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
        found = export.Classifier(folder, trust_remote_code=trust_remote_code).predict(text)
        if as_json:
            rows = [{"text": text, **asdict(each)} for text, each in zip(text, found, strict=True)]
            say_lines_of_json([json.dumps(rows, indent=2, ensure_ascii=False)], sys.stdout)
        else:
            say_data("\n".join(progress.prediction(each.labels, each.probabilities) for each in found), sys.stdout)
        return
    bar, shown = partial(progress.bar, sys.stderr), progress.for_stream(sys.stderr)
    lines = export.predict_file(
        folder,
        source,
        output,
        column=column,
        encoding=encoding,
        trust_remote_code=trust_remote_code,
        bar=bar,
        warn=shown.warn,
        note=shown.note,
    )
    if as_json:
        say_lines_of_json(["[", ",\n".join(lines), "]"], sys.stdout)
    elif lines:
        say_lines_of_json(lines, sys.stdout)


@app.command()
def sync(
    study: Studies = None, storage: Storage = STORAGE, tracking_uri: Tracking = TRACKING, debug: Debug = False
) -> None:
    """Write to MLflow what it lacks of the studies, after it was down or wiped."""
    from peftsweep import progress, sweep

    sweep.sync(studies=study, storage=storage, tracking_uri=tracking_uri, note=progress.for_stream(sys.stderr).note)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="The address to listen on. The server asks nobody for a password.")] = (
        "127.0.0.1"
    ),
    tracking_uri: Tracking = TRACKING,
    debug: Debug = False,
) -> None:
    """Serve the MLflow UI: runs, curves, artifacts. Ctrl-C ends it."""
    from peftsweep import tracking

    tracking.serve(tracking_uri, host=host, port=port)


def _no_studies(storage: str) -> str:
    return f"no studies of peftsweep in {storage} yet; to begin: peftsweep run --study demo"


def _print(
    rows: list[dict[str, Any]],
    as_json: bool,
    table: Callable[[list[dict[str, Any]], TextIO], None],
    nothing: str = "",
) -> None:
    if as_json:
        say_json(rows, sys.stdout)
    elif rows:
        table(rows, sys.stdout)
    else:
        say(nothing, sys.stderr)
