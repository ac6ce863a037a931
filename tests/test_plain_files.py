"""Files that anybody may have put there: reading one never hangs, and every read has a size limit."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from peftsweep import dashboard
from peftsweep.config import load
from peftsweep.errors import StorageError, UsageError
from peftsweep.storage import Studies
from peftsweep.storage.identity import owner
from peftsweep.study import trial_files
from peftsweep.system import plain_files
from tests.studies import ROOT

PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda place: place.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", PLACES)
def test_only_plain_files_are_opened(tmp_path: Path, kind: str) -> None:
    PLACES[kind](tmp_path / "x")
    for use in (plain_files.check, lambda file: plain_files.read(file, 10)):
        with pytest.raises(ValueError, match=r"^no plain file$"):
            use(tmp_path / "x")


def test_a_writer_to_a_pipe_is_left_undisturbed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    writer = threading.Thread(target=lambda: os.close(os.open(tmp_path / "x", os.O_WRONLY)), daemon=True)
    writer.start()
    writer.join(0.1)  # long enough for the writer to wait for a reader
    with pytest.raises(ValueError, match=r"^no plain file$"):
        plain_files.read(tmp_path / "x", 10)
    writer.join(0.1)
    assert writer.is_alive()
    os.close(os.open(tmp_path / "x", os.O_RDONLY | os.O_NONBLOCK))  # lets the writer end
    writer.join()


def test_a_plain_file_is_read_up_to_the_size_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert plain_files.read(tmp_path / "link", 5) == b"12345"
    for use in (plain_files.check, plain_files.read):
        with pytest.raises(ValueError, match="more than 4 bytes"):
            use(tmp_path / "x", 4)
        with pytest.raises(FileNotFoundError):
            use(tmp_path / "gone", 4)


@pytest.mark.parametrize("kind", PLACES)
def test_reading_our_own_files_never_hangs(tmp_path: Path, kind: str) -> None:
    """Study files, a folder's owner, pages, predictions, a study's lease: the files that no other test covers."""
    names = ("study.yaml", "owner.json", "page.html", "validation.safetensors", "s.db.one.lock", "s.db.one.lock.holder")
    for name in names:
        PLACES[kind](tmp_path / name)
    with pytest.raises(UsageError, match=r"study\.yaml: no plain file"):
        load(tmp_path / "study.yaml")
    with pytest.raises(StorageError, match=r"owner\.json cannot be read"):
        owner(tmp_path)
    assert not dashboard.is_page(tmp_path / "page.html")
    with pytest.raises(ValueError, match="no plain file"):
        trial_files.arrays(tmp_path / "validation.safetensors")
    assert Studies(f"sqlite:///{tmp_path}/s.db").doing("one") == "run"


def test_files_are_opened_in_one_place() -> None:
    """Only that place opens files; libraries open others after it has checked them."""
    ways = {
        r"\.read_(bytes|text)\(|\bopen\(.*\"r|\.open\(encoding": {
            "system/leftovers.py",  # the system's boot id
            "dashboard/page.py",  # the page's own script
        },
        r"\b(safe_open|load_file|ParquetFile)\(": {
            "data/parquet_files.py",
            "engine/checkpoint.py",
            "methods/adapter_files.py",
            "methods/stock.py",
            "models/checks.py",  # checked by models.sizes.check_plain
            "models/sizes.py",
            "study/trial_files.py",
        },
    }
    files = {file.relative_to(ROOT / "peftsweep").as_posix(): file for file in (ROOT / "peftsweep").rglob("*.py")}
    for way, known in ways.items():
        assert {name for name, file in files.items() if re.search(way, file.read_text(encoding="utf-8"))} == known
