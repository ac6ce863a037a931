"""MLflow's database, made whole or not at all."""

from __future__ import annotations

from pathlib import Path

from peftsweep.system.atomic_files import aside, tidy
from peftsweep.tracking.locations import artifact_root, look_into


def make_store(file: Path) -> None:
    """Make MLflow's tables in an SQLite file that is not there, aside and renamed: MLflow needs a second or two for
    them, and can never open a database whose maker was killed meanwhile."""
    tidy(file)
    if file.exists():
        return
    with aside(file) as path:
        look_into(path)  # a folder that cannot be written is found out at once
        _fill(path, artifact_root(f"sqlite:///{file}"))
        _put(path, file)


def _fill(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{file}", artifacts.as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()  # else connections stay open to the file under its old name


def _put(path: Path, file: Path) -> None:
    """A name that nobody has taken: a sweep that began at the same time may have made the database, and uses it."""
    try:
        file.hardlink_to(path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        path.replace(file)
