"""The studies' database: leases, orphans, locks, and what is said when it cannot be used."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from peftsweep.errors import StorageError
from peftsweep.storage import Studies, exists, guarded, same_file


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(f"sqlite:///{tmp_path}/studies.db")


def test_a_study_is_made_once_and_found_again(studies: Studies) -> None:
    first = studies.create("one")
    first.set_user_attr("key", 1)
    assert studies.create("one").user_attrs == {"key": 1}
    studies.create("two")
    assert studies.names() == ["one", "two"]
    assert studies.load("two").direction == optuna.study.StudyDirection.MAXIMIZE


def test_making_a_study_prints_nothing(studies: Studies, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    studies.create("one")
    assert capfd.readouterr() == ("", "") and optuna.logging.get_verbosity() == before


def test_artifacts_lie_beside_the_database(studies: Studies, tmp_path: Path) -> None:
    assert studies.artifacts == tmp_path / "artifacts"
    assert exists(studies.url) and not exists(f"sqlite:///{tmp_path}/other.db")


HOLD = """
import sys
from peftsweep.storage import Studies
with Studies(sys.argv[1]).lease("one"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_runs_a_study_and_its_death_frees_it(studies: Studies) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, studies.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=rf"study 'one' .* is being run by process {holder.pid} on"),
            studies.lease("one"),
        ):
            pass
        with studies.lease("two"):
            pass  # another study of the same file is free
        holder.kill()
        holder.wait()
    with studies.lease("one"):
        pass


def test_a_lease_ends_with_its_block_even_by_an_error(studies: Studies) -> None:
    with pytest.raises(ZeroDivisionError), studies.lease("one"):
        _ = 1 / 0
    with studies.lease("one"):
        pass


def test_an_orphan_is_gone_on_with_under_its_own_number(studies: Studies) -> None:
    study = studies.create("one")
    wanted = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study.tell(study.ask(wanted), 0.1)
    asked = study.ask(wanted)
    (orphan,) = studies.orphans(study)
    assert orphan.number == asked.number == 1
    adopted = studies.adopt(study, 1)
    assert (adopted.number, adopted.params) == (1, asked.params)
    study.tell(adopted, 0.5)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize(
    "url", ["studies.db", "sqlite://", "sqlite:///:memory:", "postgresql://u:secret@h/d", "no://x"]
)
def test_other_urls_are_refused_with_an_example(url: str) -> None:
    with pytest.raises(StorageError, match=r"such as sqlite:///studies\.db") as error:
        Studies(url)
    assert "secret" not in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere is not there"):
        Studies(f"sqlite:///{tmp_path}/nowhere/studies.db")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("hello, this is not a database at all" * 100)
    with pytest.raises(StorageError, match="not an SQLite database"):
        Studies(f"sqlite:///{tmp_path}/studies.db")


@pytest.mark.parametrize(("table", "said"), [("experiments", "MLflow's database"), ("birds", "another program's")])
def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.executescript(f"CREATE TABLE {table} (x); CREATE TABLE alembic_version (version_num TEXT)")
    before = file.read_bytes()
    for use in (Studies, exists):
        with pytest.raises(StorageError, match=said):
            use(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_an_empty_file_has_no_studies_until_one_is_made(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.touch()
    assert not exists(f"sqlite:///{file}") and file.stat().st_size == 0
    Studies(f"sqlite:///{file}").create("one")
    assert exists(f"sqlite:///{file}")


def test_two_urls_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("a.db")  # neither needs to be there yet
    for other in (f"sqlite:///{tmp_path}/a.db", "sqlite:///./a.db?timeout=9", "sqlite:///link.db"):
        assert same_file("sqlite:///a.db", other)
    for other in ("sqlite:///b.db", "sqlite://", "http://host:5000", "http://host:port", "a.db"):
        assert not same_file("sqlite:///a.db", other)


def test_a_locked_database_is_said_to_be_locked(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftsweep.storage.PATIENCE", 0.1)
    other = sqlite3.connect(studies.file)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="locked by another process"), guarded(studies.url):
            Studies(studies.url).create("one")
    finally:
        other.close()


def test_a_full_disk_is_one_message(studies: Studies) -> None:
    with (
        pytest.raises(StorageError, match=r"the disk is full \(file\). What was finished is kept"),
        guarded(studies.url),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "file")
    with pytest.raises(FileNotFoundError), guarded(studies.url):
        raise FileNotFoundError("something else")


def test_each_database_has_its_own_artifacts(tmp_path: Path) -> None:
    for name in ("x.db", "x.sqlite", "studies.sqlite"):
        assert Studies(f"sqlite:///{tmp_path}/{name}").artifacts == tmp_path / f"{name}-artifacts"
