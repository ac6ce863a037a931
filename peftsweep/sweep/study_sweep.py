"""What does a study do with its workers? Each loads the base, builds a pack, trains, and is closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeVar

from peftsweep.engine import Idle, ScoreTrial, Stop, TrialsWanted
from peftsweep.errors import PeftsweepError
from peftsweep.models import BaseInfo
from peftsweep.progress import Stage
from peftsweep.storage import explained, guarded, outage
from peftsweep.sweep.error_lines import in_a_line
from peftsweep.sweep.recording import end
from peftsweep.sweep.running import Place
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.unfit_nodes import UnfitNodes
from peftsweep.sweep.worker_start import check_base, report_another, report_start
from peftsweep.system.process_age import process_age
from peftsweep.workers import Answer, Call, Failed, Lost, PackInfo, Pool, Usage, WorkerSpec

NextCall = tuple[Call | Literal["rest"], *tuple[object, ...]]  # its name and its arguments; a resting worker gets none
T = TypeVar("T")


@dataclass
class Seat:
    """A worker that trains the study.

    Attributes:
        node: name of its machine; None for this process.
        call: under way.
        waits: whether it waits for its first trials: it loads the base, or has rested.
        scoring: trials that it scores on the test split.
        saves: whether it was told to stop because the database does not answer.
    """

    node: str | None
    call: Call | Literal["rest"] = "load"
    waits: bool = True
    base: BaseInfo | None = None
    pack: PackInfo | None = None
    scoring: Sequence[int] = ()
    saves: bool = False

    @property
    def loads(self) -> bool:
        """Whether it loads the base or builds a pack."""
        return self.call in ("load", "build")

    @property
    def trains(self) -> bool:
        """Whether it has loaded the base and built a pack."""
        return self.call in ("advance", "rest")


class StudySweep:
    """A study, and the workers that train it at the moment.

    Args:
        slots: number of trials that a worker trains at once. "auto": as many as fit on its GPU.

    Attributes:
        seats: its workers.
        expected: number of workers that are still to come to this study.
        error: what ended the study early.
        broken: whether that was an error of this process, so that what it knows and what is stored may differ.
    """

    def __init__(
        self, judge: StudyJudge, slots: int | Literal["auto"], tracking_uri: str, checkpoint_every: float
    ) -> None:
        self.judge, self.slots, self.tracking_uri = judge, slots, tracking_uri
        self.checkpoint_every = checkpoint_every
        self.name, self.expected = judge.config.name, 0
        self.seats: dict[int, Seat] = {}
        self.unfit = UnfitNodes(self.name, judge.progress.warn)
        self.served = False  # whether a worker has done all that there was
        self.error: Exception | None = None
        self.broken = False

    def attempt(self, do: Callable[[], T]) -> T | None:
        """Do something for this study. An error ends this study alone; the others go on."""
        try:
            with guarded(self.judge.studies.url):
                return do()
        except Exception as error:
            self.broken = True
            self._end(error)
            return None

    def _end(self, error: Exception) -> None:
        self.error = self.error or explained(error, self.judge.studies.url)
        self.judge.failed = self.judge.failed or in_a_line(self.error)

    def left(self) -> int:
        """Number of trials still to be trained."""
        return self.judge.supply.left()

    def openings(self) -> int:
        """Number of trials for one more worker now, if those that start get as many; or 1 if there is other work."""
        if self.error is not None or self.judge.is_stopped:
            return 0
        if not self.seats and (not self.served or self.judge.has_tests_left()):
            return max(1, self.left())
        return self.left() // (1 + self.waiting()) if self.judge.supply.has_more() else 0

    def waiting(self) -> int:
        """Number of workers that wait for their first trials."""
        return sum(seat.waits for seat in self.seats.values())

    def rests(self, worker: int) -> bool:
        """Whether a worker is idle while others train the last trials."""
        return worker in self.seats and self.seats[worker].call == "rest"

    def only_loads(self) -> bool:
        """Whether all of its workers, if it has any, load the base or build a pack."""
        return all(seat.loads for seat in self.seats.values())

    def is_over(self) -> bool:
        """Whether nothing is left to do. Workers may still load a base that nobody needs any more."""
        if not self.only_loads():
            return False
        if self.error is not None or self.judge.is_stopped:
            return True
        return self.served and not self.judge.supply.has_more() and not self.judge.has_tests_left()

    def openings_on(self, node: str | None) -> int:
        """The same for a worker of this node."""
        return 0 if node in self.unfit else self.openings()

    @cached_property
    def spec(self) -> WorkerSpec:
        """What its workers are to train. It is the same for all, so that it need be sent to a machine only once."""
        judge, supply = self.judge, self.judge.supply
        bounds = supply.candidates("high"), supply.candidates("low")
        return WorkerSpec(judge.config, judge.data, *bounds, self.slots, self.checkpoint_every, judge.adapters.most)

    # A worker's calls -------------------------------------------------------------------------------------------------

    def enter(self, worker: int, pool: Pool) -> bool:
        """A free worker is to load the base. Returns whether it has come to this study."""
        if self.judge.base is None:
            self.judge.progress.stage(Stage.BASE, self.judge.config.model.id)
        self.attempt(lambda: pool.call(worker, "load", self.spec))
        if not self.broken:
            self.seats[worker] = Seat(pool.node(worker))
            self.judge.supply.begin()
        return not self.broken

    def answer(self, answer: Answer | Failed | Lost) -> NextCall | None:
        """Handle the result of a worker's call; returns its next call, or None if it has left."""
        worker = answer.worker
        if isinstance(answer, Lost) or self.seats[worker].call == "close":
            self.attempt(partial(self._last, answer))
            self.leave(worker)
            return None
        return (None if self.broken else self.attempt(partial(self._next, answer))) or ("close",)

    def wake(self, worker: int, *, wanted: bool) -> NextCall | None:
        """The next call of a worker that rests; None if it rests on.

        Args:
            wanted: whether another study has work for it.
        """
        if self.judge.wants_stop():
            return ("close",)
        if self.judge.supply.has_more():  # trials of a lost worker; it may be gone, too, and gets them once it answers
            self.seats[worker].waits = True
            return "advance", []
        return ("close",) if wanted or not self.judge.running else None

    def call(self, pool: Pool, worker: int, name: Call | Literal["rest"], *arguments: object) -> None:
        """Send a worker its next call; another one if the study is broken."""
        seat = self.seats[worker]
        if name != "rest" and not self.broken:
            self.attempt(partial(pool.call, worker, name, *arguments))
        if self.broken:
            name, commands = self._last_call(seat)
            pool.call(worker, name, *commands)
        seat.call = name
        if name == "close":
            self.served, seat.waits = True, False

    def _last_call(self, seat: Seat) -> tuple[Call, Sequence[object]]:
        """The call of a worker after an error of this process: it is closed. If only the database does not answer, it
        saves checkpoints first."""
        if seat.call == "advance" and not seat.saves and outage(self.error) is not None:
            seat.saves = True
            return "advance", [[Stop()]]
        return "close", []

    def _last(self, answer: Answer | Failed | Lost) -> None:
        """Handle a worker's last answer."""
        match answer:
            case Lost(worker, reason):
                self.lose(worker, reason)
            case Answer(worker, Usage() as usage):
                pack = self.seats[worker].pack
                self.judge.workers |= {worker} if usage.seconds else set()
                self.judge.trained.append(process_age())
                self.judge.used(usage, None if pack is None else pack.memory)

    def _next(self, answer: Answer | Failed) -> NextCall:
        if self.is_over():  # it has loaded a base that nobody needs any more
            return ("close",)
        if isinstance(answer, Failed):
            return self.fail(answer.worker, answer.error)
        return self._after(answer.worker, answer.value)

    def _after(self, worker: int, value: object) -> NextCall:
        """The call that follows one that returned this value."""
        judge, seat = self.judge, self.seats[worker]
        match value:
            case BaseInfo():
                seat.base = value
                try:
                    check_base(value, judge)
                except PeftsweepError as error:
                    return self.fail(worker, error if seat.node is None else type(error)(f"{seat.node}: {error}"))
                if judge.wants_stop():
                    return ("close",)
                if judge.base is None:
                    judge.progress.stage(Stage.PACK)
                return ("build", self.part())
            case PackInfo():
                self._built(worker, value)
                return "advance", []
            case list():
                seat.waits = False
                judge.waiting = self.waiting() + self.expected
                commands = judge.answer(value, worker)
                if not commands and Idle() in value and judge.supply.has_more() and not judge.wants_stop():
                    assert seat.pack is not None
                    commands = judge.answer([TrialsWanted(seat.pack.slots)], worker)
                seat.scoring = [command.trial.number for command in commands if isinstance(command, ScoreTrial)]
                if commands or Idle() not in value:
                    return "advance", commands
                return ("rest",) if judge.running and not judge.wants_stop() else ("close",)
        raise AssertionError(value)

    def part(self) -> int:
        """A worker's equal part of all trials that have not ended: on a GPU, each update goes through all slots of a
        pack, so slots that stay empty would cost time."""
        workers = sum(seat.call != "close" for seat in self.seats.values()) + self.expected
        return max(1, -(-(self.left() + len(self.judge.running)) // workers))

    def _built(self, worker: int, pack: PackInfo) -> None:
        seat = self.seats[worker]
        assert seat.base is not None
        self.judge.places[worker] = Place(seat.node, str(seat.base.device), pack.slots)
        report = report_start if self.judge.base is None else report_another
        report(self.judge, seat.base, pack, self.tracking_uri, worker)
        seat.pack = pack
        self.judge.trained.append(process_age())
        self.unfit.loaded(seat.node)

    def fail(self, worker: int, error: Exception) -> NextCall:
        """An error of a worker. If its node cannot load the base, others may. Any other error ends the study, and its
        other workers save checkpoints and stop."""
        seat = self.seats[worker]
        if seat.loads:
            self.unfit.failed(seat.node, error)
        else:
            self._end(error)
        return ("close",)

    def look_for_nodes(self, nodes: Set[str | None], *, more: bool) -> None:
        """End the study if no node is left that may load the base.

        Args:
            nodes: those that have workers now.
            more: whether the pool expects further workers.
        """
        if not self.unfit:
            return
        if any(seat.trains or seat.node not in self.unfit for seat in self.seats.values()):
            self.unfit.tell()
        elif not self.seats and (error := self.unfit.left_alone(nodes, more=more)) is not None:
            self._end(error)

    def lose(self, worker: int, reason: str) -> None:
        """A worker is gone. Its trials will be resumed by others."""
        seat = self.seats[worker]
        if seat.call != "close":  # after that nothing is lost: all events have arrived
            self.judge.lose(worker, reason)
        for number in seat.scoring:
            self.served = True
            self.judge.unscored.add(number)
            self.judge.progress.warn(f"test split: trial {number} was not scored; the next run tries again")
        if seat.loads:
            trains = any(other.trains and other.node == seat.node for other in self.seats.values())
            self.unfit.lost(seat.node, reason, trains=trains)

    def leave(self, worker: int) -> None:
        """Forget a worker."""
        del self.seats[worker]
        self.judge.leave(worker)

    def commit(self) -> None:
        """Store what has changed."""
        if not self.broken:
            self.attempt(self.judge.commit)
        if self.is_over():  # other studies may go on for hours
            self.attempt(lambda: end(self.judge))
