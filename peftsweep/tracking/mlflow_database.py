"""How is MLflow's database made, whole or not at all?"""

from __future__ import annotations

from pathlib import Path

from peftsweep.system.atomic_files import aside, put_if_free
from peftsweep.system.leftovers import tidy
from peftsweep.tracking.locations import artifact_root, table_names


def make_store(file: Path) -> None:
    """Make MLflow's tables in an SQLite file, unless it is there. The file is written aside: MLflow takes a second or
    two for it, and could never open a database whose maker was killed meanwhile."""
    tidy(file)
    if file.exists():
        return
    with aside(file) as path:
        table_names(path)  # fails at once where the folder cannot be written
        _fill(path, artifact_root(f"sqlite:///{file}"))
        put_if_free(path, file)


def _fill(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{file}", artifacts.as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()  # or connections would stay open to the file under its old name
