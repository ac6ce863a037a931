"""What happens when memory is full: the same work again with fewer slots at once, until it fits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch

from peftsweep.engine.limits import Say, silent
from peftsweep.engine.slot import Slot

T = TypeVar("T")
# What work that ran out of memory was given: memory, in which it may fit now; a shorter pass for its only slot; or
# nothing.
Relief = Literal["freed", "cut", "none"]


class Unfit(NamedTuple):
    """A slot that does not fit into memory even alone, and what the allocator says of it."""

    slot: Slot
    reason: str


@dataclass
class BackOff:
    """How many slots go through the base at once: half as many for good when they turn out not to fit.

    Attributes:
        what: the work, as a note calls it.
        say: called with a note when the slots become fewer.
    """

    slots: int
    what: str = "step"
    say: Say = silent

    def run(
        self,
        work: Callable[[Sequence[Slot]], dict[int, T]],
        slots: Sequence[Slot],
        relieve: Callable[[Sequence[Slot], bool], Relief],
    ) -> tuple[dict[int, T], list[Unfit]]:
        """What `work` returns for the slots, by slot, in groups of as many as fit; and the slots that do not fit.

        A group without room goes in halves. Where one of its slots turns out not to fit even alone, that slot was the
        cause, and the others need not be fewer at once because of it.

        Args:
            relieve: undoes a try that ran out of memory, and makes room if it can. The second argument says whether the
                same slots ran out of memory just before, too.
        """
        found: dict[int, T] = {}
        unfit: list[Unfit] = []
        waiting, before = list(slots), self.slots
        tight: list[Sequence[Slot]] = []  # groups that had no room
        tried: Sequence[Slot] = ()
        while waiting:
            group = waiting[: self.slots]
            done, reason = _tried(work, group)
            if done is not None:
                found |= done
                waiting = waiting[len(group) :]
                continue
            again = len(group) == len(tried) and all(map(operator.is_, group, tried))
            tried, relief = group, relieve(group, again)
            if relief == "freed":
                continue
            if len(group) > 1:
                tight.append(group)
            else:
                tight = [part for part in tight if all(slot is not group[0] for slot in part)]
                if relief == "none":
                    unfit.append(Unfit(group[0], reason))
                    waiting = waiting[1:]
            self.slots = min([before, *(len(part) // 2 for part in tight)])
        if self.slots < before:
            self.say(f"memory: a {self.what} of {len(slots)} slots had no room; from now on {self.slots} go at once")
        return found, unfit


def _tried(work: Callable[[Sequence[Slot]], T], slots: Sequence[Slot]) -> tuple[T | None, str]:
    """What `work` returns for some slots; None and the allocator's message where memory is full."""
    try:
        return work(slots), ""
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
    torch.cuda.empty_cache()  # outside of `except`: its traceback holds on to the step's tensors
    return None, reason


@contextmanager
def translate_oom() -> Iterator[None]:
    """Raise a full memory that CUDA's driver or its libraries found as torch's allocator does.

    Raises:
        torch.OutOfMemoryError: memory is full.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in ("out of memory", "ALLOC_FAILED")):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
