"""What happens when memory is full? The work is repeated with fewer slots at a time, until it fits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch

from peftsweep.engine.limits import Say, silent
from peftsweep.engine.slot import Slot
from peftsweep.errors import first_line

T = TypeVar("T")
# What `make_room` could do after work ran out of memory: it freed memory, shortened the pass of the only slot, or found
# nothing to do.
RoomMade = Literal["freed", "shortened", "none"]
UNFIT = "out of memory, even alone"  # begins the reason of a trial that does not fit


class Unfit(NamedTuple):
    """A slot that does not fit into memory even alone, and the allocator's message."""

    slot: Slot
    reason: str


@dataclass
class BackOff:
    """Runs work in groups of slots, and halves the group for good when it does not fit into memory.

    Attributes:
        slots: slots in a group.
        what: the name of the work in notes.
        say: called with a note when the group becomes smaller.
    """

    slots: int
    what: str = "step"
    say: Say = silent

    def run(
        self,
        work: Callable[[Sequence[Slot]], dict[int, T]],
        slots: Sequence[Slot],
        make_room: Callable[[Sequence[Slot], bool], RoomMade],
    ) -> tuple[dict[int, T], list[Unfit]]:
        """Run `work` on the slots, in groups that fit.

        A group that does not fit is split in halves. If one of its slots does not fit even alone, that slot was the
        cause, and the group size of the others stays as it was.

        Args:
            make_room: undoes an attempt that ran out of memory, and makes room if it can. Its second argument says
                whether the same slots ran out of memory in the attempt before, too.

        Returns:
            What `work` returned, by slot; and the slots that do not fit even alone.
        """
        found: dict[int, T] = {}
        unfit: list[Unfit] = []
        waiting, before = list(slots), self.slots
        tight: list[Sequence[Slot]] = []  # groups that did not fit
        tried: Sequence[Slot] = ()
        while waiting:
            group = waiting[: self.slots]
            done, reason = _attempt(work, group)
            if done is not None:
                found |= done
                waiting = waiting[len(group) :]
                continue
            again = len(group) == len(tried) and all(map(operator.is_, group, tried))
            tried, made = group, make_room(group, again)
            if made == "freed":
                continue
            if len(group) > 1:
                tight.append(group)
            else:
                tight = [part for part in tight if all(slot is not group[0] for slot in part)]
                if made == "none":
                    unfit.append(Unfit(group[0], reason))
                    waiting = waiting[1:]
            self.slots = min([before, *(len(part) // 2 for part in tight)])
        if self.slots < before:
            self.say(f"memory: a {self.what} of {len(slots)} slots did not fit; from now on {self.slots} run at once")
        return found, unfit


def _attempt(work: Callable[[Sequence[Slot]], T], slots: Sequence[Slot]) -> tuple[T | None, str]:
    """Run `work` on some slots; returns None and the allocator's message if memory is full."""
    try:
        return work(slots), ""
    except torch.OutOfMemoryError as error:
        reason = first_line(error)
    torch.cuda.empty_cache()  # not inside `except`, whose traceback keeps the step's tensors alive
    return None, reason


@contextmanager
def translate_oom() -> Iterator[None]:
    """Turn the errors by which CUDA's driver and libraries report full memory into torch's.

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
