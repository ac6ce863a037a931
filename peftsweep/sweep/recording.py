"""How does a study's record say what has become of its sweep?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from peftsweep.progress import time_is_over
from peftsweep.sweep.error_lines import in_a_line
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep_state import SweepState

TIME_LIMIT = "the time limit (--timeout)"


@contextmanager
def recorded(judge: StudyJudge) -> Iterator[None]:
    """Let others see in the storage that the sweep runs, and, if an error or a signal comes out of the block, how it
    ended."""
    judge.heartbeat.begin()
    judge.commit()
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # it must not hide the error that ended the sweep
            stopped = isinstance(error, KeyboardInterrupt)
            judge.failed = judge.failed or ("" if stopped else in_a_line(error))
            end(judge)
        raise


def end(judge: StudyJudge) -> None:
    """Record how the sweep ended, if that is not recorded yet."""
    if judge.heartbeat.record is None:
        return
    state, reason = _outcome(judge)
    judge.heartbeat.end(state, reason)
    if state == SweepState.STOPPED and judge.requests.by:
        judge.progress.note(f"stopped by {reason}; everything is kept: to resume, give the same command again")
    if reason == TIME_LIMIT:
        judge.progress.note(time_is_over(judge.supply.timeout or 0.0, judge.supply.left()))
    judge.progress.left(state)
    judge.commit()


def _outcome(judge: StudyJudge) -> tuple[SweepState, str]:
    """What has become of the sweep, and who or what stopped it."""
    supply = judge.supply
    if judge.failed:
        return SweepState.FAILED, judge.failed
    if not supply.has_work() and all(trial.state.finished for trial in supply.trials() if trial.begun):
        return SweepState.DONE, ""
    if judge.requests.by:
        return SweepState.STOPPED, judge.requests.by
    if judge.stop.asked:
        return SweepState.STOPPED, judge.stop.name
    return SweepState.STOPPED, TIME_LIMIT if supply.is_late() else ""
