"""What is a method? Which layers of the base it adapts, and with which packed layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from peftsweep.config import MethodSpec, TrainConfig
from peftsweep.errors import ModelError
from peftsweep.layers import LayerSpec, PackedLayer
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.methods.adapter_files import AdapterFiles


class Method(AdapterFiles):
    """A method on one base.

    Args:
        model: the base, a `transformers` model for sequence classification.
        linears: paths of the linear layers in its backbone.

    Attributes:
        constants: frozen tensors, on the CPU, that an adapter's file is made from besides the trained ones. Whoever
            writes the file has no base: what comes from the base must be taken when the layers are made.
    """

    spec: ClassVar[MethodSpec]
    name: ClassVar[str]  # its spec's
    four_bit: ClassVar[bool]  # its spec's
    adapter_file: ClassVar[type[AdapterFile]]

    def __init_subclass__(cls) -> None:
        cls.name, cls.four_bit = cls.spec.name, cls.spec.four_bit

    def __init__(self, model: nn.Module, linears: Sequence[str]) -> None:
        self.linears = tuple(linears)
        self.constants: dict[str, Tensor] = {}
        self.modules = tuple(name for name, _ in model.named_modules())
        self.architecture = str(model.config.get_text_config().model_type)  # type: ignore[union-attr,operator]

    @abstractmethod
    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        """Paths of the layers that a trial with these hyperparameters adapts."""

    @abstractmethod
    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedLayer:
        """A packed layer wide enough for all the candidates."""

    def may_drop(self, params: TrainConfig) -> bool:
        """Whether a trial with these hyperparameters has dropout."""
        return False

    def widest(self, candidates: Sequence[TrainConfig]) -> TrainConfig:
        """The candidate with the most trainable parameters in a layer, without its dropout."""
        return candidates[0]

    @classmethod
    @abstractmethod
    def config_class(cls) -> Any:
        """peft's class of configurations. (An import of peft takes seconds, so it is inside.)"""

    @classmethod
    def peft_type(cls) -> str:
        return str(cls.config_class()().peft_type.value)


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
