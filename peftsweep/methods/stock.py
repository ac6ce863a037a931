"""A trained adapter by stock `peft`, as its users have it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import safe_open

from peftsweep.errors import ExportError
from peftsweep.quoting import word

KINDS = ("LORA", "IA3")  # as peft calls them
FILES = ("adapter_config.json", "adapter_model.safetensors")


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


def _check_ours(folder: Path) -> None:
    for name in FILES:
        if not (folder / name).is_file():
            raise ExportError(f"{folder}: {name} is gone; export it again")
    try:
        said = json.loads((folder / FILES[0]).read_bytes())
        ours = said["peft_type"] in KINDS and not said.get("megatron_config")
    except (ValueError, KeyError, TypeError, AttributeError):
        ours = False
    if not ours:
        raise ExportError(f"{folder}: {FILES[0]} describes no adapter that peftsweep writes; export it again")


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
