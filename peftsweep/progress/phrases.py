"""The words of a running sweep, as plain rows and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftsweep.progress.watcher import Memory, Opened
from peftsweep.safe_text.escaping import in_line
from peftsweep.scores import label

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

_SHORT = {"learning_rate": "lr", "weight_decay": "wd", "batch_size": "batch", "scheduler": "", "optimizer": ""}


class Leader:
    """The best score so far. It decides whether a finished trial is reported as the best.

    Attributes:
        objective: name of the score.
    """

    def __init__(self) -> None:
        self.value = -math.inf
        self.objective = "macro_f1"

    def sees(self, best: tuple[int, float] | None) -> None:
        """Remember the best trial, which may be of an earlier run."""
        if best is not None:
            self.value = max(self.value, best[1])

    def takes(self, state: str, value: float | None) -> bool:
        """Whether a trial with this end is the new best."""
        leads = state == "complete" and value is not None and value > self.value
        if leads and value is not None:
            self.value = value
        return leads


def header(what: Opened) -> list[tuple[str, str]]:
    """What was loaded, as pairs of a name and a text."""
    low, high = what.trainable
    trained = amount(low) if low == high else f"{amount(low)} to {amount(high)}"
    rows = " · ".join(f"{count:,} {split}" for split, count in what.rows.items())
    memory = [] if what.memory is None else [("memory", planned(what.memory))]
    return [
        ("study", f"{what.study}: {what.method} on {what.model}"),
        ("model", f"{amount(what.parameters)} parameters, {trained} trained per trial · {what.dtype} on {what.device}"),
        ("rows", rows),
        ("trials", f"{what.done} of {what.total} done · {what.slots} at a time"),
        *memory,
        *([("by", f"{label(what.objective)}: a threshold for each label")] if "tuned" in what.objective else []),
        ("kept in", f"{what.storage} · MLflow: {what.tracking}"),
    ]


def planned(memory: Memory) -> str:
    """`plan 61.2 of 79.1 GiB: 40 slots, 32,768 tokens at once`"""
    of = f"{gib(memory.planned)} of {gib(memory.whole)} GiB"
    return f"plan {of}: {memory.slots} slots, {memory.tokens:,} tokens at once"


def peak(memory: Memory, taken: int) -> str:
    """`memory: peak 58.4 of 79.1 GiB, planned 61.2`"""
    return f"memory: peak {gib(taken)} of {gib(memory.whole)} GiB, planned {gib(memory.planned)}"


def ended(
    trial: int,
    state: str,
    value: float | None,
    reason: str,
    params: Mapping[str, Any],
    seconds: float,
    *,
    objective: str,
    best: bool = False,
) -> str:
    """`trial 7 complete · macro-F1 0.812 (best) · all 189 steps · 14s · lr 3.1e-4 rank 16`"""
    scored = "" if value is None else f"{label(objective)} {score(value)}" + (" (best)" if best else "")
    parts = [scored, reason.removeprefix(f"{state} "), duration(seconds), hyperparameters(params)]
    return " · ".join([f"trial {trial} {state}", *filter(None, parts)])


def summary(
    slots: Sequence[SlotStatus],
    done: int,
    total: int,
    best: tuple[int, float] | None,
    eta: float | None,
    objective: str,
    steps: str = "",
) -> str:
    """`5 of 12 trials done · 4 running · 412 samples/s · best macro-F1 0.812 (trial 3) · 2m10s left`

    Args:
        steps: see `steps`.
    """
    running = [slot for slot in slots if slot.trial is not None]
    parts = [f"{done} of {total} trials done", f"{len(running)} running", *filter(None, [steps])]
    if rate := sum(slot.rate for slot in running):
        parts.append(f"{rate:,.0f} samples/s")
    if best is not None:
        parts.append(f"best {label(objective)} {score(best[1])} (trial {best[0]})")
    if eta is not None and math.isfinite(eta):
        parts.append(f"{duration(eta)} left")
    return " · ".join(parts)


def steps(slots: Sequence[SlotStatus]) -> str:
    """`step 63 of 189, evaluation 2 of 6` if all running trials agree; else sums over them: `252 of 756 steps, …`."""
    running = [slot for slot in slots if slot.trial is not None]
    if not running:
        return ""
    counts = {(slot.step, slot.steps, slot.evaluated, slot.evaluations) for slot in running}
    if len(counts) == 1:
        step, whole, made, evaluations = counts.pop()
        return f"step {step:,} of {whole:,}, evaluation {made} of {evaluations}"
    step, whole = sum(slot.step for slot in running), sum(slot.steps for slot in running)
    made, evaluations = sum(slot.evaluated for slot in running), sum(slot.evaluations for slot in running)
    return f"{step:,} of {whole:,} steps, {made} of {evaluations} evaluations"


def slot_row(slot: SlotStatus) -> tuple[str, ...]:
    """A slot's cells: slot, trial, step, loss, last and best score, samples per second."""
    if slot.trial is None:
        return (str(slot.slot), "-", "", "", "", "", "")
    step, loss = f"{slot.step:,} of {slot.steps:,}", "" if slot.loss is None else f"{slot.loss:.3f}"
    return (str(slot.slot), str(slot.trial), step, loss, score(slot.last), score(slot.best), f"{slot.rate:,.0f}")


