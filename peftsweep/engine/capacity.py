"""How many slots fit on a GPU (`--slots auto`)? Measured by a step, not computed from the architecture.

On a CPU it is a constant: `CPU_SLOTS` in workers/worker.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.config import TrainConfig, four_bit_methods
from peftsweep.engine.batching import SlotChunk
from peftsweep.engine.limits import Limits
from peftsweep.engine.pack import Pack
from peftsweep.engine.slot_weights import any_layout
from peftsweep.engine.trial import Trial
from peftsweep.errors import ModelError
from peftsweep.system.temporary import TemporaryFolder

FILL = 0.88  # share of the card that may be used, by other programs too; the allocator loses a few percent
CEILING = 0.92  # share of the card that the allocator must not exceed
EVALUATION = 0.04  # share of the memory beside the base for an evaluation's pass, while training's graphs hold theirs
BUSY = 32768  # tokens in a pass that keep any GPU busy
MAX_SLOTS = 256  # the work of a sweep between two steps grows with each
SPREAD = 1.1  # the tokens of a large step over those of the mean step
PROBES = (2048, 8192)


def build_that_fits(build: Callable[[int], Pack], slots: int) -> Pack:
    """Build a pack of that many slots; if memory does not allow it, of half as many, and so on.

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
    """How a pack fills a GPU: `fixed + slots · slot + tokens · token + evaluated · evaluation` bytes stay under
    `room`."""

    slots: int
    tokens: int  # in a pass, of all slots together
    evaluated: int  # tokens in an evaluation's pass
    fixed: int  # the base, and what a pass needs whatever its size
    slot: int  # a slot's weights, gradients and moments
    token: int  # activations of a token, kept for backward
    evaluation: int  # activations of a token in a pass without backward
    room: int
    batch: float  # mean tokens of a slot in a step

    @property
    def bytes(self) -> int:
        """Memory of a step that is not one of the longest."""
        tokens = min(self.tokens, int(SPREAD * self.slots * self.batch))
        return self.fixed + self.slots * self.slot + tokens * self.token + self.evaluated * self.evaluation

    def for_slots(self, slots: int) -> Plan:
        """The plan for another number of slots: the memory that they leave is for tokens. The slots become fewer if
        they would not leave room for the batch of one of them."""
        left = self.room - self.fixed - self.evaluated * self.evaluation
        slots = max(1, min(slots, int((left - self.batch * self.token) // self.slot)))
        tokens = (left - slots * self.slot) // self.token
        return replace(self, slots=slots, tokens=max(1, min(2 * BUSY, tokens)))

    @property
    def limits(self) -> Limits:
        return Limits(slot_tokens=self.tokens, train_tokens=self.tokens, eval_tokens=self.evaluated)


def plan(build: Callable[[int], Pack], candidates: Sequence[TrainConfig], most: int) -> Plan:
    """Measure two passes to find how many slots and how many tokens at once fit on a GPU.

    The passes are measured before anything is compiled. They are measured again with compiled blocks, which keep less
    memory, if that could change the result.

    Once a pass has `BUSY` tokens, more slots would only take turns. A pass that becomes longer because its texts are
    long is split in two, so the mean length of a text counts here.

    Args:
        build: makes a pack of that many slots. It is released here.
        most: the number of trials, which no more slots are needed for.
    """
    pack = build_that_fits(build, 2)
    try:
        batch = max(params.batch_size for params in candidates) * float(pack.batcher.corpus.lengths.mean())
        wanted = min(most, MAX_SLOTS, math.ceil(BUSY / batch))
        found = plan_from(_measure(pack, candidates[0]), batch=batch, wanted=wanted)
        if found.slots < wanted and pack.compiled:
            pack.packed.compile(last=pack.compiles_last)
            _peak(pack, candidates[0], 1)  # this pass compiles them
            found = plan_from(_measure(pack, candidates[0]), batch=batch, wanted=wanted)
        return found
    finally:
        pack.release()
        torch.cuda.empty_cache()


def in_equal_turns(trials: int, slots: int) -> int:
    """As few slots as train this many trials in no more turns. A few trials left for the end would take nearly as long
    as a full pack."""
    return math.ceil(trials / math.ceil(trials / slots))


@dataclass(frozen=True)
class Measured:
    """Bytes: see `Plan`."""

    fixed: int
    slot: int
    token: int
    evaluation: int
    room: int


def plan_from(measured: Measured, *, batch: float, wanted: int) -> Plan:
    """The plan that follows from measurements.

    Args:
        batch: mean tokens of a slot in a step.
        wanted: the number of slots if they fit.
    """
    beside = max(0, measured.room - measured.fixed)
    evaluated = min(2 * BUSY, max(1, int(EVALUATION * beside / measured.evaluation)))
    left = max(0, beside - evaluated * measured.evaluation)
    slots = max(1, min(wanted, int(left // (measured.slot + SPREAD * batch * measured.token))))
    return Plan(slots, 0, evaluated, **asdict(measured), batch=batch).for_slots(slots)


@dataclass(frozen=True)
class Probe:
    tokens: int
    bytes: int  # peak


def _measure(pack: Pack, params: TrainConfig) -> Measured:
    few, many, evaluation = _probes(pack, params)
    matrices = (pack.stack.weights, pack.stack.grads, *pack.stack.moments.values())
    slot = sum(matrix[0].numel() * matrix.element_size() for matrix in matrices)
    free, whole = torch.cuda.mem_get_info(pack.packed.device)
    others = whole - free - torch.cuda.memory_reserved(pack.packed.device)  # other programs, and CUDA's own
    room = max(0, int(FILL * whole) - others)
    token = max(1, (many.bytes - few.bytes) // (many.tokens - few.tokens))
    return Measured(few.bytes - few.tokens * token - len(pack.slots) * slot, slot, token, evaluation, room)


def _probes(pack: Pack, params: TrainConfig) -> tuple[Probe, Probe, int]:
    """Two passes of different sizes, as large as fit (a large base leaves a small card room for few tokens), and the
    bytes per token of a pass without backward.

    Raises:
        ModelError: not even a handful of texts fits.
    """
    for smaller in (1, 4, 16):
        few, many = (_texts(pack, tokens // smaller) for tokens in PROBES)
        try:
            probes = _peak(pack, params, few), _peak(pack, params, max(many, few + 1))
            return *probes, _evaluation_bytes(pack, few * len(pack.slots))
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
    raise ModelError(f"the base leaves no room on the GPU to train with; take a smaller one, or {four_bit_methods()}")


def _texts(pack: Pack, tokens: int) -> int:
    """How many texts of each slot make about `tokens` tokens together."""
    return max(1, round(tokens / len(pack.slots) / float(pack.batcher.corpus.lengths.mean())))


def _spread_texts(lengths: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` texts spread evenly over the lengths; the median text if it is one."""
    places = (np.arange(count) + 0.5) / count * len(lengths)
    texts: NDArray[np.int64] = np.argsort(lengths)[places.astype(int)]
    return texts


def _peak(pack: Pack, params: TrainConfig, count: int) -> Probe:
    """Run a pass over `count` texts in each slot, and measure its peak."""
    lengths = pack.batcher.corpus.lengths
    texts = _spread_texts(lengths, count)
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


def _evaluation_bytes(pack: Pack, count: int) -> int:
    """Bytes per token of a pass without backward."""
    texts = _spread_texts(pack.evaluator.validation_corpus.lengths, count)
    before = torch.cuda.memory_allocated(pack.packed.device)
    torch.cuda.reset_peak_memory_stats(pack.packed.device)
    pack.runner.logits([0], [texts], pack.evaluator.validation_corpus)
    taken = torch.cuda.max_memory_allocated(pack.packed.device) - before
    return max(1, taken // int(pack.evaluator.validation_corpus.lengths[texts].sum()))


@contextmanager
def capped(device: torch.device) -> Iterator[None]:
    """Limit this process to `CEILING` of the GPU, whatever its allocator would keep."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(CEILING, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
