"""Is a file written aside either complete or absent, and are the leftovers of dead processes removed?"""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from peftsweep.storage import Place, claim
from peftsweep.system import leftovers
from peftsweep.system.atomic_files import aside, put, put_if_free, replaced
from peftsweep.system.leftovers import tidy, tidy_below
from peftsweep.system.links import link_or_copy
from peftsweep.system.temporary import TemporaryFolder
from tests.programs import lacking
from tests.studies import ROOT, mount

WRITES = """
import os, signal, sys
from pathlib import Path
from peftsweep.system.atomic_files import aside, replaced
from peftsweep.system.temporary import TemporaryFolder

here, ending = Path(sys.argv[1]), sys.argv[2]
with aside(here / "mlflow.db") as file, replaced(here / "adapter") as folder:
    file.write_text("half")
    file.with_name(file.name + "-journal").write_text("half")
    folder.mkdir()
    (folder / "weights").write_text("half")
    print(TemporaryFolder().path.name, flush=True)
    if ending == "replacing":  # killed between the two renames
        Path.rename = lambda old, new, rename=Path.rename: (rename(old, new), os.kill(os.getpid(), signal.SIGKILL))
    elif ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        sys.stdin.read()
"""
ELSEWHERE = ".peftsweep-00000000-00000000"  # the name that a process on another machine uses


