"""Which commands run studies, and show what came of them?

The commands compute nothing: they call the package and print what it returns. Each imports what it needs when it runs:
torch and MLflow take seconds, and `--help` must not.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from peftsweep.cli.exit_status import exit_on_signal
from peftsweep.cli.options import (
    AsJson,
    CheckpointEvery,
    Debug,
    RayAddress,
    Settings,
    Slots,
    Storage,
    Studies,
    StudyFiles,
    Timeout,
    Tracking,
    Workers,
    WorkerTimeout,
    duration,
)
from peftsweep.errors import WorkerError
from peftsweep.system.addresses import check_answers
from peftsweep.system.default_places import STORAGE, TRACKING
from peftsweep.system.process_age import process_age
from peftsweep.system.signals import Stopped
from peftsweep.system.terminal import say, say_json

if TYPE_CHECKING:
    from peftsweep.config import StudyConfig
    from peftsweep.progress import Progress
    from peftsweep.sweep import RetrainResult, SweepResult

Row = TypeVar("Row")


def run(
    study: StudyFiles,
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials, including earlier runs.")] = None,
    timeout: Timeout = None,
    slots: Slots = "auto",
    workers: Workers = "1",
    ray_address: RayAddress = None,
    worker_timeout: WorkerTimeout = "10m",  # type: ignore[assignment]  # typer parses it
    checkpoint_every: CheckpointEvery = "60s",  # type: ignore[assignment]  # typer parses it
    settings: Settings = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    debug: Debug = False,
) -> None:
    """Run or resume a study. Several studies share the workers; with one worker, the studies run in order."""
    with exit_on_signal():
        from peftsweep import progress

        with progress.for_stream(sys.stderr) as display:
            configs = _configs(study, settings, display, partial(_check_cluster, ray_address, trials, storage))
            display.stage(progress.Stage.LIBRARIES)

            from peftsweep import sweep

            results = sweep.run_together(
                configs,
                workers=workers,
                ray_address=ray_address,
                worker_timeout=worker_timeout,
                checkpoint_every=checkpoint_every,
                trials=trials,
                timeout=timeout,
                slots=slots,
                storage=storage,
                tracking_uri=tracking_uri,
                progress=display,
                ended=partial(_say_result, display),
            )
            _say_time(display, results)
        if results[0].interrupted is not None:
            raise Stopped(results[0].interrupted)


def _check_cluster(address: str | None, trials: int | None, storage: str, configs: list[StudyConfig]) -> None:
    """Raise an error before anything slow starts if the cluster does not answer, unless no study needs it."""
    try:
        if address is not None:
            check_answers(address)
    except WorkerError:
        from peftsweep.study.results import has_ended

        if not all(has_ended(storage, config, trials) for config in configs):
            raise


def retrain(
    study: Annotated[
        str, typer.Option(help="A name in sweeps/, or a path to a study file. The study must have been run.")
    ],
    seeds: Annotated[
        int, typer.Option(min=2, help="Total number of seeds for each configuration, including earlier ones.")
    ] = 5,
    top: Annotated[int, typer.Option(min=1, help="Number of the study's best configurations to train.")] = 3,
    slots: Slots = "auto",
    checkpoint_every: CheckpointEvery = "60s",  # type: ignore[assignment]  # typer parses it
    settings: Settings = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Retrain the best configurations with new seeds, and show mean ± standard deviation. Scores the test split."""
    with exit_on_signal():
        from peftsweep import progress

        with progress.for_stream(sys.stderr) as display:
            (config,) = _configs([study], settings, display)
            display.stage(progress.Stage.LIBRARIES)

            from peftsweep import sweep

            result = sweep.retrain(
                config,
                seeds=seeds,
                top=top,
                slots=slots,
                checkpoint_every=checkpoint_every,
                storage=storage,
                tracking_uri=tracking_uri,
                progress=display,
            )
        _say_time(display, [result])
        if result.interrupted is not None:
            raise Stopped(result.interrupted)
        _print(result.configurations, result.rows, as_json, progress.retrained_table)


def _say_result(display: Progress, result: SweepResult) -> None:
    """Print what came of a study."""
    from peftsweep import progress

    best, name = result.best, result.study.study_name
    score = None if best is None else (best.trial, best.scores[best.objective])
    adapter = None if best is None else best.adapter
    display.note(progress.sweep_result(name, result.counts, score, adapter, result.study.record.objective))
    if best is not None and result.interrupted is None:
        display.note(progress.next_step(name, adapter))


