"""A trained adapter by stock `peft`, as its users have it."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open

from peftsweep.errors import ExportError
from peftsweep.safe_text.quoting import word
from peftsweep.system import json_files

FILES = ("adapter_config.json", "adapter_model.safetensors")
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]  # of a layer: peft takes some for patterns


def attached(model: Any, folder: Path) -> Any:
    """The base with the adapter of a folder on it, for inference.

    Raises:
        ExportError: the folder's adapter is none that peftsweep writes. Other kinds load models and tokenizers of their
            own, and import modules that they name. Or weights are missing in it, which peft makes up.
    """
    from peft import PeftModel

    _check_ours(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PeftModel.from_pretrained(model, str(folder), is_trainable=False, trust_remote_code=False).eval()
    _check_whole(found, folder)
    return found


class _Described(BaseModel):
    """What peftsweep says in adapter_config.json. peft has three dozen keys more, which take code, patterns that may
    never end, or copies of layers; all of those have to be as peft has them by default."""

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: Literal["LORA", "IA3"]
    task_type: Literal["SEQ_CLS"]
    target_modules: Annotated[list[Name], Field(min_length=1)]
    feedforward_modules: list[Name] | None = None
    modules_to_save: list[Name] | None = None
    r: Annotated[int, Field(ge=1)] = 1
    lora_alpha: float = 1.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    inference_mode: bool = True
    init_lora_weights: Literal[True] = True
    init_ia3_weights: Literal[True] = True
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None


def _check_ours(folder: Path) -> None:
    from peft import IA3Config, LoraConfig

    for name in FILES:
        if not (folder / name).is_file():
            raise ExportError(f"{folder}: {name} is gone; export it again")
    try:
        said = _Described.model_validate(json_files.read(folder / FILES[0]))
        plain = vars(LoraConfig() if said.peft_type == "LORA" else IA3Config())
        strange = [key for key, value in (said.model_extra or {}).items() if value not in (plain.get(key, value), None)]
    except ValidationError as error:
        strange = [str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else "nothing"]
    except (OSError, ValueError):
        strange = ["nothing that is JSON"]
    if strange:
        raise ExportError(
            f"{folder}: {FILES[0]} describes no adapter that peftsweep writes ({word(strange[0])}); export it again"
        )
    with safe_open(folder / FILES[1], "pt") as file:
        sizes = [size for key in file.keys() for size in file.get_slice(key).get_shape()]  # noqa: SIM118
    if said.r > max(sizes, default=0):
        raise ExportError(f"{folder}: {FILES[0]} has a rank that no weight of {FILES[1]} has; export it again")


def _check_whole(model: Any, folder: Path) -> None:
    """peft takes the weights that have the names it looks for, and warns of others at most."""
    from peft import get_peft_model_state_dict

    parameters = dict(model.named_parameters())
    wanted = get_peft_model_state_dict(model, state_dict=parameters, save_embedding_layers=False).keys()
    with safe_open(folder / FILES[1], "pt") as file:
        there = set(file.keys())
    if strange := sorted(wanted ^ there):
        what = f"{'has no' if strange[0] in wanted else 'has a weight of no use,'} {word(strange[0])}"
        raise ExportError(f"{folder}: {FILES[1]} {what}: it is not the adapter of {FILES[0]}; export it again")


def taken_elsewhere(model: Any, names: Collection[str]) -> frozenset[str]:
    """Those of some names of linear layers that peft takes for a model's experts. transformers 5 stacks experts, and
    peft puts adapters there that are for layers called as theirs once were (`gate_proj`, say), whatever they are for.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=sorted(names))
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # some layers of an expert are among them, and others not
        return frozenset(names)
    return frozenset(names) - set(config.target_modules or ())


def merged(model: Any) -> Any:
    """A plain model: the adapter multiplied into the base's own weights, which it changes in place."""
    return model.merge_and_unload()
