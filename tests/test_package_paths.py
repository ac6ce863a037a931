"""Whatever `model.id` a person or a manifest gives: without a base there, the error is one line and nothing hangs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftsweep import models
from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError, PeftsweepError, UsageError
from peftsweep.export import Classifier
from peftsweep.export.destination import check_outside, destination
from peftsweep.export.manifest import Manifest
from peftsweep.models.gguf import convert_gguf
from peftsweep.task import Task
from tests.studies import mount_again
from tests.tiny import tiny_model

TASK = Task("single-label", ("no", "yes"))
NAMES = ["", " ", ".", "..", "/", "~nosuchuser/x", "~", "./" + "x" * 300, "a" * 5000, "a/" * 3000, "é" * 200 + "/x"]
NAMES += [
    "a\0b",
    "./a\nb",
    "owner/na\nme",
    "\ud800x",
    "./\udcffx",
    "\x1b[2J",
    "a/b/\u202ex",
    "/dev/null",
    "/dev/null/x",
]
NAMES += [
    "package://",
    "package://json/" + "x" * 300,
    "package://json//etc",
    "package://json/../x",
    "package://json/a\0b",
]
NAMES += ["package://" + "x" * 5000, "package://\0/x", "package://\ud800", "package://json", "package://os/x"]
NAMES += ["nosuch.gguf", "x" * 300 + ".gguf", "https://me:PW@host/x", "hub://owner/name", "owner/name/more"]


def refused(config: ModelConfig) -> str:
    with pytest.raises(ModelError) as caught:
        models.load_tokenizer(config)
    with pytest.raises(ModelError) as again:
        models.load_base(config, TASK, four_bit=False, device=torch.device("cpu"))
    message = str(caught.value)
    assert message == str(again.value) and message.startswith("model.id: ")
    assert message.isprintable() and len(message) < 800 and "PW" not in message
    return message


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_no_base_gives_a_one_line_error(name: str, tmp_path: Path) -> None:
    refused(ModelConfig.model_construct(id=name))
    try:
        found = ModelConfig(id=name)
    except ValueError:
        return
    said: dict[str, Any] = {"version": "0", "study": "s", "trial": 0, "method": "lora", "kind": "single-label"}
    said |= {"labels": TASK.labels, "thresholds": None, "text": "text", "max_length": 8, "fingerprint": "0"}
    if name.isascii() or name.isprintable():
        Manifest(**said, base="0", scores={}, merged=False, files={}, model=found).write(tmp_path)
        with pytest.raises(PeftsweepError) as error:
            Classifier(tmp_path)
        assert str(error.value).isprintable()


def deep(place: Path) -> None:
    place.mkdir()
    (place / "adapter_config.json").write_bytes(b"[" * 100_000)


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe.gguf": (os.mkfifo, ": no plain file"),
    "device.gguf": (lambda place: place.symlink_to("/dev/zero"), ": no plain file"),
    "folder.gguf": (Path.mkdir, "has no config.json"),
    "empty.gguf": (Path.touch, "empty.gguf could not"),
    "pipe": (os.mkfifo, "has no config.json"),
    "loop": (lambda place: place.symlink_to(place), "is not there"),
    "loop.gguf": (lambda place: place.symlink_to(place), "is not there"),
    "deep": (deep, "is an adapter"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_without_a_base_gives_a_one_line_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTSWEEP_CACHE", str(tmp_path / "cache"))
    make, said = PLACES[name]
    make(tmp_path / name)
    assert said in refused(ModelConfig(id=str(tmp_path / name)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("plain"), "bert")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "vocab.txt", "model.safetensors", "additional_chat_templates/x.jinja"]
)
def test_a_pipe_among_a_base_s_files_does_not_hang(plain: Path, tmp_path: Path, name: str) -> None:
    base = Path(shutil.copytree(plain, tmp_path / "base"))
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).unlink(missing_ok=True)
    os.mkfifo(base / name)
    assert ": no plain file" in refused(ModelConfig(id=str(base))) or name == "config.json"


def test_a_pipe_named_by_an_index_of_weights_does_not_hang(plain: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(plain, tmp_path / "base"))
    os.mkfifo(tmp_path / "pipe")
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "../pipe"}}')
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json names '\.\./pipe', which is not a file"):
        models.load_base(ModelConfig(id=str(base)), TASK, four_bit=False, device=torch.device("cpu"))


def test_files_beside_a_gguf_file_are_not_read(tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "config.json", "adapter_config.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(ModelError, match=r"x\.gguf could not"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "cache")


@pytest.mark.parametrize("place", [".", "..", "/", "{here}", "{here}/../here", "../link"])
def test_the_working_folder_and_its_parents_are_refused_as_destination(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match=r"^DEST: .* is the working folder or contains it; give a new folder$"):
        destination(place.format(here=here))
    assert destination("out") == here / "out" and destination("../other") == tmp_path / "other"


def test_a_folder_is_recognized_under_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that ignores case, a folder has two names; a bind mount gives it a second one here."""
    (tmp_path / "here" / "artifacts" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "artifacts")
    mount_again(tmp_path / "Here", tmp_path / "here")
    try:
        for place in (tmp_path / "Here", tmp_path / "Here" / "artifacts"):
            with pytest.raises(UsageError, match=r"^DEST: .*working folder"):
                destination(place)
        for place in (tmp_path / "Here" / "artifacts" / "new", tmp_path / "Here"):
            with pytest.raises(UsageError, match=r"^DEST: .*sweeps keep"):
                check_outside(place, tmp_path / "here" / "artifacts" / "small")
        check_outside(tmp_path / "Here" / "new", tmp_path / "here" / "artifacts" / "small")
    finally:
        subprocess.run(["umount", str(tmp_path / "Here")], check=True)
