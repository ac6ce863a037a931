"""The studies' database: SQLite and PostgreSQL keep one contract, and a database that cannot be used is reported."""

from __future__ import annotations

import errno
import gc
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.trial import TrialState

from peftsweep.errors import StorageError, StudyBusyError, UsageError, WorkerError
from peftsweep.storage import Studies, check_apart, check_there, exists, guarded, lasting, outage, same_place, settle
from peftsweep.storage.postgresql import Postgresql
from peftsweep.storage.urls import address
from tests.fork_server import Program
from tests.postgresql import PASSWORD, USER, Server
from tests.stored import add_study, add_trial

# The contract ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/studies.db"
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def studies(url: str) -> Studies:
    return Studies(url)


@contextmanager
def connected(url: str) -> Iterator[sqlalchemy.Connection]:
    """Connect to the database itself, without Optuna."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def tables(url: str) -> set[str]:
    with connected(url) as connection:
        return set(sqlalchemy.inspect(connection).get_table_names())


def test_a_study_is_created_once_and_found_again(studies: Studies) -> None:
    first = studies.create("one")
    first.set_user_attr("key", 1)
    assert studies.create("one").user_attrs == {"key": 1}
    studies.create("two")
    assert studies.names() == ["one", "two"]
    assert studies.create("two").direction == optuna.study.StudyDirection.MAXIMIZE


def test_creating_a_study_prints_nothing(studies: Studies, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    studies.create("one")
    assert capfd.readouterr() == ("", "") and optuna.logging.get_verbosity() == before


def test_reading_creates_nothing_and_the_first_study_creates_the_database(url: str) -> None:
    assert not exists(url) and tables(url) == set()
    Studies(url).create("one")
    assert exists(url) and {"studies", "trials", "alembic_version"} <= tables(url)


def test_an_address_may_name_the_folder_of_artifacts(url: str, tmp_path: Path) -> None:
    plain, other = Studies(url), Studies(f"{url}?artifacts={tmp_path}/elsewhere")
    plain.create("one")
    assert other.names() == ["one"]  # the same database
    assert other.artifacts == tmp_path / "elsewhere" and plain.artifacts.name.endswith("artifacts")
    assert same_place(plain.url, other.url)
    with pytest.raises(StorageError, match="'artifacts' stands there 2 times"):
        Studies(f"{url}?artifacts=a&artifacts=b")


MAKE = """
import sys
from peftsweep.storage import Studies
print("ready", flush=True)
sys.stdin.readline()
Studies(sys.argv[1]).create(sys.argv[2])
"""


def test_processes_that_create_the_database_at_once_share_it(url: str) -> None:
    makers = [Program(["-c", MAKE, url, name], Path.cwd(), stdin=subprocess.PIPE) for name in "abcd"]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    assert [maker.communicate()[1] for maker in makers] == [""] * 4
    assert Studies(url).names() == list("abcd")


HOLD = """
import sys
from peftsweep.storage import Studies
with Studies(sys.argv[1]).lease("one"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_runs_a_study_and_its_death_frees_the_study(studies: Studies) -> None:
    with Program(["-c", HOLD, studies.url], Path.cwd(), stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                StudyBusyError,
                match=rf"study 'one' in (sqlite|postgresql)://.* is being run by process {holder.pid} on \S+ since 20",
            ),
            studies.lease("one"),
        ):
            pass
        with studies.lease("two"):
            pass  # another study of the same database is free
        holder.kill()
        holder.wait()
    with studies.lease("one"):
        pass


def test_a_lease_ends_with_its_block_even_after_an_error(studies: Studies) -> None:
    with pytest.raises(ZeroDivisionError), studies.lease("one"):
        _ = 1 / 0
    with studies.lease("one"):
        pass


def test_an_orphaned_trial_resumes_under_its_own_number(studies: Studies) -> None:
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


OTHERS = {
    "birds": ("another program's database", "CREATE TABLE birds (x INTEGER)"),
    "MLflow": ("MLflow's database; the studies are in another one", "CREATE TABLE experiments (x INTEGER)"),
}


