"""How do several studies share workers? Each free worker goes to the study with the most trials left; a single worker
to one after the other, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftsweep.sweep.study_sweep import NextCall, StudySweep
from peftsweep.workers import Answer, Failed, Lost, Pool

PATIENCE = 1.0  # seconds between two looks at what else happened: signals, new workers


def drive_all(pool: Pool, studies: Sequence[StudySweep]) -> None:
    """Pass messages between workers and studies until no study has work left.

    What the answers of one round changed is stored before any worker gets its next call: whatever a worker is told is
    in the storage. Workers that still load a base in the end, which may take an hour, are left to the pool's shutdown.
    """
    assigned: dict[int, StudySweep] = {}
    while True:
        look_for_nodes(pool, assigned, studies)
        for worker in pool.free():
            study = next_study(studies, pool, worker)
            if study is not None and study.enter(worker, pool):
                assigned[worker] = study
        if all(study.is_over() for study in studies):
            break
        expect(max(0, pool.size() - len(assigned) - len(pool.free())), studies)
        calls = {answer.worker: assigned[answer.worker].answer(answer) for answer in wait(pool, studies)}
        calls |= wake(pool, assigned, studies)
        for study in studies:
            study.commit()
        for worker, call in calls.items():
            if call is None:
                del assigned[worker]
            else:
                assigned[worker].call(pool, worker, *call)
    for study in studies:
        study.commit()


def wait(pool: Pool, studies: Sequence[StudySweep]) -> Sequence[Answer | Failed | Lost]:
    """The answers that have come. While there is no pack whose step could be lost, a signal ends the command at once,
    also inside a worker of this process that downloads a base."""
    stop = studies[0].judge.stop
    stop.finish_step_first = not all(study.only_loads() for study in studies)
    try:
        return pool.wait(PATIENCE)
    finally:
        stop.finish_step_first = True


def next_study(studies: Sequence[StudySweep], pool: Pool, worker: int) -> StudySweep | None:
    """The study to which a free worker goes; None if none wants it."""
    node = pool.node(worker)
    openings = {place: found for place, study in enumerate(studies) if (found := study.openings_on(node))}
    if not openings:
        return None
    return studies[min(openings) if pool.size() == 1 else max(openings, key=lambda place: openings[place])]


def wake(pool: Pool, assigned: Mapping[int, StudySweep], studies: Sequence[StudySweep]) -> dict[int, NextCall]:
    """The next calls of workers that rested while others trained the last trials of their study."""
    found: dict[int, NextCall] = {}
    for worker, own in assigned.items():
        if own.rests(worker):
            others = (study for study in studies if study is not own)
            call = own.wake(worker, wanted=any(study.openings_on(pool.node(worker)) for study in others))
            found |= {} if call is None else {worker: call}
    return found


def look_for_nodes(pool: Pool, assigned: Mapping[int, StudySweep], studies: Sequence[StudySweep]) -> None:
    """End the studies that no worker can load."""
    if any(study.unfit for study in studies):
        workers = {*pool.free(), *assigned}
        nodes = {pool.node(worker) for worker in workers}
        for study in studies:
            study.look_for_nodes(nodes, more=pool.size() > len(workers))


def expect(workers: int, studies: Sequence[StudySweep]) -> None:
    """Divide the workers that are still to come among the studies, by the trials that each has for them."""
    openings = [study.openings() if workers else 0 for study in studies]
    for study, own in zip(studies, openings, strict=True):
        study.expected = -(-workers * own // sum(openings)) if own else 0
