"""Do the files of a folder describe a model of a possible size? Anybody may have written them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError
from peftsweep.models.fingerprints import MAX_FILE_BYTES, PARTS
from peftsweep.models.location import Source, message_prefix
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.system import json_files, plain_files

INDEX, TEMPLATES = "model.safetensors.index.json", "additional_chat_templates/*"
# The largest values of a configuration, by the ends of their keys.
MAX_VALUES = {
    "layer|block|depth": 10_000,
    "label|expert": 1_000_000,
    "size|dim|head|embedding|position|embd|inner|ctx|length|group|model": 1 << 24,
}
MAX_PACKING = 8  # weights that one stored number may encode


def check_config(config: ModelConfig, source: Source) -> None:
    """Check that JSON files are not too large and config.json describes a model that can be built. Else transformers
    would run forever.

    Raises:
        ModelError: a file is too large, or a value too high.
    """
    if source.hub:
        return
    check_plain_files(config, Path(source.name))
    for file in sorted(file for part in {*PARTS, "*.json"} for file in Path(source.name).glob(part)):
        if file.is_file():
            _check_plain(config, file, MAX_FILE_BYTES)
    file = Path(source.name) / "config.json"
    try:
        content = json_files.read(file) if file.exists() else {}
    except ValueError as error:
        raise ModelError(f"{message_prefix(config)}: config.json cannot be read: {error}") from error
    for key, number in _numbers(content):
        most = next((most for names, most in MAX_VALUES.items() if re.search(rf"(^|_)({names})s?$", key)), None)
        if most is not None and number > most:
            raise ModelError(
                f"{message_prefix(config)}: config.json asks for {word(key)}: {quoted(number)}, but at most "
                f"{most:,} is allowed"
            )


def check_plain_files(config: ModelConfig, folder: Path) -> None:
    """Check that everything transformers opens in a folder is a plain file: it would hang at a pipe.

    Raises:
        ModelError: something is not a plain file.
    """
    for file in sorted([*folder.iterdir(), *folder.glob(TEMPLATES)]):
        if file.exists() and not file.is_dir():
            _check_plain(config, file)
    if (index := folder / INDEX).exists():
        try:
            content = json_files.read(index)
        except ValueError as error:
            raise ModelError(f"{message_prefix(config)}: {INDEX} cannot be read: {error}") from error
        named = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(named, dict):
            raise ModelError(f"{message_prefix(config)}: {INDEX} has no weight_map, which says where each weight is")
        missing = [name for name in named.values() if not (isinstance(name, str) and (folder / name).is_file())]
        if missing:
            raise ModelError(f"{message_prefix(config)}: {INDEX} names {quoted(missing[0])}, which is not a file")


def _check_plain(config: ModelConfig, file: Path, most: int | None = None) -> None:
    try:
        plain_files.check(file, most)
    except ValueError as error:
        raise ModelError(f"{message_prefix(config)}: {word(file.name)}: {error}") from error


def _numbers(content: Any) -> Iterator[tuple[str, int]]:
    """The whole numbers in a configuration and its parts, with their keys."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, int):
            yield str(key), value
        yield from _numbers(value)


def check_weights(config: ModelConfig, source: Source, skeleton: nn.Module) -> None:
    """Check that the files hold about as many weights as the configuration asks for. Else transformers would make up
    the rest and run out of memory.

    Raises:
        ModelError: they hold far fewer.
    """
    files = [] if source.hub else sorted(Path(source.name).glob("*.safetensors"))
    if not files:
        return
    there = 0
    for path in files:
        with safe_open(path, "pt") as file:
            there += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    asked = sum(part.numel() for part in skeleton.parameters())
    if asked > MAX_PACKING * max(there, 1 << 20):
        raise ModelError(
            f"{message_prefix(config)}: config.json asks for {asked:,} weights, but its files have {there:,}: they "
            "belong to another model"
        )
