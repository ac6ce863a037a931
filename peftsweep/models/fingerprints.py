"""What identifies a base on this machine, if another one may have the same name? A hash of its files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from peftsweep.system import json_files, plain_files

# The files of a model and its tokenizer besides the weights. They are hashed completely.
CONFIG = "config.json"
PARTS = [CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
PARTS += ["vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "*.model", "*.tiktoken", "*.py"]
UNREAD = ("transformers_version", "_name_or_path")  # keys of a configuration that say who wrote it and from where
MAX_FILE_BYTES = 1 << 28  # tokenizers with the largest vocabularies have about 50 million bytes
CHUNK, SPREAD = 1 << 14, 256  # bytes to read at one position; number of positions in a file of unknown structure
DIGITS = 24


def of_folder(folder: Path) -> str:
    """Hash of a base: its whole configuration and tokenizer, and the beginning, middle and end of each tensor.

    Weights are too large to be read twice, but training changes a whole tensor, so samples show it.
    """
    digest = hashlib.sha256()
    for pattern in PARTS:
        for file in filter(Path.is_file, sorted(folder.glob(pattern))):
            digest.update(f"{file.name}:".encode() + _content(file))
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(_sampled(file, list(_tensors(file))))
    return digest.hexdigest()[:DIGITS]


def of_file(file: Path) -> str:
    """Hash of a weights file, from samples spread over the whole file."""
    step = max(CHUNK, file.stat().st_size // SPREAD)
    return _sampled(file, [(start, start + step) for start in range(0, file.stat().st_size, step)]).hex()[:16]


def of_folder_0_1(folder: Path) -> str:
    """Hash of a base as version 0.1.0 made it: the sizes and the first and last megabytes of its weights files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}\n".encode())
        with plain_files.opened(file) as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    """The content of a file. A configuration is taken without keys that change when transformers saves it again."""
    if file.name != CONFIG:
        return plain_files.read(file, MAX_FILE_BYTES)
    config = json_files.read(file)
    return json.dumps({key: value for key, value in config.items() if key not in UNREAD}, sort_keys=True).encode()


def _tensors(file: Path) -> Iterator[tuple[int, int]]:
    """First and last byte position of the header and of each tensor."""
    with plain_files.opened(file) as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        head = json.loads(stream.read(length))
    yield 0, 8 + length
    for name, entry in sorted(head.items()):
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield 8 + length + start, 8 + length + end


def _sampled(file: Path, regions: list[tuple[int, int]]) -> bytes:
    digest = hashlib.sha256(f"{file.name}:{file.stat().st_size}\n".encode())
    with plain_files.opened(file) as stream:
        for start, end in regions:
            places = range(start, end, CHUNK)
            for place in sorted({places[0], places[len(places) // 2], places[-1]} if places else ()):
                stream.seek(place)
                digest.update(stream.read(min(CHUNK, end - place)))
    return digest.digest()
