"""MLflow's database, made whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from peftsweep.tracking.addresses import artifact_root, look_into


def make_store(file: Path) -> None:
    """Make MLflow's tables in an SQLite file that is not there, aside and renamed: MLflow needs a second or two for
    them, and can never open a database whose maker was killed meanwhile."""
    if file.exists():
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        look_into(aside)  # a folder that cannot be written is found out at once
        _fill(aside)
        _put(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _fill(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = f"sqlite:///{file}"
    store = SqlAlchemyStore(uri, artifact_root(uri).as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()  # else connections stay open to the file under its old name


def _put(aside: Path, file: Path) -> None:
    """A name that nobody has taken: a sweep that began at the same time may have made the database, and uses it."""
    try:
        file.hardlink_to(aside)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        aside.replace(file)
