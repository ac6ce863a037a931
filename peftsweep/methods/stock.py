"""A trained adapter by stock `peft`, as its users have it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open

from peftsweep.errors import ExportError
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.methods.method import Method
from peftsweep.methods.registry import METHODS
from peftsweep.safe_text.quoting import word
from peftsweep.system import json_files

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
        raw = json_files.read(folder / FILES[0])
        read = [_read(raw, kind) for kind in _kinds(raw)] or ["peft_type"]
    except ValidationError as error:
        read = [_first_key(error)]
    except (OSError, ValueError):
        read = ["nothing that is JSON"]
    said = next((one for one in read if isinstance(one, AdapterFile)), read[0])
    if isinstance(said, str):
        raise ExportError(
            f"{folder}: {FILES[0]} describes no adapter that peftsweep writes ({word(said)}); export it again"
        )
    with safe_open(folder / FILES[1], "pt") as file:
        sizes = [size for key in file.keys() for size in file.get_slice(key).get_shape()]  # noqa: SIM118
    if said.rank > max(sizes, default=0):
        raise ExportError(f"{folder}: {FILES[0]} has a rank that no weight of {FILES[1]} has; export it again")


def _kinds(raw: Any) -> list[type[Method]]:
    """The methods whose adapters peft calls as the file does: there may be several."""
    said = AdapterFile.model_validate(raw).peft_type
    return [kind for kind in METHODS.values() if kind.peft_type() == said]


def _read(raw: Any, kind: type[Method]) -> AdapterFile | str:
    """The file as one of the method's, or a key by which it is none."""
    try:
        said, plain = kind.adapter_file.model_validate(raw), vars(kind.config_class()())
    except ValidationError as error:
        return _first_key(error)
    more = (said.model_extra or {}).items()
    return next((key for key, value in more if value not in (plain.get(key, value), None)), said)


def _first_key(error: ValidationError) -> str:
    return str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else "nothing"


def _check_whole(model: Any, folder: Path) -> None:
    """peft takes the weights that have the names it looks for, and warns of others at most."""
    from peft import get_peft_model_state_dict

    tensors = dict(model.named_parameters()) | dict(model.named_buffers(remove_duplicate=False))  # all shared names
    wanted = get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False).keys()
    with safe_open(folder / FILES[1], "pt") as file:
        there = set(file.keys())
    if strange := sorted(wanted ^ there):
        what = f"{'has no' if strange[0] in wanted else 'has a weight of no use,'} {word(strange[0])}"
        raise ExportError(f"{folder}: {FILES[1]} {what}: it is not the adapter of {FILES[0]}; export it again")


def merged(model: Any) -> Any:
    """A plain model: the adapter multiplied into the base's own weights, which it changes in place."""
    return model.merge_and_unload()