def hyperparameters(params: Mapping[str, Any]) -> str:
    """`lr 3.1e-4 rank 16 dropout 0.05 wd 0.01 cosine`"""
    named = ((_SHORT.get(name, name.replace("_", " ")), _value(value)) for name, value in params.items())
    return " ".join(f"{name} {value}".strip() for name, value in named)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def number(value: float) -> str:
    """Two or three digits: `3.1e-4`, `0.05`, `16`."""
    if value and abs(value) < 0.001:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def amount(count: int) -> str:
    """`980`, `73.7 k`, `22.6 M`, `1.24 B`"""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def gib(count: int) -> str:
    """Bytes in GiB: `79.1` for 85 thousand million."""
    return f"{count / 2**30:.1f}"


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `1h02m`, which `--timeout` reads, too."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def spent(seconds: Mapping[str, float]) -> str:
    """`time: 31m02s · training 91.2% · evaluation 7.4% · checkpoints 0.5% · everything else 0.9%`"""
    whole = sum(seconds.values())
    shares = {name: seconds.get(name, 0.0) / whole for name in ("training", "evaluation", "checkpoints")}
    shares["everything else"] = 1 - sum(shares.values())
    return " · ".join([f"time: {duration(whole)}", *(f"{name} {share:.1%}" for name, share in shares.items())])


def finished(
    study: str,
    counts: Mapping[str, int],
    best: tuple[int, float] | None,
    adapter: str | None,
    objective: str,
) -> str:
    """`demo: 8 complete, 4 pruned · best macro-F1 0.812 (trial 7) · artifacts/demo/trial-0007/adapter`"""
    parts = [f"{study}: " + (", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials")]
    if best is not None:
        parts.append(f"best {label(objective)} {score(best[1])} (trial {best[0]})")
    return " · ".join([*parts, *filter(None, [adapter])])


def standing(row: Mapping[str, Any]) -> list[str]:
    """Lines about a study's stopped trials and its retraining, and how to go on with them."""
    study, seeds = row["study"], row["retrain"]
    lines = []
    if row["stopped"]:
        lines.append(f"{study}: {row['stopped']} stopped; to go on: peftsweep run --study {study}")
    if seeds is not None:
        parts = [f"{seeds['done']} of {seeds['total']} seeds done"]
        parts += [f"{seeds[state]} {state}" for state in ("failed", "running", "stopped") if seeds[state]]
        on = (
            ""
            if seeds["running"] or seeds["done"] >= seeds["total"]
            else f"; to go on: peftsweep retrain --study {study}"
        )
        lines.append(f"{study}, retrained: {', '.join(parts)} · {duration(seeds['seconds'])}{on}")
    return lines


