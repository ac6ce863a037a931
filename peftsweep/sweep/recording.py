"""How does a study's record say what has become of its sweep?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from peftsweep.sweep.error_lines import in_a_line
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep_state import SweepState


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
    if judge.failed:
        judge.heartbeat.end(SweepState.FAILED, judge.failed)
    elif not judge.supply.has_work() and all(trial.state.finished for trial in judge.supply.trials() if trial.begun):
        judge.heartbeat.end(SweepState.DONE)
    elif judge.requests.by:
        judge.heartbeat.end(SweepState.STOPPED, judge.requests.by)
        judge.progress.note(
            f"stopped by {judge.requests.by}; everything is kept: to resume, give the same command again"
        )
    elif judge.stop.asked:
        judge.heartbeat.end(SweepState.STOPPED, judge.stop.name)
    else:
        judge.heartbeat.end(SweepState.STOPPED)
    judge.commit()
