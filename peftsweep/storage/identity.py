"""Which study this is, and which folder of artifacts belongs to it, even after it was copied or moved.

Optuna copies a study with all its attributes, so a key alone does not tell a copy from its original. The study also
records the name and the storage that the key was made for. A copy under another name is another study. A copy with the
same name in another storage is the same study if its folder of artifacts came along (it was moved), and another study
if not. A folder that two storages share belongs to one study, which a file in the folder names.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel

from peftsweep.errors import StorageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage.attribute_tables import has_study
from peftsweep.storage.attributes import StudyFacts, write_study
from peftsweep.storage.database import Database
from peftsweep.storage.record_parts import Bound
from peftsweep.storage.stored_study import StoredStudy
from peftsweep.storage.urls import address, alike, lasting, same_place
from peftsweep.system import plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.leftovers import tidy, tidy_below

OWNER = "owner.json"  # in a study's folder
LONGEST = 1 << 16  # bytes of that file


@dataclass(frozen=True)
class Place:
    """What tells a storage from others.

    Attributes:
        url: without a password.
        server: identifies a PostgreSQL server and database, whatever name they are reached under.
        study_of: returns the name of the study in it that a key was made for, or None.
    """

    url: str
    server: str | None
    study_of: Callable[[str], str | None] = field(compare=False)

    @classmethod
    def of(cls, url: str, database: Database, study_of: Callable[[str], str | None]) -> Place:
        return cls(lasting(url), database.server(), study_of)

    def is_same(self, url: str, server: str | None, *, surely: bool = False) -> bool:
        """Whether this URL and server are this place.

        Args:
            surely: return False if in doubt. A server may have several names, inside a container and outside.
        """
        if self.server is not None and server is not None:
            return self.server == server and alike(self.url, url)
        return (same_place if surely else alike)(self.url, url)


class Owner(BaseModel, frozen=True, strict=True):
    """The owner of a folder: the study's key, and the storage that it was last run in.

    Attributes:
        folder: its path at that time. An earlier version recorded neither this nor the server.
    """

    key: str
    storage: str
    server: str | None = None
    folder: str | None = None


def owner(folder: Path) -> Owner | None:
    """The owner of a study's folder, if the folder names one.

    Raises:
        StorageError: the file cannot be read.
    """
    file = folder / OWNER
    try:
        return Owner.model_validate_json(plain_files.read(file, LONGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # pydantic's error is one
        raise StorageError(f"{file} cannot be read; if the folder is this study's, delete that file") from error


def claim(name: str, folder: Path, key: str, place: Place, *, known: bool = False) -> None:
    """Make this study the folder's owner. It takes over what a deleted study of the same storage left there; a moved
    study keeps the folder that came along. Temporary files of killed processes in it and beside it are removed.

    Args:
        name: the study's.
        known: whether the folder was the study's before. An earlier version did not write that into the folder.

    Raises:
        StorageError: see `check_free`.
    """
    check_free(name, folder, key, place, known=known)
    now = Owner(key=key, storage=place.url, server=place.server, folder=os.path.realpath(folder))
    if owner(folder) != now:
        _write(folder, now)
    tidy(folder)
    tidy_below(folder)


def restore(folder: Path, known: Owner) -> bool:
    """Make a study's folder again if somebody has deleted it; returns whether somebody has."""
    if owner(folder) is not None:
        return False
    _write(folder, known)
    return True


def _write(folder: Path, owner: Owner) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / OWNER) as file:
        file.write_text(json.dumps(owner.model_dump()) + "\n", encoding="utf-8")


def check_free(name: str, folder: Path, key: str, place: Place, *, known: bool) -> None:
    """Raises:
    StorageError: the folder belongs to another study, which would lose its adapters; or it holds files that no study
        wrote.
    """
    there = owner(folder)
    if there is None:
        if not known and folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise StorageError(
                f"{folder} has files but no {OWNER}, so no study made it. Nothing in it was changed. Move it "
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
    """Give a copied study a key of its own, so that it gets MLflow runs and artifacts of its own; and make it the owner
    of its folder. Only the holder of its lease may call this.

    Args:
        folder: for its artifacts.
        main: for a study of seeds: the study whose configurations they have. It was settled before.

    Raises:
        StorageError: see `check_free`. Nothing was changed.
    """
    record = study.record
    bound = record.bound  # an earlier version did not record it
    bound = bound or Bound(key=record.key or "", study=_name_of(study), storage=place.url, was=None)
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
    """Whether a study is a copy of the study that its key was made for."""
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
        return shared and _has(there, name, unknown=True)  # a copy was run meanwhile, and owns the folder now
    if there is None or there.key != bound.key:
        return True
    return shared and _has(there, name, unknown=False)


def _has(there: Owner | None, name: str, *, unknown: bool) -> bool:
    """Whether the storage in which a folder was last used still has the study. A server is not asked: `unknown`."""
    if there is None:
        return False
    try:
        where = address(there.storage)
        if not where.is_file:
            return unknown
        return has_study(Path(str(where.url.database)), name, there.key)
    except (StorageError, sqlite3.Error, ValueError):  # of a storage that is gone, too
        return False


def _name_of(study: StoredStudy) -> str:
    """The name that a study of an earlier version was made under, taken from the paths of its adapters."""
    for trial in study.records():
        if trial.adapter and "/trial-" in trial.adapter:
            return trial.adapter.rpartition("/trial-")[0]
    return study.study_name