def writer(here: Path, ending: str, *within: str) -> subprocess.Popen[str]:
    """A process that has written in this folder and then is killed or waits.

    Args:
        within: the command that starts it.
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
    """A folder in which a process was killed while it was writing."""
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


def fill(path: Path, text: str) -> None:
    """Make a file, or a folder with a file in it."""
    if path.name == "folder":
        path.mkdir()
        path = path / "inside"
    path.write_text(text)


def read(path: Path) -> str:
    return (path / "inside" if path.name == "folder" else path).read_text()


def written(target: Path, text: str, *, fails: bool = False) -> None:
    with suppress(ZeroDivisionError), replaced(target) as path:
        fill(path, text)
        assert not fails or 1 / 0


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_complete_write_replaces_the_target_and_a_failed_one_leaves_nothing(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, "first")
    written(tmp_path / name, "second")
    written(tmp_path / name, "third", fails=True)
    assert read(tmp_path / name) == "second"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def save_tensors(path: Path) -> None:
    save_file({"x": np.zeros(100_000)}, path)


def write_text(path: Path) -> None:
    path.write_text("x" * 800_000)


def write_folder(path: Path) -> None:
    path.mkdir()
    save_tensors(path / "adapter.safetensors")


@pytest.mark.parametrize("write", [save_tensors, write_text, write_folder])
def test_a_full_disk_is_named_by_what_was_to_be_written(tmp_path: Path, write: Callable[[Path], None]) -> None:
    mount(tmp_path / "small", "100k")
    target = tmp_path / "small" / "demo" / "trial-0007"
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as error, replaced(target) as path:
            write(path)
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(target))
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_what_else_goes_wrong_during_a_write_stays_as_it_is(tmp_path: Path) -> None:
    for own in (ZeroDivisionError(), ConnectionError("no network"), FileNotFoundError(2, "no such file", "data.csv")):
        with pytest.raises(type(own)) as error, replaced(tmp_path / "file"):
            raise own
        assert error.value is own


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # noqa: PT011, the kind depends on the system
        put(tmp_path / "file", tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_the_next_writer_removes_what_a_killed_process_left(killed: Path) -> None:
    with replaced(killed / "comparison.html") as page:
        page.touch()
    assert left(killed) == []


def test_temporary_folders_of_killed_processes_are_removed_and_our_own_stay(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(killed))
    with TemporaryFolder() as first:
        second = TemporaryFolder()
        assert left(killed) == sorted([first.name, second.path.name])
    assert left(killed) == [second.path.name]
    second.remove()
    assert left(killed) == []


def test_a_folder_that_somebody_else_put_in_the_place_of_a_temporary_one_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = TemporaryFolder()
    assert folder.exists()
    folder.path.rmdir()
    assert not folder.exists()
    (folder.path / "another's").mkdir(parents=True)
    assert not folder.exists()
    folder.remove()
    assert (folder.path / "another's").is_dir()


@pytest.mark.parametrize("within", [(), ("unshare", "--pid", "--fork")], ids=["here", "in another container"])
def test_what_running_processes_write_stays(tmp_path: Path, within: tuple[str, ...]) -> None:
    with writer(tmp_path, "waits", *within) as other, replaced(tmp_path / "mlflow.db") as own:
        own.touch()
        before = left(tmp_path)
        tidy(tmp_path / "mlflow.db")
        assert left(tmp_path) == before and len(before) == 4
        other.communicate("")
        assert other.returncode == 0
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == []


def test_a_folder_is_made_again_if_another_process_removed_it_before_it_was_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_late(lock: int, how: int, lock_it: Callable[[int, int], None] = fcntl.flock) -> None:
        monkeypatch.undo()
        tidy(tmp_path / "file")
        lock_it(lock, how)

    monkeypatch.setattr("fcntl.flock", lock_late)
    written(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_whose_replacement_was_interrupted_is_restored(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("whole")
    with writer(tmp_path, "replacing") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "adapter").exists()
    tidy(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "whole" and left(tmp_path) == []


@pytest.mark.parametrize("name", [".mlflow.db.{}", ".mlflow.db.{}-journal", ".{}-mlflow.db", ".mlflow.db.{}.old"])
def test_leftovers_of_earlier_versions_are_removed_after_a_day(
    tmp_path: Path, name: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").touch()
    for pid in (dead, os.getppid()):
        (tmp_path / name.format(pid)).touch()
    tidy(tmp_path / "mlflow.db")
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    tidy(tmp_path / "other.db")
    assert len(left(tmp_path)) == 2
    tidy(tmp_path / "mlflow.db")
    assert left(tmp_path) == [name.format(os.getppid())]


def test_claiming_a_study_s_folder_removes_leftovers_in_it_and_beside_it(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    study = tmp_path / "artifacts" / "study"
    trial = study / "trial-0003"
    for place in (study.parent, study, trial):
        (place / ELSEWHERE / "page").mkdir(parents=True)
    for folder in (trial / f".adapter.{dead}", study / "kept" / ".notes.2024", trial / f".adapter.{os.getppid()}"):
        folder.mkdir(parents=True)
    claim("study", study, "key", Place("sqlite:///studies.db", None, {}.get), known=True)
    found = sorted(path.relative_to(study).as_posix() for path in study.parent.rglob("*") if path != study)
    assert found == ["kept", "kept/.notes.2024", "owner.json", "trial-0003", f"trial-0003/.adapter.{os.getppid()}"]


def test_files_that_only_look_like_leftovers_stay(tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    names = [
        ".out.csv.20240101",
        ".mlflow.db.backup",
        ".mlflow.db.1x",
        f"mlflow.db.{dead}",
        ELSEWHERE,  # a file
        ELSEWHERE[1:],
        f"{ELSEWHERE}0",
        f".{dead}",
        ".mlflow.db.20240131",  # higher than any PID
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
def test_leftovers_whose_process_cannot_be_checked_stay_for_a_day(
    killed: Path, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    (killed / ELSEWHERE).mkdir()
    locked = [] if sort == "no locks" else [name for name in left(killed) if name != ELSEWHERE]
    before = sorted({*left(killed)} - {*locked})
    if sort == "no locks":
        monkeypatch.setattr("fcntl.flock", lambda lock, how: os.read(lock, 1))  # an OSError
    written(killed / "file", "new")
    assert left(killed) == before
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    tidy(killed / "file")
    assert left(killed) == []


def test_another_mount_is_another_place(tmp_path: Path) -> None:
    assert leftovers.place_id(tmp_path) == leftovers.place_id(tmp_path.parent) != leftovers.place_id(Path("/proc"))


@pytest.mark.parametrize("name", ["file", "folder"])
@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_the_first_of_two_writers_keeps_its_file(
    tmp_path: Path, name: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *_, **__: os.read(-1, 1))  # an OSError
    target = tmp_path / name
    with aside(target) as path:
        fill(path, "first")
        put_if_free(path, target)
    assert read(target) == "first" and left(tmp_path) == []
    if links or name == "folder":
        with aside(target) as path:
            fill(path, "second")
            put_if_free(path, target)
        assert read(target) == "first" and left(tmp_path) == []


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_files_are_linked_where_the_disk_supports_it_and_copied_elsewhere(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *_, **__: os.read(-1, 1))  # an OSError
    fill(tmp_path / "folder", "whole")
    link_or_copy(tmp_path / "folder", tmp_path / "new" / "folder")
    assert read(tmp_path / "new" / "folder") == "whole"
    assert (tmp_path / "folder/inside").samefile(tmp_path / "new/folder/inside") == links


def test_only_the_files_of_system_rename_link_or_make_temporary_files() -> None:
    """There is one way to write a file aside, put it in place and remove leftovers."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "peftsweep").rglob("*.py")):
        calls = {name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if (name := file_call(node))}
        if calls:
            found[file.relative_to(ROOT / "peftsweep").as_posix()] = calls
    assert found == {
        "system/atomic_files.py": {"rename", "replace", "hardlink_to"},
        "system/leftovers.py": {"rename", "TemporaryFile"},  # restores what was being replaced
        "system/links.py": {"hardlink_to"},
        "system/temporary.py": {"gettempdir"},
        "storage/lock_holder.py": {"getpid"},  # says which process runs a study
        "study/stopping.py": {"getpid"},  # says which process asks for a stop
        "sweep/heartbeat.py": {"getpid"},  # says which process runs a study
        "workers/ray_broker.py": {"getpid"},  # a worker's process
        "system/ray_connection.py": {"gettempdir"},  # Ray's sockets need a short path
        "workers/ray_pool.py": {"TemporaryFile"},  # a file without a name
        "tracking/mlflow_server.py": {"TemporaryFile"},  # a file without a name
        "models/gguf.py": {"symlink_to"},  # inside the folder that it writes aside
    }


MOVES = {"rename", "renames", "move", "link", "hardlink_to", "symlink", "symlink_to"}
TEMPORARY = {"getpid", "gettempdir", "mkdtemp", "mkstemp"}


def file_call(node: ast.AST) -> str | None:
    """The name of a call that renames or links files, or makes names for this process only; None for other nodes."""
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func).rpartition(".")[2]
    # str.replace takes two strings, and other kinds of replace take keywords
    path_replace = isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords
    replaces = name == "replace" and (path_replace or ast.unparse(node.func) == "os.replace")
    temporary = name in TEMPORARY or name.endswith(("TemporaryFile", "TemporaryDirectory"))
    return name if replaces or name in MOVES or temporary else None