@pytest.mark.parametrize(("said", "statement"), OTHERS.values(), ids=OTHERS.keys())
def test_the_database_of_another_program_is_refused_and_left_as_it_is(url: str, said: str, statement: str) -> None:
    with connected(url) as connection:
        for each in (statement, "CREATE TABLE alembic_version (version_num VARCHAR(9))"):
            connection.execute(sqlalchemy.text(each))
    before = tables(url)
    for use in (Studies, exists):
        with pytest.raises(StorageError, match=said) as error:
            use(url)
        assert "%2F" not in str(error.value)
    assert tables(url) == before


@pytest.mark.parametrize(
    "statement", ["INSERT INTO alembic_version VALUES ('x')", "UPDATE alembic_version SET version_num = 'v99'"]
)
def test_tables_of_an_unknown_version_are_reported_in_one_message(tmp_path: Path, statement: str) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    Studies(url)
    with connected(url) as connection:
        connection.execute(sqlalchemy.text(statement))
    with pytest.raises(StorageError, match=f"{tmp_path}/studies.db: .*version"):
        Studies(url)


def test_mlflow_may_not_use_the_studies_database(url: str) -> None:
    kind = "file" if url.startswith("sqlite") else "database"
    with pytest.raises(UsageError, match=f"storage and tracking_uri are one {kind}, .*need one each"):
        check_apart(f"{url}?artifacts=/elsewhere", url)
    check_apart(url, "http://127.0.0.1:5000")
    assert tables(url) == set()


def test_connections_are_closed_with_the_studies(studies: Studies) -> None:
    studies.create("one")
    del studies
    gc.collect()  # the driver warns of connections that are still open, and a warning fails the test


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("studies.db", r"such as sqlite:///studies\.db, or .* such as postgresql://user@host/studies"),
        ("sqlite://", r"such as sqlite:///studies\.db"),
        ("sqlite:///:memory:", r"such as sqlite:///studies\.db"),
        ("mysql://u:secret@h/d", r"such as sqlite:///studies\.db"),
        ("postgresql://u:secret@h:port/d", r"such as sqlite:///studies\.db"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql+psycopg2://u:secret@h/d", "the driver is psycopg: write postgresql://"),
        ("postgresql://u:s3@cret@h/d", "%40 for @"),
        ("postgresql://u:s3@c/cret@h/d", "%40 for @"),
        ("postgresql://u:s3@c?cret@h/d", "%40 for @"),
        *((f"sqlite+{driver}:///a.db", "write sqlite:///") for driver in ("aiosqlite", "pysqlcipher", "nonsense", "")),
        *((f"postgresql+{driver}://h/d", "write postgresql://") for driver in ("asyncpg", "psycopg_async", "")),
        *((f"sqlite:///a.db?{key}=1", rf"'{key}' is none .*\?artifacts=") for key in ("timeout", "mode", "nonsense")),
        *((f"postgresql://h/d?{key}=1", f"'{key}' is not a setting") for key in ("autocommit", "conninfo", "nonsense")),
        ("postgresql://h/d?connect_timeot=1", "did you mean connect_timeout"),
        (
            "postgresql:///d?host=a:5432&host=b:5432",
            "stands there 2 times; write all in one, as host=a,b&port=5432,5433",
        ),
        *((f"{url}?artifacts=a&artifacts=b", "stands there 2 times") for url in ("sqlite:///a.db", "postgresql://h/d")),
        *((f"sqlite:///a.db?{blank}", "'artifacts' has no value") for blank in ("artifacts", "artifacts=")),
        *((f"{url}?=x", "'x' has no name") for url in ("sqlite:///a.db", "postgresql://h/d")),
        *((f"postgresql://h/d?connect_timeout={n}", "a whole number") for n in ("abc", "--1", "1.5", "9" * 5000, "²")),
        *((f"postgresql://h:{port}/d", "whole number of 1 to 65535") for port in (0, 65536)),
        *((f"postgresql://h/d?port={port}", "whole number of 1 to 65535") for port in ("abc", "1,x", "9" * 5000)),
        *((f"postgresql://{host}/d", "no host has") for host in ("a..b", "x" * 64, "a b")),
        *((f"sqlite://{host}/a.db", "is on no host") for host in ("h", "me@", "me:s3cret@h", ":80")),
    ],
    ids=lambda text: text[:40],
)
def test_any_other_url_is_refused_with_what_to_write(url: str, said: str) -> None:
    for use in (Studies, exists):
        with pytest.raises(StorageError, match=said) as error:
            use(url)
        assert "cret" not in str(error.value)


