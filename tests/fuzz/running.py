"""Make one input after another from a seed, give it to the program, and report it if the program fails."""

from __future__ import annotations

import builtins
import json
import random
import shlex
import shutil
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peftsweep
from peftsweep.errors import PeftsweepError
from tests.fuzz.swept_folders import Ground

Plan = dict[str, Any]  # JSON: what to do with an input's files
SECONDS = 5.0  # of CPU that an input may take; see `_limited`
PATIENCE = 120.0  # seconds of wall-clock time that an input may take
LONGEST = 20_000  # characters that a message may have
PACKAGE = Path(peftsweep.__file__).parent
SLIPS = (LookupError, TypeError, AttributeError, AssertionError, NameError, ZeroDivisionError, RecursionError)


class Kind(ABC):
    """A kind of inputs. Its constructor makes what all inputs of the kind share, which may take seconds.

    Attributes:
        name: what the command line calls it.
        share: how many of a hundred inputs are of this kind.
    """

    name: str
    share: int

    @abstractmethod
    def __init__(self, ground: Ground) -> None: ...

    @abstractmethod
    def make(self, rng: random.Random, folder: Path) -> Plan:
        """Write an input into an empty folder."""

    @abstractmethod
    def use(self, folder: Path, plan: Plan) -> None:
        """Give the input to the program."""

    def done(self) -> None:  # noqa: B027  most have nothing to undo
        """Undo what the constructor changed in this process."""


@dataclass(frozen=True)
class Failure:
    """An input on which the program failed."""

    kind: str
    seed: int
    index: int
    plan: Plan
    error: BaseException
    kept: Path

    @property
    def where(self) -> str:
        """The cause, which several failures may share: the exception, and the program's own line that raised it."""
        frames = [frame for frame in traceback.extract_tb(self.error.__traceback__) if "/peftsweep/" in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside of peftsweep"
        return f"{type(self.error).__name__} at {place}"

    def __str__(self) -> str:
        again = [
            "python",
            "-m",
            "tests.fuzz",
            "--only",
            self.kind,
            "--seed",
            str(self.seed),
            "--index",
            str(self.index),
        ]
        said = str(self.error)
        return (
            f"{self.kind} {self.seed}/{self.index}: {self.where}: {said[:300]}{'…' * (len(said) > 300)}\n"
            f"  {json.dumps(self.plan)[:300]}\n  again: {shlex.join(again)}\n  kept in {self.kept}"
        )


class TooSlowError(BaseException):
    """Not an Exception, so that no `except Exception` catches it."""


class WrongError(AssertionError):
    """The program did what it must never do."""


def tried(kind: Kind, seed: int, index: int, place: Path) -> Failure | None:
    """Make the input with this index and give it to the program.

    Args:
        place: folder for inputs; an input that failed stays there.
    """
    case = place / f"{kind.name}-{seed}-{index}"
    shutil.rmtree(case, ignore_errors=True)
    folder = case / "input"
    folder.mkdir(parents=True)
    plan = kind.make(random.Random(f"{kind.name} {seed} {index}"), folder)
    (case / "plan.json").write_text(json.dumps(plan))
    try:
        with _limited(), _alone(), _joined():
            kind.use(folder, plan)
            _check_outside(case)
    except PeftsweepError as error:
        fault = _fault(error, case)
    except (Exception, TooSlowError) as error:
        fault = error
    except BaseException as error:  # a panic in tokenizers
        if isinstance(error, KeyboardInterrupt):
            raise
        fault = error
    else:
        fault = None
    if fault is not None:
        return Failure(kind.name, seed, index, plan, fault, case)
    shutil.rmtree(case)
    return None


def _fault(error: PeftsweepError, case: Path) -> BaseException | None:
    """What is wrong with an error message, if anything is."""
    text = str(error)
    try:
        _check_outside(case)
        if not text.strip() or "should not happen" in text:
            raise WrongError(f"the message says nothing: {text!r}") from error
        if len(text) > LONGEST:
            raise WrongError(f"a message of {len(text):,} characters: {text[:100]!r}…") from error
        if (slip := _own_slip(error)) is not None:
            raise WrongError(f"the program reports its own mistake as the input's: {slip!r}") from slip
    except WrongError as wrong:
        return wrong.with_traceback((wrong.__cause__ or error).__traceback__)
    return None


def _own_slip(error: BaseException) -> BaseException | None:
    """The exception behind a message, if the program's own code raised it and no library that it gave the input to.

    The program then used the input before it had checked it.
    """
    cause = error.__cause__
    if cause is None:
        return None
    *_, (frame, _) = traceback.walk_tb(cause.__traceback__)
    inner = Path(frame.f_code.co_filename)
    return cause if isinstance(cause, SLIPS) and inner.is_relative_to(PACKAGE) else _own_slip(cause)


def _check_outside(case: Path) -> None:
    strange = sorted({path.name for path in case.iterdir()} - {"input", "plan.json"})
    if strange:
        raise WrongError(f"the program wrote outside of the input's folder: {', '.join(strange)}")


@contextmanager
def _joined() -> Iterator[None]:
    """Wait for the threads that still write to the MLflow database beside the input, for its folder is removed next."""
    before = threading.enumerate()
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == "tracker" and thread not in before:
                thread.join(20)


@contextmanager
def _limited() -> Iterator[None]:
    """Limit the CPU time, so that a busy machine causes no failures, and the wall-clock time, for what hangs."""

    def late(number: int, frame: Any) -> None:
        raise TooSlowError(f"more than {SECONDS:g} s of CPU, or {PATIENCE:g} s of wall-clock time")

    before = signal.signal(signal.SIGPROF, late)
    waker = threading.Timer(PATIENCE, signal.pthread_kill, (threading.get_ident(), signal.SIGPROF))
    waker.start()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        waker.cancel()
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _alone() -> Iterator[None]:
    """Fail if the program asks a question."""

    def asked(prompt: object = "") -> str:
        raise WrongError(f"the program asks on the terminal: {prompt}")

    before, builtins.input = builtins.input, asked
    try:
        yield
    finally:
        builtins.input = before


def shares(kinds: Sequence[Kind | type[Kind]], inputs: int) -> dict[str, int]:
    """The number of inputs of each kind, in proportion to its share."""
    total = sum(kind.share for kind in kinds)
    return {kind.name: max(1, inputs * kind.share // total) for kind in kinds}
