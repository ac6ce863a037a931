"""What a method is to the pack: which layers it adapts, its packed layers, and the files that stock `peft` reads."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftsweep.config import MethodSpec, TrainConfig
from peftsweep.errors import ModelError
from peftsweep.layers import LayerSpec, PackedLayer
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.system import json_files, plain_files
from peftsweep.system.umask import umask_permissions


class Method(ABC):
    """A method on one base: which layers it adapts, what they hold, and the files that stock `peft` reads.

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

    @classmethod
    @abstractmethod
    def config_class(cls) -> Any:
        """peft's class of configurations. (An import of peft takes seconds, so it is inside.)"""

    @classmethod
    def peft_type(cls) -> str:
        return str(cls.config_class()().peft_type.value)

    @abstractmethod
    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        """The `peft.PeftConfig` of one trial."""

    @abstractmethod
    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        """A slot's parameter as peft stores it: its name without the module's path, and its shape."""

    def from_peft(self, path: str, parameter: str, stored: Tensor, params: TrainConfig) -> Tensor:
        """The reverse: a slot's parameter, of any shape with as many elements."""
        return stored

    def more_tensors(self, params: TrainConfig) -> Mapping[str, Tensor]:
        """What peft needs in the adapter's file besides trained parameters, by its full names there."""
        return {}

    def export(
        self, folder: Path, *, weights: Mapping[str, Tensor], params: TrainConfig, source: str, revision: str | None
    ) -> None:
        """Write the adapter of one trial where stock `peft` loads it: adapter_config.json, adapter_model.safetensors.

        Args:
            weights: the trial's own tensors, unpadded, by `path:parameter`.
            source: what `from_pretrained` takes for the base.
        """
        stored = (self._stored(key, value, params) for key, value in weights.items())
        tensors = {name: value.contiguous().clone() for name, value in (*stored, *self.more_tensors(params).items())}
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
        with umask_permissions(folder / "adapter_model.safetensors") as file:
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
            stored = tensors[self._stored(key, part, params)[0]]
            path, parameter = key.split(":")
            if path in self.linears:
                stored = self.from_peft(path, parameter, stored, params)
            part.copy_(stored.reshape(part.shape))

    def _stored(self, key: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        """A tensor as peft's file has it, by its full name there."""
        path, parameter = key.split(":")
        if path in self.linears:
            parameter, value = self.to_peft(path, parameter, value, params)
        return f"base_model.model.{path}.{parameter}", value


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