def _say_time(display: Progress, results: Sequence[SweepResult | RetrainResult]) -> None:
    """Print where the time of the whole command went, if anything was trained."""
    from peftsweep import progress

    if trained := [result for result in results if result.seconds]:
        seconds = Counter[str]()
        for result in trained:
            seconds.update(result.seconds)
        moments = sorted(moment for result in trained for moment in result.trained)
        workers = frozenset[int]().union(*(result.worker_numbers for result in trained))  # each once, in any study
        display.note(progress.time_spent(process_age(), (moments[0], moments[-1]), seconds, len(workers)))


def stop(
    study: Annotated[str, typer.Option(help="Name of the study in the storage.")],
    trial: Annotated[
        int | None, typer.Option(min=0, help="End only the trial with this number, as pruned; the others go on.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="Wait this long until it has ended: 90s, 5m.")
    ] = "5m",  # type: ignore[assignment]  # typer parses it
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """End a running sweep or retraining, or one of its trials, from another terminal or machine. Everything is kept."""
    from peftsweep import progress
    from peftsweep.study import stopping

    warn = progress.for_stream(sys.stderr).warn
    say(stopping.stop(study, trial, storage, timeout=timeout, warn=warn), sys.stdout)


def _configs(
    studies: list[str],
    settings: list[str] | None,
    display: Progress,
    check: Callable[[list[StudyConfig]], object] = lambda configs: None,
) -> list[StudyConfig]:
    """Load study files. Mistakes in any of them, and in their data, are found before the first study starts.

    Args:
        check: called in between, since reading the data takes longer.
    """
    from peftsweep.config import read
    from peftsweep.progress import Stage

    files = [read(study, settings or ()) for study in studies]
    configs = [config for config, _ in files]
    check(configs)
    for config, raise_for in files:
        display.stage(Stage.DATA, config.data.name)

        from peftsweep.data import find_mistakes

        raise_for(find_mistakes(config.data))
    return configs


def best(study: Studies = None, storage: Storage = STORAGE, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show each study's best trial. Of studies with the same validation rows, the best comes first and is marked."""
    from peftsweep import progress
    from peftsweep.study import best_rows
    from peftsweep.study.status_rows import status as statuses

    warn = progress.for_stream(sys.stderr).warn
    rows = best_rows.best(storage, study, warn=warn)
    exists = bool(rows) or bool(statuses(storage, study))
    empty = "no trial is complete yet; see peftsweep status" if exists else _no_studies(storage)
    _print(rows, [row.as_dict() for row in rows], as_json, progress.best_table, empty)


def status(storage: Storage = STORAGE, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show how far each study is, whether a sweep runs it, and with which workers."""
    from peftsweep import progress
    from peftsweep.study.status_rows import status as statuses

    warn = progress.for_stream(sys.stderr).warn
    rows = statuses(storage, warn=warn)
    _print(rows, rows, as_json, progress.status_table, _no_studies(storage))


def compare(
    study: Studies = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Path of the page. By default in the artifacts folder."),
    ] = None,
    storage: Storage = STORAGE,
    tracking_uri: Tracking = TRACKING,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare all studies on one HTML page, and store a copy in MLflow."""
    from peftsweep import progress, sweep

    compared = sweep.compare(
        studies=study,
        storage=storage,
        tracking_uri=tracking_uri,
        output=output,
        note=progress.for_stream(sys.stderr).warn,
    )
    if as_json:
        say_json(compared.as_dict(), sys.stdout)
    else:
        say(str(compared.page), sys.stdout)


def sync(
    study: Studies = None, storage: Storage = STORAGE, tracking_uri: Tracking = TRACKING, debug: Debug = False
) -> None:
    """Write to MLflow what it lacks, for example after it was down or wiped."""
    from peftsweep import progress, sweep

    sweep.sync(studies=study, storage=storage, tracking_uri=tracking_uri, note=progress.for_stream(sys.stderr).note)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on. The server asks for no password.")] = "127.0.0.1",
    tracking_uri: Tracking = TRACKING,
    debug: Debug = False,
) -> None:
    """Serve the MLflow UI: runs, curves, artifacts. Ctrl-C stops it."""
    from peftsweep import tracking

    tracking.serve(tracking_uri, host=host, port=port)


def _no_studies(storage: str) -> str:
    return f"no studies in {storage} yet; to start one: peftsweep run --study demo"


def _print(
    rows: list[Row],
    plain: list[dict[str, Any]],
    as_json: bool,
    table: Callable[[list[Row], TextIO], None],
    empty: str = "",
) -> None:
    """Print rows as a table, or as plain values for `--json`."""
    if as_json:
        say_json(plain, sys.stdout)
    elif rows:
        table(rows, sys.stdout)
    else:
        say(empty, sys.stderr)
