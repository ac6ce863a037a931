"""What is written aside: whole or not there, and gone with the process that wrote it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from peftsweep.storage import Place, claim
from peftsweep.system import atomic_files
from peftsweep.system.atomic_files import (
    has_temporary,
    make_temporary,
    put,
    remove_temporary,
    replaced,
    temporary,
    tidy,
    tidy_below,
)
from tests.programs import lacking
from tests.studies import ROOT

WRITES = """
import os, signal, sys
from pathlib import Path
from peftsweep.system.atomic_files import aside, make_temporary, replaced

here, ending = Path(sys.argv[1]), sys.argv[2]
with aside(here / "mlflow.db") as file, replaced(here / "adapter") as folder:
    file.write_text("half")
    file.with_name(file.name + "-journal").write_text("half")
    folder.mkdir()
    (folder / "weights").write_text("half")
    print(make_temporary().name, flush=True)
    if ending == "replacing":  # killed between the two renames
        Path.rename = lambda old, new, rename=Path.rename: (rename(old, new), os.kill(os.getpid(), signal.SIGKILL))
    elif ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        sys.stdin.read()
"""
ELSEWHERE = ".peftsweep-00000000-00000000"  # what another machine writes


def writer(here: Path, ending: str, *within: str) -> subprocess.Popen[str]:
    """A process that has written in this folder; it is killed, or waits.

    Args:
        within: the command by which it is started.
    """
    process = subprocess.Popen(
        [*within, sys.executable, "-c", WRITES, str(here), ending],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(here)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert "peftsweep" in process.stdout.readline() or lacking(process.stderr.read(), "run as root")
    return process


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder in which a process was killed while it wrote."""
    with writer(tmp_path, "killed") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL and len(left(tmp_path)) == 3
    return tmp_path


