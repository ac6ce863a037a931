"""What is checked and reported when a worker has loaded the base and built a pack?"""

from __future__ import annotations

from peftsweep.errors import StudyMismatchError
from peftsweep.models import BaseInfo, is_at_revision, revision_of
from peftsweep.progress import Opened, worker_loaded
from peftsweep.storage import masked, write_study
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.workers import PackInfo

MANY = 10  # TPE draws this many trials at random in any case


def check_base(base: BaseInfo, judge: StudyJudge) -> None:
    """
    Raises:
        StudyMismatchError: the study's trials were trained on another revision of the base.
    """
    config, study = judge.config, judge.study
    revision, known = revision_of(base), study.record.base
    if known is not None and study.has_trials() and not is_at_revision(base, known):
        way = "put its configuration, tokenizer and weights back" if base.revision is None else "set model.revision"
        raise StudyMismatchError(
            f"study {config.name!r}: its trials were trained on {config.model.id} at revision {known}, which is now at "
            f"{revision}. To continue it, {way}; to start a new study, save the study file under another name"
        )
    write_study(study, base=revision)


def report_another(judge: StudyJudge, base: BaseInfo, pack: PackInfo, tracking_uri: str, worker: int) -> None:
    """Tell the user that one more worker has loaded the base."""
    for note in pack.notes:
        judge.progress.note(note)
    _warn_if_all_start_at_once(judge, pack.slots)
    judge.progress.note(worker_loaded(worker, pack.slots, judge.places[worker].name, pack.memory))


def report_start(judge: StudyJudge, base: BaseInfo, pack: PackInfo, tracking_uri: str, worker: int) -> None:
    """Tell the user and the tracker what the first worker has loaded."""
    for note in pack.notes:
        judge.progress.note(note)
    _warn_if_all_start_at_once(judge, pack.slots)
    config = judge.config
    opened = Opened(
        study=config.name,
        model=config.model.id,
        method=config.method,
        parameters=base.parameters,
        trainable=pack.trainable,
        slots=pack.slots,
        rows=judge.data.sizes,
        device=str(base.device),
        dtype=base.weights_format,
        done=judge.supply.ledger.done,
        total=judge.supply.total,
        storage=masked(judge.studies.url),
        tracker=judge.projection.tracker.name,
        tracking=masked(tracking_uri),
        objective=config.search.objective,
        memory=pack.memory,
        alone=judge.places[worker].node is None,
    )
    judge.opened(base, pack.method, opened)
    if not opened.alone:
        judge.progress.note(worker_loaded(worker, pack.slots, judge.places[worker].name, pack.memory))


def _warn_if_all_start_at_once(judge: StudyJudge, slots: int) -> None:
    """TPE learns from finished trials. Trials that start together cannot learn from each other.

    Args:
        slots: of the worker that has come. The note is given once: when all workers together have enough slots.
    """
    if judge.config.search.sampler != "tpe" or judge.supply.ledger.done:
        return
    workers = len(judge.places)
    trials, all_slots = judge.supply.left() + len(judge.running), sum(place.slots for place in judge.places.values())
    if all_slots >= trials > max(MANY, all_slots - slots):
        fewer = f"slots, such as --slots {trials // 4 // workers}" if trials // 4 >= workers else "workers"
        judge.progress.note(
            f"search: all {trials} trials start at once, so none can learn from another's result (as with sampler: "
            f"random); use fewer {fewer}, or more trials"
        )
