"""The rows of `best` and `status` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from peftsweep.progress import wording

Rows = Sequence[Mapping[str, Any]]  # as `--json` prints them
WIDE = 10_000  # columns of a pipe, where nothing is folded


def best_table(rows: Rows, stream: TextIO) -> None:
    """One row per study, the best of all marked; hyperparameters and adapter below each other."""
    table = _table(
        "", "study", "model", "method", "trial", "macro-F1", "micro-F1", "accuracy", "loss", "hyperparameters"
    )
    top = max((row["macro_f1"] for row in rows), default=None)
    for row in rows:
        scores = [wording.score(row[name]) for name in ("macro_f1", "micro_f1", "accuracy", "loss")]
        chosen = {name: value for name, value in row["params"].items() if name in row["sampled"]}
        how = "\n".join(filter(None, [wording.hyperparameters(chosen), row["adapter"]]))
        mark, style = ("*", "bold") if row["macro_f1"] == top else ("", "")
        table.add_row(mark, row["study"], row["model"], row["method"], str(row["trial"]), *scores, how, style=style)
    _console(stream).print(table)


def status_table(rows: Rows, stream: TextIO) -> None:
    """One row per study: how many trials are in which state, the best value, the time spent."""
    states = ("complete", "pruned", "failed", "running", "waiting")
    table = _table("study", *states, "best macro-F1", "time")
    for row in rows:
        counts = [str(row[state]) for state in states]
        table.add_row(row["study"], *counts, wording.score(row["best"]) or "-", wording.duration(row["seconds"]))
    _console(stream).print(table)


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="left", overflow="fold")
    return table
