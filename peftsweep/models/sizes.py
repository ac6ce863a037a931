"""Whether a folder's files ask for a model of a size that can be built: anybody may have written them."""

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
from peftsweep.models.fingerprints import LARGEST, PARTS
from peftsweep.models.location import Source, called
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.system import json_files, plain_files

INDEX, TEMPLATES = "model.safetensors.index.json", "additional_chat_templates/*"
# The largest numbers that a configuration may ask for, by the ends of their names.
MOST = {
    "layer|block|depth": 10_000,
    "label|expert": 1_000_000,
    "size|dim|head|embedding|position|embd|inner|ctx|length|group|model": 1 << 24,
}
PACKED = 8  # weights that one stored number may hold


def check_described(config: ModelConfig, source: Source) -> None:
    """Whether a folder's JSON is of a size that can be read, and its config.json of a model that can be built: anybody
    may have written them, and transformers would go on for ever.

    Raises:
        ModelError: it is not.
    """
    if source.hub:
        return
    check_plain(config, Path(source.name))
    for file in sorted(file for part in {*PARTS, "*.json"} for file in Path(source.name).glob(part)):
        if file.is_file():
            _check_plain(config, file, LARGEST)
    file = Path(source.name) / "config.json"
    try:
        said = json_files.read(file) if file.exists() else {}
    except ValueError as error:
        raise ModelError(f"{called(config)}: config.json cannot be read: {error}") from error
    for key, number in _numbers(said):
        most = next((most for names, most in MOST.items() if re.search(rf"(^|_)({names})s?$", key)), None)
        if most is not None and number > most:
            raise ModelError(
                f"{called(config)}: config.json asks for {word(key)}: {quoted(number)}; {most:,} is the most"
            )


def check_plain(config: ModelConfig, folder: Path) -> None:
    """Whether what transformers opens in a folder are files: a pipe would be waited for.

    Raises:
        ModelError: one is not.
    """
    for file in sorted([*folder.iterdir(), *folder.glob(TEMPLATES)]):
        if file.exists() and not file.is_dir():
            _check_plain(config, file)
    if (index := folder / INDEX).exists():
        try:
            said = json_files.read(index)
        except ValueError as error:
            raise ModelError(f"{called(config)}: {INDEX} cannot be read: {error}") from error
        named = said.get("weight_map") if isinstance(said, dict) else None
        if not isinstance(named, dict):
            raise ModelError(f"{called(config)}: {INDEX} has no weight_map, which says where each weight is")
        strange = [name for name in named.values() if not (isinstance(name, str) and (folder / name).is_file())]
        if strange:
            raise ModelError(f"{called(config)}: {INDEX} names {quoted(strange[0])}, which is no file")


def _check_plain(config: ModelConfig, file: Path, most: int | None = None) -> None:
    try:
        plain_files.check(file, most)
    except ValueError as error:
        raise ModelError(f"{called(config)}: {word(file.name)}: {error}") from error


def _numbers(said: Any) -> Iterator[tuple[str, int]]:
    """Whole numbers in configurations and in those within them, by their keys."""
    for key, value in said.items() if isinstance(said, dict) else ():
        if isinstance(value, int):
            yield str(key), value
        yield from _numbers(value)


def check_weights(config: ModelConfig, source: Source, skeleton: nn.Module) -> None:
    """Whether a folder has about as many numbers as its configuration asks for; transformers would draw all others at
    random, in memory that nobody has.

    Raises:
        ModelError: it has fewer.
    """
    files = [] if source.hub else sorted(Path(source.name).glob("*.safetensors"))
    if not files:
        return
    there = 0
    for path in files:
        with safe_open(path, "pt") as file:
            there += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    asked = sum(part.numel() for part in skeleton.parameters())
    if asked > PACKED * max(there, 1 << 20):
        raise ModelError(
            f"{called(config)}: config.json asks for {asked:,} weights, and its files have {there:,}: these "
            "are another model's"
        )
