"""How many slots a GPU holds, by measuring a step rather than by a formula of the architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.config import TrainConfig
from peftsweep.engine.batching import SlotChunk
from peftsweep.engine.limits import Limits
from peftsweep.engine.pack import Pack
from peftsweep.engine.slot_params import any_layout
from peftsweep.engine.trial import Trial
from peftsweep.errors import ModelError
from peftsweep.system.temporary import TemporaryFolder

FILL = 0.88  # of the card, what others have of it included; the allocator loses a few percent
CEILING = 0.92  # of the card, above which the allocator is not to go
EVALUATION = 0.04  # of the room beside the base, for a pass of an evaluation while training's graphs hold theirs
BUSY = 32768  # tokens of a pass that keep any GPU busy
MOST = 256  # slots: what a sweep does between steps takes its time for each
SPREAD = 1.1  # steps have so many more tokens than their mean, at times
PROBES = (2048, 8192)


def build_that_fits(build: Callable[[int], Pack], slots: int) -> Pack:
    """A pack of that many slots, or of half as many, and so on, as memory allows.

    Raises:
        torch.OutOfMemoryError: not even one slot fits.
    """
    while slots > 1:
        try:
            return build(slots)
        except torch.OutOfMemoryError:
            slots //= 2
        torch.cuda.empty_cache()
    return build(slots)


@dataclass(frozen=True)
class Plan:
    """How a pack is to fill a GPU, in bytes: `fixed + slots · slot + tokens · token + evaluated · evaluation` are to
    stay under `room`."""

    slots: int
    tokens: int  # of a pass, of all slots together
    evaluated: int  # tokens of an evaluation's pass
    fixed: int  # the base, and what a pass takes whatever its size
    slot: int  # a slot's weights, gradients and moments
    token: int  # activations that wait for backward
    evaluation: int  # activations of a token that do not
    room: int
    batch: float  # tokens of a slot in a step, on average

    @property
    def bytes(self) -> int:
        """What a step takes, if it is none of the longest."""
        tokens = min(self.tokens, int(SPREAD * self.slots * self.batch))
        return self.fixed + self.slots * self.slot + tokens * self.token + self.evaluated * self.evaluation

    def of(self, slots: int) -> Plan:
        """The same for another number of slots: what they do not take is for tokens. Fewer slots, where they would not
        leave room for one's batch."""
        left = self.room - self.fixed - self.evaluated * self.evaluation
        slots = max(1, min(slots, int((left - self.batch * self.token) // self.slot)))
        tokens = (left - slots * self.slot) // self.token
        return replace(self, slots=slots, tokens=max(1, min(2 * BUSY, tokens)))

    @property
    def limits(self) -> Limits:
        return Limits(slot_tokens=self.tokens, train_tokens=self.tokens, eval_tokens=self.evaluated)


def plan(build: Callable[[int], Pack], candidates: Sequence[TrainConfig], most: int) -> Plan:
    """How many slots a GPU holds, and how many tokens at once, by measuring two passes.

    They are measured before anything is compiled, and again with compiled blocks, which keep less, where that would
    make a difference.

    More slots than make a pass of `BUSY` tokens would only take turns; a pass that comes out longer all the same (a
    batch of long texts) is cut in two, so it is the mean text that counts here.

    Args:
        build: makes a pack of that many slots; released again here.
        most: slots that there are trials for.
    """
    pack = build_that_fits(build, 2)
    try:
        batch = max(params.batch_size for params in candidates) * float(pack.batcher.corpus.lengths.mean())
        wanted = min(most, MOST, math.ceil(BUSY / batch))
        found = planned(_measured(pack, candidates[0]), batch=batch, wanted=wanted)
        if found.slots < wanted and pack.compiled:
            pack.packed.compile()
            _peak(pack, candidates[0], 1)  # in which they are
            found = planned(_measured(pack, candidates[0]), batch=batch, wanted=wanted)
        return found
    finally:
        pack.release()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Measured:
    """Bytes: see `Plan`."""

    fixed: int
    slot: int
    token: int
    evaluation: int
    room: int


def planned(measured: Measured, *, batch: float, wanted: int) -> Plan:
    """The plan from what was measured.

    Args:
        batch: tokens of a slot in a step, on average.
        wanted: slots, if there is room.
    """
    beside = max(0, measured.room - measured.fixed)
    evaluated = min(2 * BUSY, max(1, int(EVALUATION * beside / measured.evaluation)))
    left = max(0, beside - evaluated * measured.evaluation)
    slots = max(1, min(wanted, int(left // (measured.slot + SPREAD * batch * measured.token))))
    return Plan(slots, 0, evaluated, **asdict(measured), batch=batch).of(slots)


@dataclass(frozen=True)
class Probe:
    tokens: int
    bytes: int  # at the peak


def _measured(pack: Pack, params: TrainConfig) -> Measured:
    few, many, evaluation = _probes(pack, params)
    matrices = (pack.stack.weights, pack.stack.grads, *pack.stack.moments.values())
    slot = sum(matrix[0].numel() * matrix.element_size() for matrix in matrices)
    free, whole = torch.cuda.mem_get_info(pack.packed.device)
    others = whole - free - torch.cuda.memory_reserved(pack.packed.device)  # other programs, and CUDA's own
    room = max(0, int(FILL * whole) - others)
    token = max(1, (many.bytes - few.bytes) // (many.tokens - few.tokens))
    return Measured(few.bytes - few.tokens * token - len(pack.slots) * slot, slot, token, evaluation, room)


def _probes(pack: Pack, params: TrainConfig) -> tuple[Probe, Probe, int]:
    """Two passes of different sizes, as large as fit (a large base on a small card has room for few tokens), and the
    bytes a token of one without backward.

    Raises:
        ModelError: not even a handful of texts.
    """
    for smaller in (1, 4, 16):
        few, many = (_texts(pack, tokens // smaller) for tokens in PROBES)
        try:
            probes = _peak(pack, params, few), _peak(pack, params, max(many, few + 1))
            return *probes, _of_an_evaluation(pack, few * len(pack.slots))
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
    raise ModelError("the base leaves no room on the GPU to train with; take a smaller one, or qlora")


def _texts(pack: Pack, tokens: int) -> int:
    """Texts of each slot that make so many tokens together."""
    return max(1, round(tokens / len(pack.slots) / float(pack.batcher.corpus.lengths.mean())))


def _some(lengths: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """So many texts, evenly taken from short ones and long ones; the middle one where it is one."""
    places = (np.arange(count) + 0.5) / count * len(lengths)
    texts: NDArray[np.int64] = np.argsort(lengths)[places.astype(int)]
    return texts


def _peak(pack: Pack, params: TrainConfig, count: int) -> Probe:
    """A pass over so many texts in each slot of the pack."""
    lengths = pack.batcher.corpus.lengths
    texts = _some(lengths, count)
    tokens = int(lengths[texts].sum())
    with TemporaryFolder() as folder:
        running = [pack.slots.put(i, Trial(i, 0, params, folder)) for i in range(len(pack.slots))]
        try:
            torch.cuda.reset_peak_memory_stats(pack.packed.device)
            with any_layout():
                chunks = [SlotChunk(slot, len(texts), (0, 0), texts, tokens) for slot in running]
                pack.runner.backward(pack.batcher.micro_batch(chunks))
        finally:
            for slot in running:
                pack.slots.vacate(slot)
    return Probe(len(running) * tokens, torch.cuda.max_memory_allocated(pack.packed.device))


def _of_an_evaluation(pack: Pack, count: int) -> int:
    """Bytes a token of a pass without backward."""
    texts = _some(pack.evaluator.unseen.lengths, count)
    before = torch.cuda.memory_allocated(pack.packed.device)
    torch.cuda.reset_peak_memory_stats(pack.packed.device)
    pack.runner.logits([0], [texts], pack.evaluator.unseen)
    taken = torch.cuda.max_memory_allocated(pack.packed.device) - before
    return max(1, taken // int(pack.evaluator.unseen.lengths[texts].sum()))


@contextmanager
def capped(device: torch.device) -> Iterator[None]:
    """Let this process take no more of a GPU than `CEILING`, whatever its allocator would like to keep."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(CEILING, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
