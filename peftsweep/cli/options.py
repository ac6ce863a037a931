"""Which options do several commands share, and how is their text parsed?"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

from peftsweep.safe_text.quoting import quoted
from peftsweep.system.addresses import FORMS, is_ray_address
from peftsweep.system.worker_places import SHORTEST


def duration(text: str) -> float:
    """Seconds of `2h`, `30m`, `90s`, `1h30m`, `90`."""
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", text)
    if not text or match is None:
        raise typer.BadParameter(f"expected a time such as 2h, 30m, 90s or 1h30m, got {quoted(text)}")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def worker_timeout(text: str) -> float:
    seconds = duration(text)
    if seconds < SHORTEST:
        raise typer.BadParameter(f"expected at least {SHORTEST:.0f}s, since a step may take some, got {quoted(text)}")
    return seconds


def auto_or_count(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:  # int() raises on thousands of digits
        raise typer.BadParameter(f"expected auto or a whole number of at least 1, got {quoted(text)}")
    return int(text)


def address_of_ray(text: str) -> str:
    if not is_ray_address(text):
        raise typer.BadParameter(f"expected {FORMS}, got {quoted(text)}")
    return text


StudyFiles = Annotated[
    list[str], typer.Option("--study", help="A name in sweeps/, or a path to a study file. Repeatable.")
]
Studies = Annotated[
    list[str] | None, typer.Option("--study", help="Include only this study. Repeatable. By default all are included.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        parser=duration,
        metavar="TIME",
        help="Stop starting new trials of a study after this long, which includes loading: 2h, 30m, 1h30m.",
    ),
]
Slots = Annotated[
    Any,
    typer.Option(
        parser=auto_or_count,
        metavar="K|auto",
        help="Trials that a worker trains at once. auto: as many as fit on its GPU.",
    ),
]
Workers = Annotated[
    Any,
    typer.Option(
        parser=auto_or_count,
        metavar="N|auto",
        help="Workers, each on a GPU or a share of the cores. auto: one for each GPU. Several workers need Ray.",
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        parser=duration,
        metavar="TIME",
        envvar="PEFTSWEEP_CHECKPOINT_EVERY",
        help="Save each running trial this often. A kill costs at most so much of its training.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(parser=address_of_ray, metavar="ADDRESS", help=f"Join a Ray cluster: {FORMS}."),
]
WorkerTimeout = Annotated[
    float,
    typer.Option(
        parser=worker_timeout, metavar="TIME", help="Replace a worker of Ray that reports nothing for this long."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study file: train.epochs=5. Repeatable."),
]
Storage = Annotated[
    str,
    typer.Option(envvar="PEFTSWEEP_STORAGE", help="Database of the studies: an SQLite file or PostgreSQL."),
]
Tracking = Annotated[
    str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Where MLflow stores its runs: an SQLite file or a server.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", envvar="PEFTSWEEP_DEBUG", help="Show tracebacks and all warnings.")]
