"""What is written aside: whole or not there, and gone with the process that wrote it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from peftsweep import aside
from peftsweep.aside import make_temporary, put, replaced, temporary, tidy, tidy_below
from peftsweep.storage import Place, claim
from tests.studies import ROOT

WRITES = """
import os, signal, sys
from pathlib import Path
from peftsweep.aside import aside, make_temporary, replaced

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


def writer(here: Path, ending: str) -> subprocess.Popen[str]:
    """A process that has written in this folder; it is killed, or waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(here), ending],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(here)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and "peftsweep" in process.stdout.readline()
    return process


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder in which a process was killed while it wrote."""
    with writer(tmp_path, "killed") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL and len(left(tmp_path)) == 4
    return tmp_path


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


def test_what_living_processes_write_stays(tmp_path: Path) -> None:
    with writer(tmp_path, "waits") as other, replaced(tmp_path / "mlflow.db") as own:
        own.with_name(f"{own.name}-journal").touch()
        own.touch()
        before = left(tmp_path)
        tidy(tmp_path / "mlflow.db")
        assert left(tmp_path) == before and len(before) == 6
        other.communicate("")
        assert other.returncode == 0
    assert [name for name in left(tmp_path) if not name.startswith(".temporary.")] == []


def test_a_folder_that_was_about_to_give_way_comes_back(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("whole")
    with writer(tmp_path, "replacing") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "adapter").exists()
    tidy(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "whole" and left(tmp_path) == []


@pytest.fixture(scope="module")
def dead() -> int:
    """The PID of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.communicate()
    return process.pid


@pytest.mark.parametrize("name", [".mlflow.db.{}", ".mlflow.db.{}-journal", ".{}-mlflow.db", ".mlflow.db.{}.old"])
def test_what_earlier_versions_left_goes_with_what_it_was_of(tmp_path: Path, name: str, dead: int) -> None:
    (tmp_path / "mlflow.db").touch()
    for pid in (dead, os.getppid()):
        (tmp_path / name.format(pid)).touch()
    tidy(tmp_path / "other.db")
    assert len(left(tmp_path)) == 2
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == [name.format(os.getppid())]


def test_whoever_takes_a_study_s_folder_removes_what_killed_processes_left_in_it_and_beside_it(
    tmp_path: Path, dead: int
) -> None:
    study = tmp_path / "artifacts" / "study"
    trial = study / "trial-0003"
    trial.mkdir(parents=True)
    ours = f"peftsweep-{dead}-{aside.MACHINE}-0"
    for place in (study.parent / f".comparison.html.{ours}", study / f".owner.json.{dead}", trial / f".page.{ours}"):
        place.touch()
    for folder in (trial / f".adapter.{ours}", trial / f".adapter.{dead}", study / "kept" / ".notes.2024"):
        folder.mkdir(parents=True)
    alive = trial / f".adapter.peftsweep-{os.getppid()}-{aside.MACHINE}-0"
    alive.touch()
    claim("study", study, "key", Place("sqlite:///studies.db", None, {}.get), known=True)
    found = sorted(path.relative_to(study).as_posix() for path in study.parent.rglob("*") if path != study)
    assert found == sorted(
        ["kept", "kept/.notes.2024", "owner.json", "trial-0003", alive.relative_to(study).as_posix()]
    )


def test_files_that_only_look_like_it_stay(tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "DAY", -1.0)
    names = [
        ".out.csv.20240101",
        ".mlflow.db.backup",
        ".mlflow.db.1x",
        f"mlflow.db.{dead}",
        f"mlflow.db.peftsweep-{dead}-01234567-0",
        f".mlflow.db.peftsweep-{dead}-0123456-0",
        f".{dead}",
        ".mlflow.db.20240131",  # no PID is as high
        ".report.7-20240131-1",
        ".backup.12-deadbeef-final",
        f".mlflow.db.{dead}-{aside.MACHINE}-0",
        f".adapters.{dead}",
    ]
    for name in names:
        (tmp_path / name).touch()
    for target in ("mlflow.db", "out.csv", "report", "backup"):
        tidy(tmp_path / target)
    tidy_below(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_another_machine_s_stay_for_a_day(tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f".mlflow.db.peftsweep-{dead}-{{}}-0"
    other = "0" * 8
    assert other != aside.MACHINE
    (tmp_path / name.format(other)).touch()
    (tmp_path / name.format(aside.MACHINE)).touch()
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == [name.format(other)]
    monkeypatch.setattr(aside, "DAY", 0.0)
    time.sleep(0.01)
    alive = f".mlflow.db.peftsweep-{os.getppid()}-{aside.MACHINE}-0"  # however long ago it wrote that
    (tmp_path / alive).touch()
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == [alive]


@pytest.mark.skipif(sys.platform != "linux", reason="when a process began is known on Linux alone")
def test_a_process_that_has_the_number_of_a_dead_one_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "CLOCKS", -1.0)  # in place of ten minutes to wait for
    (
        tmp_path / f".a.peftsweep-{os.getpid()}-{aside.MACHINE}-0"
    ).touch()  # in a container, a process often has its old number
    time.sleep(0.1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as younger:
        (tmp_path / f".a.peftsweep-{younger.pid}-{aside.MACHINE}-0").touch()
        tidy(tmp_path / "a")
        younger.communicate(b"\n")
    assert left(tmp_path) == []


def test_nothing_else_is_written_aside_in_another_way() -> None:
    """What names its files by the process, or makes temporary ones, does so in aside.py."""
    other = re.compile(r"getpid\(|mkdtemp|mkstemp|Temporary(Directory|File)|NamedTemporary")
    files = sorted((ROOT / "peftsweep").rglob("*.py"))
    assert {file.relative_to(ROOT).as_posix() for file in files if other.search(file.read_text(encoding="utf-8"))} == {
        "peftsweep/aside.py",
        "peftsweep/storage/holder.py",  # who runs a study
        "peftsweep/tracking/server.py",  # a file without a name
        "peftsweep/tracking/tracker.py",  # in its own folder
    }
