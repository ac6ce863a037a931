"""How do `best`, `status` and `retrain` print their rows as tables?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from peftsweep.progress import result_lines
from peftsweep.progress.formats import duration, hyperparameters, interval, score, spread
from peftsweep.progress.screen import Grid, Screen
from peftsweep.progress.status_lines import status_lines, trials_done
from peftsweep.progress.why_not_compared import why_not_compared
from peftsweep.scores import columns, label
from peftsweep.sweep_state import SweepState
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from peftsweep.storage import Retrained
    from peftsweep.study.best_rows import Best

WIDE = 10_000  # width in a pipe, where nothing is folded
NARROW = 80  # least width of a table; a narrower terminal folds the lines itself


def best_table(rows: Sequence[Best], stream: TextIO) -> None:
    """Print a table for each set of validation rows, with one row per study and the best marked. Lines with each
    study's base, hyperparameters and adapter follow. They are never folded, so that they can be copied."""
    console = _console(stream)
    by_rows: dict[str | None, list[Best]] = {}
    for row in rows:
        by_rows.setdefault(row.validation_fingerprint, []).append(row)
    for same in by_rows.values():
        if len(by_rows) > 1:
            console.print_line(_data(same, rows))
        names = [name for name in columns() if any(name in row.scores for row in same)]
        _print_fitting(console, partial(_scores, same), names, same[0].objective)
        console.print()
    console.print_line(result_lines.legend(list(by_rows.values())))
    for line in why_not_compared([same[0] for same in by_rows.values()]):
        console.print_line(line)
    console.print()
    for row in rows:
        chosen = {name: value for name, value in row.params.items() if name in row.sampled}
        tied = result_lines.trial_numbers("tied with trial", row.tied)
        console.print_line(f"{row.study}: trial {row.trial} on {row.model}" + (f" ({tied})" if tied else ""))
        seeds = result_lines.seeds_summary(row.trial, row.configurations)
        tested = result_lines.test_score(row.tested, row.test, row.objective)
        for line in filter(None, (hyperparameters(chosen), _adapter(row), seeds, tested)):
            console.print_line(f"  {line}")


def _adapter(row: Best) -> str | None:
    """The adapter's folder. It is missing if the study was copied, or is read on another machine."""
    there = row.adapter is None or Path(row.adapter).is_dir()
    return row.adapter if there else f"{row.adapter} (not there)"


def _scores(rows: Sequence[Best], names: Sequence[str]) -> Grid:
    table = _table("", "study", "method", "trial", *(columns()[name] for name in names))
    for row in rows:
        scores = [score(row.scores.get(name)) for name in names]
        mark, style = ("*", "bold") if row.overall else ("", "")
        table.add_texts(mark, row.study, row.method, str(row.trial), *scores, style=style)
    return table


def _data(same: Sequence[Best], rows: Sequence[Best]) -> str:
    """Title of a group of studies on the same validation rows: the names of their data. If another group has the same
    names, the beginning of the rows' fingerprint is added."""
    names, own = {row.data for row in same}, same[0].validation_fingerprint
    title = " and ".join(sorted(name or "data without a name" for name in names))
    shared = any(row.data in names and row.validation_fingerprint != own for row in rows)
    return f"{title} · {own[:4]}" if shared and own else title


def status_table(rows: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print one row per study: the number of trials in each state, the best score, the time spent. Lines about
    workers, sweeps that ended early, stopped trials and retraining follow."""
    rare = (TrialState.STOPPED, TrialState.WAITING)
    states = [state for state in TrialState if state not in rare or any(row[state] for row in rows)]
    console = _console(stream)
    _print_fitting(console, partial(_standings, rows), states, TrialState.RUNNING)
    for line in ["", trials_done(rows), *(line for row in rows for line in status_lines(row))]:
        console.print_line(line)


def _standings(rows: Sequence[Mapping[str, Any]], states: Sequence[str]) -> Grid:
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    news = any(row["process"] and row["state"] != SweepState.DONE for row in rows)
    table = _table("study", *["sweep"] * news, *states, *(label(objective) for objective in objectives), "time")
    for row in rows:
        counts = [str(row[state]) for state in states]
        best = score(row["best"]) or "-"
        scores = [best if objective == row["objective"] else "" for objective in objectives]
        state = [row["state"] or "-"] * news
        table.add_texts(row["study"], *state, *counts, *scores, duration(row["seconds"]))
    return table


def retrained_table(rows: Sequence[Retrained], stream: TextIO) -> None:
    """Print one row per configuration, the best mean first, and a verdict below."""
    names = [name for name in columns() if any(f"{name}_mean" in row.figures for row in rows)]
    console = _console(stream)
    _print_fitting(console, partial(_means, rows), names, rows[0].objective)
    console.print()
    for row in rows:
        chosen = {name: value for name, value in row.params.items() if name in row.sampled}
        console.print_line(f"trial {row.trial}: {hyperparameters(chosen)}")
    for line in result_lines.verdict(rows):
        console.print_line(line)


def _means(rows: Sequence[Retrained], names: Sequence[str]) -> Grid:
    titles = (columns()[name] for name in names)
    table = _table("trial", "sweep score", "seeds", *titles, "behind")
    for row in rows:
        seeds = str(row.seeds) + (f", {row.failed} failed" if row.failed else "")
        scores = [spread(row.figures, name) for name in names]
        table.add_texts(str(row.trial), score(row.picked), seeds, *scores, interval(row.behind))
    return table


def _print_fitting(console: Screen, table: Callable[[Sequence[str]], Grid], names: Sequence[str], first: str) -> None:
    """Print the table with as many of these columns as the screen has room for, `first` among them. Half a number is
    worse than none: a line below names the columns that are left out."""
    shown = list(names)
    while table(shown).least_width() > console.width and shown != [first]:
        shown.remove(next(name for name in reversed(shown) if name != first))
    console.print(table(shown))
    if left := [label(name) for name in names if name not in shown]:
        console.print_line(f"{', '.join(left)}: in a wider terminal, or with --json")


def _console(stream: TextIO) -> Screen:
    console = Screen(stream)
    console.width = max(console.width, NARROW) if stream.isatty() else WIDE
    return console


def _table(*columns: str) -> Grid:
    table = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:  # on a narrow screen names are folded, numbers are not
        table.add_column(column, justify="left", overflow="fold", no_wrap=column != "study")
    return table
