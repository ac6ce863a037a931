"""Methods that get into trouble during training. A spawned worker imports this file, so it imports little."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftsweep.config import MethodSpec
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.methods.lora import Lora, PackedLora


class CrampedLayer(PackedLora):
    """Records which process trains it, and has no room for two slots at once."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            Path(os.environ["PEFTSWEEP_TRAINED_IN"]).write_text(str(os.getpid()))
            if len(list(self.context.segments.by_slot())) > 1:
                raise torch.OutOfMemoryError("no room")
        return super().forward(x)


class Cramped(Lora):
    spec = MethodSpec("cramped", LoraHyperparameters)
    packed_layer = CrampedLayer


class HaltingLayer(PackedLora):
    """Waits as long as a file exists."""

    def forward(self, x: Tensor) -> Tensor:
        while Path(os.environ["STUCK"]).exists():
            time.sleep(0.05)
        return super().forward(x)


class Halting(Lora):
    spec = MethodSpec("halting", LoraHyperparameters)
    packed_layer = HaltingLayer


class LopsidedLayer(PackedLora):
    """Has no room for whatever is in the first slot."""

    def forward(self, x: Tensor) -> Tensor:
        first = any(slot == 0 for slot, *_ in self.context.segments.by_slot())
        if torch.is_grad_enabled() and first and "STARTED" in os.environ:
            raise torch.OutOfMemoryError("no room")
        return super().forward(x)


class Lopsided(Lora):
    spec = MethodSpec("lopsided", LoraHyperparameters)
    packed_layer = LopsidedLayer


def check_room() -> None:
    """Raises:
    torch.OutOfMemoryError: this process has the environment variable FULL, and the file that it names exists.
    """
    if "FULL" in os.environ and Path(os.environ["FULL"]).exists():
        raise torch.OutOfMemoryError("CUDA out of memory")


class FullLayer(PackedLora):
    def forward(self, x: Tensor) -> Tensor:
        check_room()
        return super().forward(x)


class Full(Lora):
    """Runs on a GPU whose memory another program has filled."""

    spec = MethodSpec("full", LoraHyperparameters)
    packed_layer = FullLayer

    def layer(self, *given: Any) -> PackedLora:
        check_room()
        return super().layer(*given)


class UnsendableError(BaseException):
    """Like the PanicException of tokenizers: it is not an Exception, and pickle cannot load what it dumped."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Broken(Lora):
    spec = MethodSpec("broken", LoraHyperparameters)

    def layer(self, *given: Any) -> PackedLora:
        raise UnsendableError("this", "that")
