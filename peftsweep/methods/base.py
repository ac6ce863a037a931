"""What a parameter-efficient method is to the pack: its layers over stacked parameters, and its export.

A *packed layer* wraps one frozen linear layer and holds one adapter per slot, stacked along dim 0. It works on flat
activations `[rows, features]` in which each occupied slot owns one stretch of rows (`Segments`), so no slot's numbers
ever meet another's.
"""

from __future__ import annotations

import json
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.errors import ModelError
from peftsweep.system import json_files, plain_files
from peftsweep.system.umask import of_umask

TILE = 64  # rows of one slot that a GPU's kernels take at once
FAR = 1 << 30  # a row that there is not


@dataclass(frozen=True)
class Segments:
    """Which rows of a flat activation `[rows, d]` belong to which slot: `bounds[i][0] : bounds[i][1]` to `slots[i]`.

    Attributes:
        skipped: by slot, rows of its batch that went through before, where that goes in parts: dropout falls on an
            element by its place in the whole batch, so that it does not matter where that is cut.
        edges: the bounds as kernels take them, of all K slots by index, and what is skipped: [K, 3] int32, zero for a
            slot without rows.
        tiles: the same cut into tiles of `TILE` rows: [n, 2] int32, each tile's slot and first row. There are always
            as many for so many rows; those too many begin at `FAR`.
    """

    slots: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    skipped: Mapping[int, int] = field(default_factory=dict)
    edges: Tensor | None = None
    tiles: Tensor | None = None

    def stretches(self) -> Iterable[tuple[int, int, int]]:
        """(slot, first row, row after the last)."""
        return ((slot, start, stop) for slot, (start, stop) in zip(self.slots, self.bounds, strict=True))


