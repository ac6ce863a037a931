"""Which study this is, wherever it was copied to: its key, and the folder of artifacts that is its own.

Optuna copies a study with all its attributes, so the key alone does not tell a copy from the first one. Beside it
stands the name and the storage that it was made for. A copy of another name is another study. One of the same name in
another storage is the same study if its folder of artifacts came along, which is how a study is moved, and another one
otherwise. A folder that two storages share belongs to one study: the file in it says which.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel

from peftsweep.errors import StorageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage.attributes import StudyFacts, write_study
from peftsweep.storage.database import Database
from peftsweep.storage.record_parts import Bound
from peftsweep.storage.stored_study import StoredStudy
from peftsweep.storage.urls import address, alike, lasting, same_place
from peftsweep.system import plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.leftovers import tidy, tidy_below

OWNER = "owner.json"  # in a study's folder
LONGEST = 1 << 16  # bytes of it
KEPT = """
SELECT 1 FROM study_user_attributes JOIN studies USING (study_id)
WHERE study_name = ? AND key = 'key' AND value_json = ?
"""


@dataclass(frozen=True)
class Place:
    """A storage, as it can be told from others.

    Attributes:
        url: without a password.
        server: of PostgreSQL, what its own servers and databases are told by, whatever name they are reached under.
        study_of: says the name of the study in it that a key was made for; None where there is none.
    """

    url: str
    server: str | None
    study_of: Callable[[str], str | None] = field(compare=False)

    @classmethod
    def of(cls, url: str, database: Database, study_of: Callable[[str], str | None]) -> Place:
        return cls(lasting(url), database.server(), study_of)

    def is_same(self, url: str, server: str | None, *, surely: bool = False) -> bool:
        """Whether that is this place.

        Args:
            surely: in doubt it is not. A server may have several names, as from within a container and from without.
        """
        if self.server is not None and server is not None:
            return self.server == server and alike(self.url, url)
        return (same_place if surely else alike)(self.url, url)


class Owner(BaseModel, frozen=True, strict=True):
    """Whose a folder is: the study's key, and the storage that it was last run in.

    Attributes:
        folder: where it was then. An earlier version kept neither this nor the server.
    """

    key: str
    storage: str
    server: str | None = None
    folder: str | None = None


def owner(folder: Path) -> Owner | None:
    """Of a study's folder, if it has one.

    Raises:
        StorageError: the file cannot be read.
    """
    file = folder / OWNER
    try:
        return Owner.model_validate_json(plain_files.read(file, LONGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # pydantic's among them
        raise StorageError(f"{file} cannot be read; if the folder is this study's, delete that file") from error


def claim(name: str, folder: Path, key: str, place: Place, *, known: bool = False) -> None:
    """Make the folder this study's. What a deleted study of the same storage left there is taken over; a study that was
    moved brings its folder along. What killed processes wrote aside in it and beside it is removed.

    Args:
        name: of the study.
        known: whether the study has had it before: an earlier version did not say so in it.

    Raises:
        StorageError: see `check_free`.
    """
    check_free(name, folder, key, place, known=known)
    now = Owner(key=key, storage=place.url, server=place.server, folder=os.path.realpath(folder))
    if owner(folder) != now:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / OWNER) as file:
            file.write_text(json.dumps(now.model_dump()) + "\n", encoding="utf-8")
    tidy(folder)
    tidy_below(folder)


def check_free(name: str, folder: Path, key: str, place: Place, *, known: bool) -> None:
    """Raises:
    StorageError: it is the folder of another study, which would lose its adapters; or it has files that are nobody's of
        ours.
    """
    there = owner(folder)
    if there is None:
        if not known and folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise StorageError(
                f"{folder} has files in it and no {OWNER}: it is no study's folder, and is left as it is; move it "
                "away, or name another place for artifacts by ?artifacts=FOLDER at the end of --storage"
            )
        return
    if there.key == key:
        return
    if not place.is_same(there.storage, there.server, surely=True):
        raise StorageError(
            f"{folder} has the artifacts of a study of the same name in {there.storage}; name another folder by "
            "?artifacts=FOLDER at the end of --storage or, if that study is gone, move this one away"
        )
    if (other := place.study_of(there.key)) not in (None, name):
        raise StorageError(
            f"{folder} has the artifacts of study {quoted(other)} of the same storage, as where a disk takes upper and "
            "lower case for one; save the study file under another name"
        )


def fresh(name: str, place: Place) -> tuple[str, Bound]:
    """A new study's key, and what it is bound to."""
    key = uuid4().hex
    return key, Bound(key=key, study=name, storage=place.url, server=place.server, was=None)


def settle(study: StoredStudy, folder: Path, place: Place, main: StoredStudy | None = None) -> None:
    """Give a study that was copied a key of its own, so that it has runs of MLflow and artifacts of its own, too; and
    the folder to the study. To be called by the holder of its lease.

    Args:
        folder: of its artifacts.
        main: of seeds, the study whose configurations they have; it has been settled.

    Raises:
        StorageError: see `check_free`. Nothing was changed.
    """
    record = study.record
    bound = record.bound or Bound(
        key=record.key or "", study=_name_of(study), storage=place.url, was=None
    )  # an earlier version's
    copied = is_copy(study.study_name, bound, folder, place)
    key = uuid4().hex if copied or not record.key else record.key
    check_free(study.study_name, folder, key, place, known=not copied)
    if key != record.key:
        changed = StudyFacts(mlflow_runs={}, in_sync=False, mlflow_lost=False, key=key)
        if main is not None and main.record.bound and record.retrain_of in (None, main.record.bound.was):
            changed["retrain_of"] = main.record.key
        write_study(study, **changed)
        bound = Bound(key=key, study=study.study_name, storage=place.url, was=bound.key or None)
    bound = bound.model_copy(update={"storage": place.url, "server": place.server})
    if bound != record.bound:
        write_study(study, bound=bound)  # last: until then it is a copy still
    claim(study.study_name, folder, key, place, known=True)


def is_copy(name: str, bound: Bound, folder: Path, place: Place) -> bool:
    """Whether a study is not the one that its key was made for."""
    there = owner(folder)
    shared = (
        there is not None
        and there.key == bound.key
        and there.folder == os.path.realpath(folder)
        and not place.is_same(there.storage, there.server)
    )
    if bound.study != name:
        return True
    if place.is_same(bound.storage, bound.server):
        return shared and _has(there, name, unknown=True)  # a copy of it was run meanwhile, and has the folder now
    if there is None or there.key != bound.key:
        return True
    return shared and _has(there, name, unknown=False)


def _has(there: Owner | None, name: str, *, unknown: bool) -> bool:
    """Whether the storage that a folder was last used by has the study still; `unknown` of a server, which is not
    asked."""
    if there is None:
        return False
    try:
        where = address(there.storage)
        if not where.is_file:
            return unknown
        with closing(sqlite3.connect(f"{Path(str(where.url.database)).as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(KEPT, (name, json.dumps(there.key))).fetchone() is not None
    except (StorageError, sqlite3.Error, ValueError):  # of a storage that is gone, too
        return False


def _name_of(study: StoredStudy) -> str:
    """The name of the study that an earlier version made, by where its adapters were."""
    for trial in study.records():
        if trial.adapter and "/trial-" in trial.adapter:
            return trial.adapter.rpartition("/trial-")[0]
    return study.study_name
