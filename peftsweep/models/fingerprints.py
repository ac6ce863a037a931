"""What tells a base that lies on this machine from another of the same name."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from peftsweep.system import json_files, plain_files

# What a model and its tokenizer are made of, besides weights. These files are read whole.
CONFIG = "config.json"
PARTS = [CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
PARTS += ["vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "*.model", "*.tiktoken", "*.py"]
UNREAD = ("transformers_version", "_name_or_path")  # of a configuration: who wrote it, and from where
LARGEST = 1 << 28  # bytes of one of them: the tokenizers of the largest vocabularies have some 50 million
CHUNK, SPREAD = 1 << 14, 256  # bytes that are read at a place; places in a file of which no more is known
DIGITS = 24


def of_folder(folder: Path) -> str:
    """Of a base: its configuration and tokenizer whole, and the beginning, middle and end of each tensor. Weights are
    too large to be read twice, but to train a tensor changes all of it."""
    digest = hashlib.sha256()
    for pattern in PARTS:
        for file in filter(Path.is_file, sorted(folder.glob(pattern))):
            digest.update(f"{file.name}:".encode() + _meant(file))
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(_sampled(file, list(_tensors(file))))
    return digest.hexdigest()[:DIGITS]


def of_file(file: Path) -> str:
    """Of a file of weights, by bytes spread over all of it."""
    step = max(CHUNK, file.stat().st_size // SPREAD)
    return _sampled(file, [(start, start + step) for start in range(0, file.stat().st_size, step)]).hex()[:16]


def older(folder: Path) -> str:
    """As version 0.1.0 had it: sizes, first and last megabytes of the weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}\n".encode())
        with plain_files.opened(file) as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def _meant(file: Path) -> bytes:
    """What a file says; of a configuration, without what changes as another version of transformers saves it."""
    if file.name != CONFIG:
        return plain_files.read(file, LARGEST)
    said = json_files.read(file)
    return json.dumps({key: value for key, value in said.items() if key not in UNREAD}, sort_keys=True).encode()


def _tensors(file: Path) -> Iterator[tuple[int, int]]:
    """Where the header and each tensor begin and end."""
    with plain_files.opened(file) as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        head = json.loads(stream.read(length))
    yield 0, 8 + length
    for name, said in sorted(head.items()):
        if name != "__metadata__":
            start, end = said["data_offsets"]
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
