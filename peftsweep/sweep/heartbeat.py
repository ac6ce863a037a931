"""How do others see that a sweep runs, and end it? It records its workers and a heartbeat, and looks for requests."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from uuid import uuid4

from peftsweep.config import MAX_CHARACTERS
from peftsweep.storage import StoredStudy, SweepRecord, WorkerRecord, write_study
from peftsweep.sweep.live_status import LiveStatus
from peftsweep.sweep.running import Place, Running
from peftsweep.sweep.stop_requests import StopRequests
from peftsweep.sweep_state import SweepState
from peftsweep.system.command_line import this_command
from peftsweep.tracking import now

BEAT = 10.0  # seconds between two records
SOON = 1.0  # seconds after which workers that came have trials, and a rate
LOOK = 2.0  # seconds between two looks for requests


class Heartbeat:
    """
    Args:
        places: where each worker trains, by its number.
        running: the trials that they train.
        live: has their latest reports.
        requests: gets what others ask of the sweep.
    """

    def __init__(
        self,
        study: StoredStudy,
        places: Mapping[int, Place],
        running: Mapping[int, Running],
        live: LiveStatus,
        requests: StopRequests,
    ) -> None:
        self.study, self.places, self.running, self.live, self.requests = study, places, running, live, requests
        self.record: SweepRecord | None = None  # None unless the sweep runs
        self.since: dict[int, int] = {}  # when each worker came
        self._next = self._looked = 0.0

    def begin(self) -> None:
        began = now()
        self.record = SweepRecord(
            token=uuid4().hex,
            state=SweepState.RUNNING,
            host=socket.gethostname(),
            pid=os.getpid(),
            command=command if len(command := this_command()) <= MAX_CHARACTERS else "",
            began=began,
            heartbeat=began,
            workers=[],
        )
        self._write(SweepState.RUNNING)

    def beat(self) -> None:
        """Record the workers, and look for requests, if that is due. Only requests are read."""
        if self.record is None:
            return
        moment = time.monotonic()
        if self.places.keys() != self.since.keys() or moment >= self._next:
            self._write(SweepState.RUNNING)
        if moment >= self._looked + LOOK:
            self._looked = moment
            self.study.take_requests(self.record.token, self.requests.add)

    def end(self, state: SweepState, reason: str = "") -> None:
        """Record what has become of the sweep. It has no workers any more."""
        self._write(state, reason)
        self.record = None

    def _write(self, state: SweepState, reason: str = "") -> None:
        assert self.record is not None
        moment = now()
        self._next = time.monotonic() + (BEAT if self.places.keys() == self.since.keys() else min(SOON, BEAT))
        self.since = {worker: self.since.get(worker, moment) for worker in self.places}
        trials: dict[int, list[int]] = {worker: [] for worker in self.places}
        for number, trial in sorted(self.running.items()):
            trials.setdefault(trial.worker, []).append(number)
        workers = (
            [self._worker(*each, trials[each[0]]) for each in sorted(self.places.items())]
            if state == SweepState.RUNNING
            else []
        )
        changed = {"state": state, "heartbeat": moment, "workers": workers, "reason": reason}
        self.record = self.record.model_copy(update=changed)
        write_study(self.study, sweep=self.record)

    def _worker(self, number: int, place: Place, trials: list[int]) -> WorkerRecord:
        return WorkerRecord(
            number=number,
            node=place.node,
            device=place.device,
            slots=place.slots,
            rate=round(self.live.rate(number), 1),
            since=self.since[number],
            trials=trials,
        )