def test_a_password_may_contain_a_question_mark() -> None:
    assert address("postgresql://me:a?b=@h/d?artifacts=x").url.password == "a?b="


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "link to one", "link to itself"])
def test_a_path_that_is_not_a_file_is_refused_and_nothing_is_created_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the length of a socket's path is limited
    place = tmp_path / "studies.db"
    if kind == "device":
        place.symlink_to("/dev/null")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.name)
    elif kind == "link to itself":
        place.symlink_to(place)
    else:
        pipe = tmp_path / "pipe" if kind.startswith("link") else place
        os.mkfifo(pipe)
        if pipe != place:
            place.symlink_to(pipe)
    before, beside = sorted(tmp_path.iterdir()), Path("/dev/null.lock").exists()
    for use in (Studies, exists, check_there):
        with pytest.raises(StorageError, match=r"a link to itself is there|a device, a pipe or a socket is there"):
            use(f"sqlite:///{place}")
    assert sorted(tmp_path.iterdir()) == before and Path("/dev/null.lock").exists() == beside


def test_what_libpq_accepts_is_accepted() -> None:
    for text in ("?connect_timeout=-1", "?host=@abstract", "?host=/run/postgresql,db.example&port=5432,5433"):
        assert address(f"postgresql:///d{text}").url.get_backend_name() == "postgresql"


def test_which_urls_name_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("a.db")  # neither has to exist yet
    for other in (f"sqlite:///{tmp_path}/a.db", "sqlite:///./a.db?timeout=9", "sqlite:///link.db"):
        assert same_place("sqlite:///a.db", other)
    (tmp_path / "there.db").touch()
    (tmp_path / "There.db").hardlink_to(tmp_path / "there.db")  # as on a disk that ignores case
    assert same_place("sqlite:///there.db", "sqlite:///There.db") and not same_place(
        "sqlite:///There.db", "sqlite:///a.db"
    )
    for other in ("sqlite:///b.db", "sqlite://", "http://host:5000", "http://host:port", "a.db"):
        assert not same_place("sqlite:///a.db", other)
    for other in ("postgresql+psycopg2://a:b@127.0.0.1/x", "postgres:///x", "postgresql:///x?host=/run/postgresql"):
        assert same_place("postgresql://localhost:5432/x", other)
    assert same_place("postgresql://me@h/", "postgresql://you@h/me") and not same_place(
        "postgresql://me@h", "postgresql://h/x"
    )
    for other in ("postgresql://localhost/y", "postgresql://localhost:5433/x", "postgresql://other/x", "sqlite:///x"):
        assert not same_place("postgresql://localhost/x", other)


def test_a_folder_of_artifacts_may_have_an_at_sign_in_its_name() -> None:
    assert address("postgresql://me@h/d?artifacts=/data/me@home").artifacts == Path("/data/me@home")


def test_a_stored_address_has_no_password_and_an_absolute_path(tmp_path: Path) -> None:
    assert lasting("postgresql://u:s3cret@h/d?artifacts=x") == "postgresql://u:***@h/d"
    assert lasting("sqlite:///a.db") == f"sqlite:///{Path('a.db').resolve()}"


# SQLite ---------------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere is not there"):
        Studies(f"sqlite:///{tmp_path}/nowhere/studies.db")


def test_a_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("hello, this is not a database at all" * 100)
    with pytest.raises(StorageError, match="not an SQLite database"):
        Studies(f"sqlite:///{tmp_path}/studies.db")


def test_an_empty_file_has_no_studies_until_one_is_created(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.touch()
    assert not exists(f"sqlite:///{file}") and file.stat().st_size == 0
    Studies(f"sqlite:///{file}").create("one")
    assert exists(f"sqlite:///{file}")


def test_a_locked_database_is_reported_as_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftsweep.storage.database_errors.PATIENCE", 0.1)
    studies = Studies(f"sqlite:///{tmp_path}/studies.db")
    other = sqlite3.connect(tmp_path / "studies.db")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="locked by another process"), guarded(studies.url):
            Studies(studies.url).create("one")
    finally:
        other.close()


