"""How are a study's results reported in lines of text?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftsweep.progress.formats import interval, score, spread
from peftsweep.safe_text.escaping import in_line
from peftsweep.scores import label

if TYPE_CHECKING:
    from peftsweep.storage import Behind, Retrained
    from peftsweep.study.best_rows import Best

NOT_FINITE = "not finite"  # in place of a score on the test split that is null


def legend(groups: Sequence[Sequence[Best]]) -> str:
    """What the star means. Each group holds the studies on the same validation rows."""
    objectives = {row.objective for same in groups for row in same}
    by = (
        label(objectives.pop())
        if len(objectives) == 1
        else "score (by the objective, or by macro-F1 if objectives differ)"
    )
    several = any(sum(row.overall for row in same) > 1 for same in groups)
    return f"* the best {by} on the same validation rows" + ("; ties are all marked" if several else "")


def trial_numbers(what: str, trials: Sequence[int]) -> str:
    """`tied with trials 3, 4, 7`: at most eight numbers; empty if there are none."""
    more = f" and {len(trials) - 8} more" if len(trials) > 8 else ""
    return f"{what}{'s' * (len(trials) > 1)} {', '.join(map(str, trials[:8]))}{more}" if trials else ""


def seeds_summary(trial: int, rows: Sequence[Retrained] | None) -> str:
    """`over 5 seeds: macro-F1 0.705 ± 0.011; trial 3 has 0.712 ± 0.008`; empty if no seed is complete."""
    if not rows or not rows[0].seeds:
        return ""
    first, own = rows[0], next((row for row in rows if row.trial == trial), None)
    parts = [f"{label(own.objective)} {spread(own.figures, own.objective)}"] if own else []
    if own is not first:
        parts.append(f"trial {first.trial} has {spread(first.figures, first.objective)}")
    return f"over {first.seeds} seeds: {'; '.join(parts)}"


def test_score(trial: int | None, scores: Mapping[str, float | None] | None, objective: str) -> str:
    """`test split: trial 3, macro-F1 0.705`; empty if the test split was not scored."""
    if scores is None:
        return ""
    return f"test split: trial {trial}, {label(objective)} {score(scores[objective]) or NOT_FINITE}"


def lost_scores(trial: int, names: Sequence[str]) -> str:
    """A warning that scores on the test split are not finite."""
    what = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"
    return f"test split: trial {trial}: {what}; recorded as null, and never scored again"


def verdict(rows: Sequence[Retrained]) -> list[str]:
    """What the table of retrained configurations shows: the best mean and its score in the sweep, whether it is better
    by more than the noise of the seeds, whether the sweep had the same order, and the scores on the test split."""
    first = rows[0]
    lines = []
    if (mean := first.figures.get(f"{first.objective}_mean")) is not None:
        side = "higher" if first.picked > mean else "lower"
        was = f"its score in the sweep was {score(first.picked)} ({abs(first.picked - mean):.3f} {side})"
        own = spread(first.figures, first.objective)
        if first.seeds > (first.shared or 0) > 0:
            own = f"by the {first.shared} seeds that all have; over its {first.seeds}: {own}"
        lines.append(f"trial {first.trial} has the best mean {label(first.objective)}, {own}; {was}")
    lines += comparison(rows)
    before = [row.trial for row in sorted(rows, key=lambda row: (-row.picked, row.trial))]
    if len(rows) > 1:
        same = before == [row.trial for row in rows]
        lines.append(
            "the sweep had the same order" if same else f"the sweep had the order {', '.join(map(str, before))}"
        )
    for row in rows:
        if row.test:
            figures = f"{label(row.objective)} {spread(row.test, row.objective) or NOT_FINITE}"
            figures += f" over {row.test['seeds']} seeds"
            lines.append(f"test split: trial {row.trial}, {figures}; scored once, and never again")
    return lines


def comparison(rows: Sequence[Retrained]) -> list[str]:
    """How far the closest rival is behind the best configuration: the one whose interval starts lowest."""
    others = [(row.trial, row.behind) for row in rows[1:] if row.behind is not None]
    if not others:
        return []
    trial, behind = min(others, key=lambda other: other[1].low)
    word, far = ("behind", behind) if behind.mean >= 0 else ("ahead", _ahead(behind))
    sure = "more than the noise of the seeds" if far.low > 0 else "within the noise of the seeds"
    if word == "behind" and far.low > 0 and len(others) > 1:
        sure += ", and so for the others"
    unknown = [str(row.trial) for row in rows[1:] if row.behind is None]
    if unknown:
        sure += f"; too few seeds for trial{'s' * (len(unknown) > 1)} {', '.join(unknown)}"
    pairs = behind.pairs or 1
    corrected = f", corrected for all {pairs} pairs" if pairs > 1 else ""
    how = f"{interval(far)}, the 95 % interval over {far.seeds} seeds{corrected}: {sure}"
    return [f"trial {trial} is {word} by {how}"]


def _ahead(behind: Behind) -> Behind:
    """The same difference, seen from the other side."""
    return behind.model_copy(update={"mean": -behind.mean, "low": -behind.high, "high": -behind.low})


def prediction(labels: Sequence[str], probabilities: Mapping[str, float]) -> str:
    """`joy, love (joy 0.98 · love 0.61 · anger 0.02)`, most likely first."""
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    shares = " · ".join(f"{in_line(label)} {share:.2f}" for label, share in ranked)
    return f"{', '.join(map(in_line, labels)) or '(none)'} ({shares})"
