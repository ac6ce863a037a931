"""A trained adapter by stock `peft`, as its users have it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from peftsweep.errors import ExportError

KINDS = ("LORA", "IA3")  # as peft calls them
FILES = ("adapter_config.json", "adapter_model.safetensors")


def attached(model: Any, folder: Path) -> Any:
    """The base with the adapter of a folder on it, for inference.

    Raises:
        ExportError: the folder's adapter is none that peftsweep writes. Other kinds load models and tokenizers of their
            own, and import modules that they name.
    """
    from peft import PeftModel

    _check_ours(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False, trust_remote_code=False).eval()


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


def merged(model: Any) -> Any:
    """A plain model: the adapter multiplied into the base's own weights, which it changes in place."""
    return model.merge_and_unload()