def test_a_full_disk_is_reported_in_one_message() -> None:
    with (
        pytest.raises(StorageError, match=r"the disk is full \(file\). What was finished is kept"),
        guarded("sqlite:///studies.db"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
    with pytest.raises(FileNotFoundError), guarded("sqlite:///studies.db"):
        raise FileNotFoundError("something else")


@pytest.mark.parametrize("where", ["b.example: OSError: [Errno 28]", "model.id: cannot be loaded: [Errno 28]"])
def test_another_disk_that_is_full_is_not_taken_for_this_one(where: str) -> None:
    own = WorkerError(f"{where} {os.strerror(errno.ENOSPC)}: '/elsewhere/x'")
    with pytest.raises(WorkerError) as error, guarded("sqlite:///studies.db"):
        raise own
    assert error.value is own


def test_a_full_database_is_reported_with_its_address(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    add_study(url, "one")
    with connected(url) as connection:
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 1"))
        large = sqlalchemy.text(f"INSERT INTO studies (study_name) VALUES ('{'x' * 500_000}')")
        with pytest.raises(StorageError, match=r"studies\.db: the disk is full"), guarded(url):
            connection.execute(large)


def test_each_file_has_its_own_artifacts_beside_it(tmp_path: Path) -> None:
    folders = {"studies.db": "artifacts"} | {name: f"{name}-artifacts" for name in ("x.db", "studies.sqlite")}
    for name, folder in folders.items():
        assert Studies(f"sqlite:///{tmp_path}/{name}").artifacts == tmp_path / folder


# PostgreSQL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_a_url_may_have_any_usual_scheme_and_its_database_names_the_artifacts_folder(
    postgresql: Server, scheme: str
) -> None:
    url = postgresql.database().replace("postgresql", scheme, 1)
    name = url.rpartition("/")[2]
    studies = Studies(url)
    studies.create("one")
    assert studies.names() == ["one"] and studies.artifacts == Path(f"{name}-artifacts")


def test_the_password_may_be_in_the_environment(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgresql.database()
    bare = re.sub(r":[^:@]*@", "@", url)
    assert unquote(url).replace(f":{PASSWORD}", "") == bare
    with pytest.raises(StorageError, match="PGPASSWORD"):
        exists(bare)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert not exists(bare)


def test_what_a_server_refuses_is_reported_in_one_message(postgresql: Server) -> None:
    url = postgresql.database()
    said = {
        postgresql.url("nowhere"): "has no such database; its owner makes one with createdb",
        postgresql.url("postgres", password="wrong"): "refuses this user and password",
        postgresql.url("postgres", user="stranger"): "refuses this user and password",
        url.replace(f":{postgresql.port}/", ":1/"): "nobody answers at this address",
        url.replace("127.0.0.1", "nowhere.invalid"): "there is no machine of this name",
        f"{url}?host=/nowhere": "nobody answers at this address",
        f"{url}?sslmode=require": "server does not support SSL",
        f"{url}?nonsense=1": "nonsense",
    }
    for bad, words in said.items():
        for use in (exists, Studies):
            with pytest.raises(StorageError, match=words) as error:
                use(bad)
            text = str(error.value)
            assert ":wrong" not in text and quote(PASSWORD, safe="") not in text and len(text.splitlines()) == 1


def test_a_database_of_the_same_name_elsewhere_is_another_place(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.database()
    name, kept = url.rpartition("/")[2], f"sqlite:///{tmp_path}/dump.db"
    first = add_study(url, "one")
    add_trial(first, 0.5)
    place, folder = Studies(url).place, tmp_path / "one"
    settle(first, folder, place)
    assert Studies(url.replace("127.0.0.1", "localhost")).place.is_same(place.url, place.server, surely=True)
    copy = partial(optuna.copy_study, from_study_name="one")
    copy(from_storage=Studies(url).storage, to_storage=kept)
    postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgresql.execute(f"CREATE DATABASE {name} OWNER {USER}")
    copy(from_storage=kept, to_storage=Studies(url).storage)
    other = Studies(url).place
    assert other.url == place.url and other.server != place.server and not other.is_same(place.url, place.server)
    moved = Studies(url).load("one")
    key = moved.record.key
    settle(moved, folder, other)  # its folder came along
    assert moved.record.key == key
    again = Studies(url).load("one")
    again.set_user_attr("bound", {"key": key, "study": "one", "storage": place.url, "server": place.server})
    settle(again, tmp_path / "elsewhere", other)  # its folder did not come along
    assert again.record.key != key


def test_a_user_who_may_not_create_tables_is_reported(postgresql: Server) -> None:
    url = postgresql.database()
    name = url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    with pytest.raises(StorageError, match=r"may not write here; .* GRANT ALL ON SCHEMA public"):
        Studies(url)


@pytest.mark.parametrize(
    ("code", "said"),
    [("53100", "the server's disk is full"), ("25006", "a read-only server"), ("42501", "GRANT ALL")],
)
def test_a_server_that_speaks_another_language_is_understood(postgresql: Server, code: str, said: str) -> None:
    url = postgresql.database()
    with connected(url) as connection, pytest.raises(StorageError, match=said), guarded(url):
        connection.execute(sqlalchemy.text(f"DO $$ BEGIN RAISE 'Das geht hier nicht' USING ERRCODE = '{code}'; END $$"))


def test_a_schema_keeps_studies_apart_from_the_rest_of_the_database(postgresql: Server) -> None:
    url = postgresql.database()
    with connected(url) as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE experiments (x INTEGER)"))
        connection.execute(sqlalchemy.text("CREATE SCHEMA mine"))
    own = f"{url}?options=-csearch_path%3Dmine"
    Studies(own).create("one")
    assert exists(own) and tables(url) == {"experiments"}
    check_apart(own, url)


def test_a_lost_lease_is_taken_again_or_the_sweep_ends_before_it_writes(postgresql: Server) -> None:
    ours, theirs = Studies(url := postgresql.database()), Studies(url)
    study = ours.create("one")
    with ours.lease("one"):
        hang_up(postgresql, url)
        study.set_user_attr("key", 1)
        with pytest.raises(StudyBusyError), theirs.lease("one"):
            pass  # the lease is ours again
        hang_up(postgresql, url)
        with theirs.lease("one"):
            for _ in range(2):
                with pytest.raises(StudyBusyError, match="is being run by process"):
                    study.set_user_attr("key", 2)
        with pytest.raises(StudyBusyError, match="is being run by process"):
            study.set_user_attr("key", 3)  # the other process has ended, but what is known here is outdated
    assert theirs.create("one").user_attrs == {"key": 1}
    with theirs.lease("one"):
        pass


def test_a_study_that_another_process_ran_meanwhile_is_not_resumed(postgresql: Server) -> None:
    ours, theirs = Studies(url := postgresql.database()), Studies(url)
    with ours.lease("one"):
        study = ours.create("one")
        study.set_user_attr("key", 1)
        hang_up(postgresql, url)
        with theirs.lease("one"):
            theirs.create("one").set_user_attr("key", 2)
        for _ in range(2):
            with pytest.raises(StudyBusyError, match=r"'one' .* was run by another process while this one"):
                study.set_user_attr("key", 3)
    assert theirs.create("one").user_attrs == {"key": 2}
    with ours.lease("one"):
        ours.create("one").set_user_attr("key", 4)


def test_a_dead_connection_that_the_server_still_holds_does_not_lock_out_its_own_process(postgresql: Server) -> None:
    studies = Studies(postgresql.database())
    study = studies.create("one")
    with studies.lease("one"):
        study.set_user_attr("key", 1)
        assert isinstance(studies.database, Postgresql) and studies.database.leases[0].connection is not None
        ours = studies.database.leases[0].connection.connection.driver_connection.fileno()
        kept = os.dup(ours)  # the server's end stays open, as if a router had dropped the connection
        here, there = socket.socketpair()
        there.close()
        os.dup2(here.fileno(), ours)
        study.set_user_attr("key", 2)
        os.close(kept)
        here.close()
        with pytest.raises(StudyBusyError), Studies(studies.url).lease("one"):
            pass  # the lease is ours again
    assert studies.create("one").user_attrs == {"key": 2}


def test_a_trial_that_another_process_ended_is_reported_in_one_message(studies: Studies) -> None:
    study = studies.create("one")
    asked = study.ask()
    studies.create("one").tell(0, 0.5)
    with pytest.raises(StorageError, match="a trial was ended by another process while it ran here"), guarded("x://"):
        asked.report(0.1, step=1)


def test_a_lease_that_cannot_be_taken_again_is_tried_again_at_the_next_call(postgresql: Server) -> None:
    studies = Studies(postgresql.database())
    study = studies.create("one")
    with studies.lease("one"):
        hang_up(postgresql, studies.url)
        postgresql.execute(f"ALTER ROLE {USER} NOLOGIN")
        try:
            for _ in range(2):
                with pytest.raises(StorageError, match="user log in"), guarded(studies.url):
                    study.set_user_attr("key", 1)
        finally:
            postgresql.execute(f"ALTER ROLE {USER} LOGIN")
        study.set_user_attr("key", 2)
    assert studies.create("one").user_attrs == {"key": 2}


def hang_up(server: Server, url: str, only: str = "% since %") -> None:
    """End sessions, by default those of all leases, as a restarted server or a failing network does."""
    name = url.partition("?")[0].rpartition("/")[2]
    server.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}' "
        f"AND usename = '{USER}' AND application_name LIKE '{only}'"
    )


def test_a_server_that_restarts_between_two_calls_is_not_noticed(postgresql: Server) -> None:
    studies = Studies(postgresql.database())
    study = studies.create("one")
    with studies.lease("one"):
        with postgresql.down():
            pass
        study.set_user_attr("key", 1)
        # which call notices that the server is down depends on the network
        gone = pytest.raises(StorageError, match=r"nobody answers at this address|the connection was lost")
        with postgresql.down(), gone, guarded(studies.url):
            study.set_user_attr("key", 3)
        study.set_user_attr("key", 2)
    assert Studies(studies.url).create("one").user_attrs == {"key": 2}


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        (psycopg.OperationalError("FATAL: das Datenbanksystem startet"), True),
        (psycopg.errors.ConnectionTimeout("trop de clients"), True),
        (psycopg.errors.AdminShutdown("arrêt par l'administrateur"), True),
        (psycopg.OperationalError('FATAL: password authentication failed for user "sweeper"'), False),
        (psycopg.errors.QueryCanceled("storniere Anfrage"), False),
        (psycopg.ProgrammingError("the query has 1 placeholder but 2 parameters were passed"), False),
        (sqlite3.OperationalError("interrupted"), False),
    ],
)
def test_a_server_that_refuses_a_connection_in_another_language_is_waited_for(said: Exception, passes: bool) -> None:
    kind = getattr(
        sqlalchemy.exc, "ProgrammingError" if isinstance(said, psycopg.ProgrammingError) else "OperationalError"
    )
    assert (outage(kind(None, None, said)) is not None) == passes