@pytest.fixture(scope="module")
def dead() -> int:
    """The PID of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.communicate()
    return process.pid


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def written(target: Path, text: str, *, fails: bool = False) -> None:
    """A file, or a folder with a file in it."""
    with suppress(ZeroDivisionError), replaced(target) as path:
        if target.name == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)
        assert not fails or 1 / 0


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_is_written_takes_its_place_whole_and_what_fails_leaves_nothing(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, "first")
    written(tmp_path / name, "second")
    written(tmp_path / name, "third", fails=True)
    assert (tmp_path / name / ("inside" if name == "folder" else "")).read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # noqa: PT011, whichever the system has for it
        put(tmp_path / "file", tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_what_a_killed_process_left_is_removed_by_the_next_one_that_writes_there(killed: Path) -> None:
    with replaced(killed / "comparison.html") as page:
        page.touch()
    assert left(killed) == []


def test_temporary_folders_of_killed_processes_go_and_this_one_s_own_stay(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(killed))
    with temporary() as first:
        second = make_temporary()
        assert left(killed) == sorted([first.name, second.name])
    assert left(killed) == [second.name]
    remove_temporary(second)
    assert left(killed) == []


def test_a_temporary_folder_is_known_from_one_that_another_made_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = make_temporary()
    assert has_temporary(folder)
    folder.rmdir()
    assert not has_temporary(folder)
    (folder / "another's").mkdir(parents=True)
    assert not has_temporary(folder)
    remove_temporary(folder)
    assert (folder / "another's").is_dir()


@pytest.mark.parametrize("within", [(), ("unshare", "--pid", "--fork")], ids=["here", "in another container"])
def test_what_living_processes_write_stays(tmp_path: Path, within: tuple[str, ...]) -> None:
    with writer(tmp_path, "waits", *within) as other, replaced(tmp_path / "mlflow.db") as own:
        own.touch()
        before = left(tmp_path)
        tidy(tmp_path / "mlflow.db")
        assert left(tmp_path) == before and len(before) == 4
        other.communicate("")
        assert other.returncode == 0
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == []


def test_a_folder_that_is_not_locked_yet_is_made_again_if_another_process_took_it_for_a_dead_one_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_another(lock: int, how: int, lock_it: Callable[[int, int], None] = fcntl.flock) -> None:
        monkeypatch.undo()
        tidy(tmp_path / "file")
        lock_it(lock, how)

    monkeypatch.setattr("fcntl.flock", after_another)
    written(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_was_about_to_give_way_comes_back(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("whole")
    with writer(tmp_path, "replacing") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "adapter").exists()
    tidy(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "whole" and left(tmp_path) == []


@pytest.mark.parametrize("name", [".mlflow.db.{}", ".mlflow.db.{}-journal", ".{}-mlflow.db", ".mlflow.db.{}.old"])
def test_what_earlier_versions_left_goes_with_what_it_was_of_a_day_later(
    tmp_path: Path, name: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").touch()
    for pid in (dead, os.getppid()):
        (tmp_path / name.format(pid)).touch()
    tidy(tmp_path / "mlflow.db")
    monkeypatch.setattr(atomic_files, "DAY", -1.0)
    tidy(tmp_path / "other.db")
    assert len(left(tmp_path)) == 2
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == [name.format(os.getppid())]


def test_whoever_takes_a_study_s_folder_removes_what_killed_processes_left_in_it_and_beside_it(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "DAY", -1.0)
    study = tmp_path / "artifacts" / "study"
    trial = study / "trial-0003"
    for place in (study.parent, study, trial):
        (place / ELSEWHERE / "page").mkdir(parents=True)
    for folder in (trial / f".adapter.{dead}", study / "kept" / ".notes.2024", trial / f".adapter.{os.getppid()}"):
        folder.mkdir(parents=True)
    claim("study", study, "key", Place("sqlite:///studies.db", None, {}.get), known=True)
    found = sorted(path.relative_to(study).as_posix() for path in study.parent.rglob("*") if path != study)
    assert found == ["kept", "kept/.notes.2024", "owner.json", "trial-0003", f"trial-0003/.adapter.{os.getppid()}"]


def test_files_that_only_look_like_it_stay(tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "DAY", -1.0)
    names = [
        ".out.csv.20240101",
        ".mlflow.db.backup",
        ".mlflow.db.1x",
        f"mlflow.db.{dead}",
        ELSEWHERE,  # a file
        ELSEWHERE[1:],
        f"{ELSEWHERE}0",
        f".{dead}",
        ".mlflow.db.20240131",  # no PID is as high
        ".report.7-20240131-1",
        ".backup.12-deadbeef-final",
        f".adapters.{dead}",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".peftsweep-00000000-11111111").symlink_to(tmp_path)
    for target in ("mlflow.db", "out.csv", "report", "backup"):
        tidy(tmp_path / target)
    tidy_below(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, ".peftsweep-00000000-11111111"])


@pytest.mark.parametrize("sort", ["another machine", "no locks"])
def test_what_nobody_can_tell_dead_stays_for_a_day(killed: Path, monkeypatch: pytest.MonkeyPatch, sort: str) -> None:
    (killed / ELSEWHERE).mkdir()
    locked = [] if sort == "no locks" else [name for name in left(killed) if name != ELSEWHERE]
    before = sorted({*left(killed)} - {*locked})
    if sort == "no locks":
        monkeypatch.setattr("fcntl.flock", lambda lock, how: os.read(lock, 1))  # an OSError
    written(killed / "file", "new")
    assert left(killed) == before
    monkeypatch.setattr(atomic_files, "DAY", -1.0)
    tidy(killed / "file")
    assert left(killed) == []


def test_a_disk_s_second_mounting_is_another_place(tmp_path: Path) -> None:
    assert atomic_files._told(tmp_path) == atomic_files._told(tmp_path.parent) != atomic_files._told(Path("/proc"))


def test_nothing_else_is_written_aside_in_another_way() -> None:
    """What names its files by the process, or makes temporary ones, does so in atomic_files.py."""
    other = re.compile(r"getpid\(|mkdtemp|mkstemp|Temporary(Directory|File)|NamedTemporary")
    files = sorted((ROOT / "peftsweep").rglob("*.py"))
    assert {file.relative_to(ROOT).as_posix() for file in files if other.search(file.read_text(encoding="utf-8"))} == {
        "peftsweep/system/atomic_files.py",
        "peftsweep/storage/lock_holder.py",  # who runs a study
        "peftsweep/tracking/mlflow_server.py",  # a file without a name
        "peftsweep/tracking/queue.py",  # in its own folder
    }