def legend(groups: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What the star means. Each group holds the studies on the same validation rows."""
    objectives = {row["objective"] for same in groups for row in same}
    by = label(objectives.pop()) if len(objectives) == 1 else "score by the objective, or macro-F1 where it differs,"
    several = any(sum(row["overall"] for row in same) > 1 for same in groups)
    return f"* the best {by} on the same validation rows" + ("; equal ones share it" if several else "")


def numbers(what: str, given: Sequence[int]) -> str:
    """`as good: trials 3, 4, 7`, at most eight of them; empty if there are none."""
    more = f" and {len(given) - 8} more" if len(given) > 8 else ""
    return f"{what}{'s' * (len(given) > 1)} {', '.join(map(str, given[:8]))}{more}" if given else ""


def spread(figures: Mapping[str, Any], name: str) -> str:
    """`0.712 ± 0.008`: mean and standard deviation of a score over seeds."""
    mean, deviation = figures.get(f"{name}_mean"), figures.get(f"{name}_std")
    return score(mean) + ("" if deviation is None else f" ± {deviation:.3f}")


def compared(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The difference between the first and the configuration that it is the least surely ahead of."""
    others = [row for row in rows[1:] if row["behind"] is not None]
    if not others:
        return []
    closest = min(others, key=lambda row: row["behind"]["low"])
    behind, word = closest["behind"], "behind"
    if behind["mean"] < 0:
        word = "ahead"
        behind = behind | {"mean": -behind["mean"], "low": -behind["high"], "high": -behind["low"]}
    sure = "more than the noise of the seeds" if behind["low"] > 0 else "within the noise of the seeds"
    if word == "behind" and behind["low"] > 0 and len(others) > 1:
        sure += ", and so for the others"
    untold = [str(row["trial"]) for row in rows[1:] if row["behind"] is None]
    if untold:
        sure += f"; too few seeds for trial{'s' * (len(untold) > 1)} {', '.join(untold)}"
    pairs = behind.get("pairs", 1)  # an earlier version kept none
    corrected = f", corrected for all {pairs} pairs" if pairs > 1 else ""
    how = f"{interval(behind)}, the 95 % interval over {behind['seeds']} seeds{corrected}: {sure}"
    return [f"trial {closest['trial']} is {word} by {how}"]


def interval(behind: Mapping[str, float] | None) -> str:
    """`0.007 (-0.004 to 0.018)`: a mean difference and its 95 % interval."""
    return "" if behind is None else f"{behind['mean']:.3f} ({behind['low']:.3f} to {behind['high']:.3f})"


def retrained(trial: int, rows: Sequence[Mapping[str, Any]] | None) -> str:
    """`over 5 seeds: macro-F1 0.705 ± 0.011; trial 3 has 0.712 ± 0.008`; empty if no seed is complete."""
    if not rows or not rows[0]["seeds"]:
        return ""
    first, own = rows[0], next((row for row in rows if row["trial"] == trial), None)
    parts = [f"{label(own['objective'])} {spread(own, own['objective'])}"] if own else []
    if own is not first:
        parts.append(f"trial {first['trial']} has {spread(first, first['objective'])}")
    return f"over {first['seeds']} seeds: {'; '.join(parts)}"


def tested(trial: int | None, scores: Mapping[str, float] | None, objective: str) -> str:
    """`test split: trial 3, macro-F1 0.705`; empty if it was not scored."""
    return "" if scores is None else f"test split: trial {trial}, {label(objective)} {score(scores[objective])}"


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table of retrained configurations shows: whether the first is better by more than noise, whether the
    sweep had the same order, how far the first one's score in the sweep was from its mean, and the test split."""
    first = rows[0]
    lines = []
    if first["seeds"]:
        mean, picked = first[f"{first['objective']}_mean"], first["picked"]
        side = "higher" if picked > mean else "lower"
        was = f"its score in the sweep was {score(picked)} ({abs(picked - mean):.3f} {side})"
        own = spread(first, first["objective"])
        if first["seeds"] > first["shared"] > 0:
            own = f"by the {first['shared']} seeds that all have; over its {first['seeds']}: {own}"
        name = label(first["objective"])
        lines.append(f"trial {first['trial']} has the best mean {name}, {own}; {was}")
    lines += compared(rows)
    before = [row["trial"] for row in sorted(rows, key=lambda row: (-row["picked"], row["trial"]))]
    if len(rows) > 1:
        same = before == [row["trial"] for row in rows]
        lines.append(
            "the sweep had the same order" if same else f"the sweep had the order {', '.join(map(str, before))}"
        )
    for row in (row for row in rows if row["test"]):
        figures = f"{label(row['objective'])} {spread(row['test'], row['objective'])} over {row['test']['seeds']} seeds"
        lines.append(f"test split: trial {row['trial']}, {figures}; scored once, and never again")
    return lines


def prediction(labels: Sequence[str], probabilities: Mapping[str, float]) -> str:
    """`joy, love (joy 0.98 · love 0.61 · anger 0.02)`, the likeliest first."""
    likeliest = sorted(probabilities.items(), key=lambda entry: -entry[1])
    shares = " · ".join(f"{in_line(label)} {share:.2f}" for label, share in likeliest)
    return f"{', '.join(map(in_line, labels)) or '(none)'} ({shares})"
