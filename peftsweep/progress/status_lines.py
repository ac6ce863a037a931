"""What does `status` say below its table? Who trains now, why sweeps ended early, and how to resume them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from peftsweep.progress.formats import duration
from peftsweep.sweep_state import SweepState
from peftsweep.trial_state import TrialState

UNDONE = (TrialState.FAILED, TrialState.RUNNING, TrialState.STOPPED)  # seeds that have no score yet, or never will
MOST = 32  # workers of a sweep that are listed
Row = Mapping[str, Any]


def trials_done(rows: Sequence[Row]) -> str:
    """`32 of 80 trials done · 4 running`: of all studies. An earlier version did not record how many there shall be."""
    counts = [sum(row[state] for state in TrialState) for row in rows]
    total = sum(row["total"] or count for row, count in zip(rows, counts, strict=True))
    running = sum(row[TrialState.RUNNING] for row in rows)
    return f"{sum(row['done'] for row in rows):,} of {total:,} trials done" + (
        f" · {running:,} running" * bool(running)
    )


def status_lines(row: Row) -> list[str]:
    """Lines about a study and its retraining.

    Args:
        row: of `status_rows.status`.
    """
    study, seeds = row["study"], row["retrain"]
    lines = _workers(study, row)
    parts = _early_end(row)
    if stopped := row[TrialState.STOPPED]:
        parts.append(f"{stopped} trial{'s' * (stopped > 1)} {TrialState.STOPPED}")
    if parts and row["state"] != SweepState.RUNNING:  # else its workers load, or are with another study
        lines.append(f"{study}: {'; '.join(parts)}; to resume: {row['resume']}")
    if seeds is not None:
        counts = [f"{seeds['done']} of {seeds['total']} seeds done"]
        counts += [f"{seeds[state]} {state}" for state in UNDONE if seeds[state]]
        line = f"{study}, retrained: {', '.join(counts)} · {duration(seeds['seconds'])}"
        left = not seeds[TrialState.RUNNING] and seeds["done"] < seeds["total"]
        resume = [*_early_end(seeds), f"to resume: {seeds['resume']}"] if left else []
        lines += ["; ".join([line, *resume]), *_workers(f"{study}, retrained", seeds)]
    return lines


def _early_end(row: Row) -> list[str]:
    """What ended a sweep before its last trial."""
    match row["state"]:
        case SweepState.DIED:
            return [f"its sweep died ({row['process']}, last heard of {_ago(row['heartbeat'])} ago)"]
        case SweepState.FAILED:
            return [f"an error ended its sweep{': ' * bool(row['reason'])}{row['reason']}"]
        case SweepState.STOPPED if row["reason"]:
            return [f"stopped by {row['reason']}"]
    return []


def _workers(name: str, row: Row) -> list[str]:
    """A line about the process of a running sweep, and one for each of its workers."""
    if row["state"] != SweepState.RUNNING or row["process"] is None:
        return []
    heard = f"{name}: {row['process']}, last heard of {_ago(row['heartbeat'])} ago"
    cells = [_worker(worker) for worker in row["workers"][:MOST]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  " + "   ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    more = len(row["workers"]) - MOST
    return [heard, *lines, *([f"  and {more} more workers; --json has all"] if more > 0 else [])]


def _worker(worker: Row) -> tuple[str, ...]:
    """`worker 0   3 of 4 slots   206 samples/s   cuda:0 of node-a   for 12m10s`, as cells"""
    place = worker["device"] if worker["node"] is None else f"{worker['device']} of {worker['node']}"
    slots, rate = f"{len(worker['trials'])} of {worker['slots']} slots", f"{worker['rate']:,.0f} samples/s"
    return (f"worker {worker['number']}", slots, rate, place, f"for {_ago(worker['since'])}")


def _ago(moment: str) -> str:
    return duration(max(0.0, time.time() - datetime.fromisoformat(moment).timestamp()))
