"""A trained adapter by stock `peft`, as its users have it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def attached(model: Any, folder: Path) -> Any:
    """The base with the adapter of a folder on it, for inference."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()


def merged(model: Any) -> Any:
    """A plain model: the adapter multiplied into the base's own weights, which it changes in place."""
    return model.merge_and_unload()
