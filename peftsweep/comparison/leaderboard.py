"""What does the leaderboard say of a study?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from peftsweep.comparison.study_data import StudyData
from peftsweep.scores import ScoreOf, in_columns
from peftsweep.trial_state import TrialState, count_states


@dataclass(frozen=True)
class OverSeeds:
    """Mean and standard deviation (`sd`) of a trial's macro-F1 over fresh seeds."""

    trial: int
    seeds: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Leader:
    """A study and its best trial. Fields that need a complete trial are None until there is one.

    Attributes:
        trial: number of the best trial.
        scores: by name; empty until a trial is complete. Five of them are attributes, too.
        interval: 95 % interval of `macro_f1` (see `significance.interval`); None without predictions.
        interval_tuned: of `macro_f1_tuned`.
        parameters: trainable parameters of the best trial.
        adapter_bytes: size of its adapter's files.
        seconds: sum over all trials of their shares of the pack's time, on `device`.
        retrained: if configurations were retrained, how the best trial's did, or else that of the trial that was the
            best at that time.
        test: scores on the test split, if the best trial was scored there.
        lacking: what cannot be shown, and why.
    """

    study: str
    data: str | None
    fingerprint: str | None
    validation_fingerprint: str | None
    model: str | None
    method: str | None
    objective: str
    trial: int | None
    scores: Mapping[str, float]
    interval: tuple[float, float] | None
    interval_tuned: tuple[float, float] | None
    parameters: int | None
    adapter_bytes: int | None
    seconds: float
    seconds_per_trial: float | None
    device: str | None
    complete: int
    pruned: int
    failed: int
    running: int
    retrained: OverSeeds | None
    test: dict[str, float | None] | None
    params: dict[str, Any]
    lacking: list[str]

    macro_f1 = ScoreOf[float | None]()
    macro_f1_tuned = ScoreOf[float | None]()
    micro_f1 = ScoreOf[float | None]()
    accuracy = ScoreOf[float | None]()
    loss = ScoreOf[float | None]()

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the page, with a key for each score that has a column."""
        return in_columns(asdict(self))


def leader(
    study: StudyData, intervals: Mapping[str, Mapping[str, tuple[float, float]]], untested: str | None
) -> Leader:
    """Make the row of a study.

    Args:
        intervals: by score and study.
        untested: why the study's predictions could not be compared; None if they were.
    """
    best, record = study.best, study.record
    counts = count_states((trial.state for trial in study.trials), live=True)
    seconds = [trial.seconds for trial in study.trials if trial.seconds is not None]
    device = record.described.get("device")
    return Leader(
        study=study.name,
        data=record.data,
        fingerprint=record.fingerprint,
        validation_fingerprint=study.validation_fingerprint,
        model=record.config.model.id,
        method=record.config.method,
        objective=study.objective,
        trial=None if best is None else best.number,
        scores={} if best is None else best.scores,
        interval=intervals.get("macro_f1", {}).get(study.name),
        interval_tuned=intervals.get("macro_f1_tuned", {}).get(study.name),
        parameters=None if best is None else best.parameters,
        adapter_bytes=study.adapter_bytes,
        seconds=sum(seconds),
        seconds_per_trial=sum(seconds) / len(seconds) if seconds else None,
        device=None if device is None else "GPU" if str(device).startswith("cuda") else str(device).upper(),
        complete=counts[TrialState.COMPLETE],
        pruned=counts[TrialState.PRUNED],
        failed=counts[TrialState.FAILED],
        running=counts[TrialState.RUNNING],
        retrained=_retrained(study),
        test=record.test.scores if best and record.test and record.test.trial == best.number else None,
        params={} if best is None else {key: value for key, value in best.params.items() if key in study.space},
        lacking=_lacking(study, untested),
    )


def _retrained(study: StudyData) -> OverSeeds | None:
    found = [
        OverSeeds(row.trial, row.seeds, mean, row.figures.get("macro_f1_std"))
        for row in study.record.retrained or ()
        if (mean := row.figures.get("macro_f1_mean")) is not None
    ]
    own = [each for each in found if study.best is not None and each.trial == study.best.number]
    return next(iter(own or found), None)


def _lacking(study: StudyData, untested: str | None) -> list[str]:
    if study.best is None:
        return ["no trial is complete yet"]
    found = []
    if untested is not None:
        found.append(f"{untested}: no interval and no significance test")
    if study.per_class is None:
        found.append("the scores of each class are gone: not in the heat map")
    if study.adapter_bytes is None:
        found.append("the best trial's adapter is gone: its size is not known")
    return found
