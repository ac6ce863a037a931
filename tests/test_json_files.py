"""Is JSON of any content read safely?"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from peftsweep.system import json_files

BROKEN = [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"{}{}"]
BROKEN += [b"[" * 101 + b"]" * 101, b'{"a": ' * 101 + b"1" + b"}" * 101]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_invalid_json_is_a_value_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError):  # noqa: PT011  either json's message or ours
        json_files.read(tmp_path / "x.json")


@pytest.mark.parametrize("node", ["[]", "{}", "0", '[""]'])
def test_a_file_with_too_many_values_is_not_parsed(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MOST_NODES", 1000)
    text = f"[{','.join([node] * 2000)}]"
    for whole in (text, text.encode(), text.encode("utf-16")):
        with pytest.raises(ValueError, match="more than 1,000 values"):
            json_files.parse(whole)
    said = {"text": ',[{"\\' * 2000}  # a single value, though it contains brackets
    assert json_files.parse(json.dumps(said)) == said == json_files.parse(json.dumps(said).encode())


def test_a_hundred_levels_are_read() -> None:
    assert str(json_files.parse("[" * 99 + "1" + "]" * 99)).count("[") == 99


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(json_files.MOST + 1)
    for name, message in (("pipe", "no plain file"), ("large", "more than"), (".", "no plain file")):
        with pytest.raises(ValueError, match=message):
            json_files.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        json_files.read(tmp_path / "gone")


def test_numbers_that_json_cannot_express_are_null() -> None:
    value = {"loss": math.inf, "scores": [math.nan, 0.5, (-math.inf, 1)], "name": "inf"}
    assert json_files.with_nulls(value) == {"loss": None, "scores": [None, 0.5, [None, 1]], "name": "inf"}