def tiled(segments: Segments, slots: int, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The edges and tiles of segments of an activation of so many rows, in a pack of so many slots."""
    edges, tiles = np.zeros((slots, 3), np.int32), np.full((rows // TILE + slots, 2), (0, FAR), np.int32)
    at = 0
    for slot, start, stop in segments.stretches():
        edges[slot] = start, stop, segments.skipped.get(slot, 0)
        firsts = np.arange(start, stop, TILE)
        tiles[at : at + len(firsts), 0], tiles[at : at + len(firsts), 1] = slot, firsts
        at += len(firsts)
    return edges, tiles


@dataclass(frozen=True)
class Texts:
    """The texts of k slots as the head sees them: a batch [k, n], n being the most that a slot has."""

    slots: Tensor  # [k]
    real: Tensor  # [k, n] zero where a slot has no more texts

    @property
    def pads(self) -> Tensor:
        """[k, n, 1] where there is no text."""
        return (self.real == 0)[:, :, None]


@dataclass(frozen=True)
class Masks:
    """What dropout falls on in a pass.

    Attributes:
        keys: `keys[slot]`, the trial's seed and its step, seeds the slot's masks.
        keep, seeds: the same as kernels take it: the share that is kept [K] float32, and [K] int32.
    """

    keys: Mapping[int, tuple[int, int]]
    keep: Tensor
    seeds: Tensor


class ForwardContext(threading.local):
    """The forward pass under way in a thread, shared by all packed layers of a pack. What threads have in common is
    what they are made of.

    Attributes:
        fused: whether the adapters run as a GPU's kernels.
        segments: of the tokens in the backbone, of the pooled ones at its end, of the texts in the head; `edges` and
            `tiles` are its own.
        texts: the head's batch.
        pooled: the hidden states that the head reads [k·n, 1, d].
        keys: see `Masks`; None where nothing is dropped (evaluation).
        keep, seeds: see `Masks`.
        dropouts: [K] of the trials in the slots, one list for all threads.
        may_drop: whether any trial has dropout.
        drops: whether there may be any in this pass. (Whether there is would be one more variant to compile.)
    """

    def __init__(self, dropouts: list[float], device: torch.device, fused: bool, may_drop: bool = True) -> None:
        slots = len(dropouts)
        self.fused, self.may_drop, self.dropouts = fused, may_drop, dropouts
        self.segments = Segments((), ())
        self.edges = self.tiles = torch.empty(0)
        self.texts: Texts | None = None
        self.pooled = torch.empty(0)
        self.keys: Mapping[int, tuple[int, int]] | None = None
        self.nothing = Masks({}, torch.ones(slots, device=device), torch.zeros(slots, dtype=torch.int32, device=device))
        self.keep, self.seeds, self.drops = self.nothing.keep, self.nothing.seeds, False

    def begin(self, segments: Segments, texts: Texts, masks: Masks | None) -> None:
        """Set all of it for the next pass."""
        self.texts = texts
        self.keys, self.drops = None if masks is None else masks.keys, self.may_drop and masks is not None
        masks = masks or self.nothing
        self.keep, self.seeds = masks.keep, masks.seeds
        self.turn_to(segments)

    def turn_to(self, segments: Segments) -> None:
        """The rows that come next: tokens, then one row a text, then the head's batch."""
        self.segments = segments
        if segments.edges is not None and segments.tiles is not None:
            self.edges, self.tiles = segments.edges, segments.tiles

    def drawn(self, keys: Mapping[int, tuple[int, int]]) -> dict[str, NDArray[Any]]:
        """`keep` and `seeds` of `Masks` for these keys."""
        keep, seeds = np.ones(len(self.dropouts), np.float32), np.zeros(len(self.dropouts), np.uint32)
        for slot, key in keys.items():
            keep[slot] = 1 - self.dropouts[slot]
            seeds[slot] = np.random.SeedSequence(key).generate_state(1)[0]
        return {"keep": keep, "seeds": seeds.view(np.int32)}


class PackedLayer(nn.Module, ABC):
    """One frozen layer with the adapters of all slots. Subclasses say which, how they start and act."""

    def __init__(self, inner: nn.Module, name: str, index: int, current: ForwardContext, slots: int) -> None:
        super().__init__()
        self.inner = inner
        self.name = name  # the module's path in the base model
        self.index = index  # its place among the packed layers: a part of the dropout seed
        self.current = current
        self.active = [False] * slots  # whether a slot's trial adapts this layer
        self.stacked: dict[str, Tensor] = {}  # leaves, [K, …]; no nn.Parameter, whose shapes torch.compile would fix
        # The frozen weight as kernels take it: [d_out, d_in], or two values a byte and a scale for each 64 (NF4).
        self.frozen: tuple[Tensor, Tensor | None] = (inner.weight, None)  # type: ignore[assignment]

    @property
    def in_features(self) -> int:
        return int(self.inner.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.inner.out_features)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The frozen layer's own, as `peft`'s layers have it: some bases look at it, at its dtype mostly."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias  # type: ignore[return-value]

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of one slot, padded to the widest trial."""

    @abstractmethod
    def shape_of(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        """The part of a slot's padded parameter that a trial with these hyperparameters uses."""

    @abstractmethod
    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """Take a new trial into the slot. Its parameters' first values, on the CPU, of the trial's own shapes; those
        that are not named begin at zero."""

    def place(self, stacked: Mapping[str, Tensor]) -> None:
        """Take the stacked parameters, on their device."""
        self.stacked = dict(stacked)

    def clear(self, slot: int) -> None:
        """The slot's trial is over; its parameters are zero."""
        self.active[slot] = False


class Method(ABC):
    """A method on one base: which layers it adapts, what they hold, and the files that stock `peft` reads.

    Args:
        model: the base, a `transformers` model for sequence classification.
        linears: paths of the linear layers in its backbone.
    """

    name: ClassVar[str]
    four_bit: ClassVar[bool] = False
    hyperparameters: ClassVar[frozenset[str]]

    def __init__(self, model: nn.Module, linears: Sequence[str]) -> None:
        self.linears = tuple(linears)
        self.modules = tuple(name for name, _ in model.named_modules())
        self.architecture = str(model.config.get_text_config().model_type)  # type: ignore[union-attr,operator]

    @abstractmethod
    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        """Paths of the layers that a trial with these hyperparameters adapts."""

    @abstractmethod
    def layer(
        self,
        inner: nn.Module,
        name: str,
        index: int,
        current: ForwardContext,
        slots: int,
        candidates: Sequence[TrainConfig],
    ) -> PackedLayer:
        """A packed layer wide enough for all the candidates."""

    @abstractmethod
    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        """The `peft.PeftConfig` of one trial."""

    @abstractmethod
    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        """A slot's parameter as peft stores it: its name without the module's path, and its shape."""

    def export(
        self, folder: Path, *, weights: Mapping[str, Tensor], params: TrainConfig, source: str, revision: str | None
    ) -> None:
        """Write the adapter of one trial where stock `peft` loads it: adapter_config.json, adapter_model.safetensors.

        Args:
            weights: the trial's own tensors, unpadded, by `path:parameter`.
            source: what `from_pretrained` takes for the base.
        """
        stored = (self._stored(key, value, params) for key, value in weights.items())
        tensors = {name: value.contiguous().clone() for name, value in stored}
        heads = {key.split(":")[0] for key in weights} - set(self.linears)
        config = self.peft_config(
            params,
            task_type="SEQ_CLS",
            base_model_name_or_path=source,
            revision=revision,
            inference_mode=True,
            modules_to_save=sorted({path.split(".")[0] for path in heads}),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with of_umask(folder / "adapter_model.safetensors") as file:
            save_file(tensors, file, metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        # peft writes sets in an order that changes from run to run; equal adapters shall be equal files
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(_sorted(json_files.read(file)), indent=2, sort_keys=True) + "\n")

    def read(self, folder: Path, parts: Mapping[str, Tensor], params: TrainConfig) -> None:
        """Fill a trial's tensors, by `path:parameter`, from the adapter that `export` wrote."""
        file = folder / "adapter_model.safetensors"
        plain_files.check(file)
        tensors = load_file(file)
        for key, part in parts.items():
            name, stored = self._stored(key, part, params)
            part.copy_(tensors[name].reshape(part.shape).to(stored.device))

    def _stored(self, key: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        """A tensor as peft's file has it, by its full name there."""
        path, parameter = key.split(":")
        if path in self.linears:
            parameter, value = self.to_peft(path, parameter, value, params)
        return f"base_model.model.{path}.{parameter}", value


def moved(values: NDArray[Any], device: torch.device) -> Tensor:
    """On the device; to a GPU from pinned memory, without which the copy would wait for all work under way."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _sorted(value: dict[str, Any]) -> dict[str, Any]:
    return {k: sorted(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v for k, v in value.items()}


def select(linears: Sequence[str], wanted: Sequence[str], key: str = "target_modules") -> tuple[str, ...]:
    """The layers whose path ends in one of the wanted names, as peft matches a list of target modules.

    Args:
        key: where the names stand in the study file.

    Raises:
        ModelError: a name matches nothing.
    """
    chosen = tuple(path for path in linears if any(path == name or path.endswith("." + name) for name in wanted))
    idle = [name for name in wanted if not any(path == name or path.endswith("." + name) for path in linears)]
    if idle:
        known = sorted({path.rsplit(".", 1)[-1] for path in linears})
        raise ModelError(f"{key}: {', '.join(idle)} match no linear layer of the base; it has {', '.join(known)}")
    return chosen


def shortest_names(targets: Sequence[str], others: Iterable[str]) -> list[str]:
    """Names by which peft finds exactly the targets among all modules: last components if they do, else full paths."""
    last = sorted({path.rsplit(".", 1)[-1] for path in targets})
    strangers = set(others) - set(targets)
    if any(path == name or path.endswith("." + name) for path in strangers for name in last):
        return sorted(targets)
    return last


def random_bits(shape: tuple[int, ...], device: torch.device, key: tuple[int, ...]) -> Tensor:
    """Uniform int16 of the given shape, the same for the same key whatever else runs.

    On a CPU by numpy's SFC64, which draws 64 bits in a third of the time of torch's Mersenne twister (dropout on
    [432, 384] took 0.2 ms instead of 1.9); on a GPU by a Philox generator of its own.
    """
    words = math.ceil(math.prod(shape) / 4)
    if device.type == "cpu":
        raw = torch.from_numpy(np.random.SFC64(np.random.SeedSequence(key)).random_raw(words).view(np.int64))
    else:
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
        raw = torch.empty(words, dtype=torch.int64, device=device)
        raw.random_(-(2**63), None, generator=torch.Generator(device).manual_seed(seed))
    return raw.view(torch.int16)[: math.prod(shape)].view(shape)


def keep_mask(
    shape: tuple[int, ...], device: torch.device, key: tuple[int, ...], dropout: float, dtype: torch.dtype
) -> Tensor:
    """Mask of ones and zeros that keeps each element with probability 1 - dropout (to 1/65536).

    In the activations' own dtype: a product with a boolean mask would convert it each time.
    """
    mask = torch.empty(shape, dtype=dtype, device=device)
    return torch.ge(random_bits(shape, device, key), round(dropout * 65536) - 32768, out=mask)