def test_a_connection_that_is_lost_during_a_statement_is_reported_in_one_message(postgresql: Server) -> None:
    studies = Studies(postgresql.database())
    lost = pytest.raises(StorageError, match=r"the connection was lost\. What was finished is kept")
    with studies.storage.engine.connect() as connection:
        hang_up(postgresql, studies.url, "peftsweep")
        with lost, guarded(studies.url):
            connection.execute(sqlalchemy.text("SELECT 1"))


def test_without_the_driver_one_message_says_what_to_install(tmp_path: Path) -> None:
    code = """
import sys

sys.modules["psycopg"] = None  # as if it were not installed
from peftsweep.cli import main

sys.argv = ["peftsweep", "best", "--storage", "postgresql://me:secret@host/studies"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "pip install 'peftsweep[postgres]'" in done.stderr and "secret" not in done.stderr


def test_a_link_to_a_database_shares_the_lock_and_the_artifacts_of_the_database(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
    studies = Studies(f"sqlite:///{own}/studies.db")
    studies.create("one")
    (other / "linked.db").symlink_to(own / "studies.db")
    linked = Studies(f"sqlite:///{other}/linked.db")
    assert linked.artifacts == studies.artifacts
    with studies.lease("one"), pytest.raises(StudyBusyError), linked.lease("one"):
        pass


def test_a_link_in_place_of_the_file_that_names_a_study_s_holder_is_not_followed(tmp_path: Path) -> None:
    studies, thesis = Studies(f"sqlite:///{tmp_path}/studies.db"), tmp_path / "thesis.txt"
    studies.create("one")
    thesis.write_text("mine")
    with studies.lease("one"):
        (holder,) = tmp_path.glob("*.holder")
    holder.symlink_to(thesis)
    with studies.lease("one"):
        assert not holder.is_symlink()
    assert thesis.read_text() == "mine"
