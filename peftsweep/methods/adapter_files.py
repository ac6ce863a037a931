"""How is a trial's adapter written, and read again? In the two files that stock `peft` loads."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.errors import MethodError
from peftsweep.system import json_files, plain_files
from peftsweep.system.umask import umask_permissions


class AdapterFiles(ABC):
    """Writes and reads adapters. A method says how `peft` names and shapes its parameters.

    Attributes:
        linears: paths of the linear layers in the base's backbone.
    """

    linears: tuple[str, ...]
    name: ClassVar[str]

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
        tensors = {name: value.contiguous().clone() for name, value in self.tensors(weights, params).items()}
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

    def tensors(self, weights: Mapping[str, Tensor], params: TrainConfig) -> dict[str, Tensor]:
        """All tensors of the adapter's file, by their names there.

        Args:
            weights: as for `export`.

        Raises:
            MethodError: two have the same name.
        """
        stored = [self._stored(key, value, params) for key, value in weights.items()]
        stored += self.more_tensors(params).items()
        found = dict(stored)
        if len(found) < len(stored):
            twice = next(name for name, count in Counter(name for name, _ in stored).items() if count > 1)
            raise MethodError(f"method {self.name}: to_peft() and more_tensors() name two tensors {twice}")
        return found

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
