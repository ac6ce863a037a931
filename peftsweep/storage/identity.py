"""Which study this is, wherever it was copied to: its key, and the folder of artifacts that is its own.

Optuna copies a study with all its attributes, so the key alone does not tell a copy from the first one. Beside it
stands the name and the storage that it was made for. A copy of another name is another study. One of the same name in
another storage is the same study if its folder of artifacts came along, which is how a study is moved, and another one
otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from peftsweep.aside import replaced
from peftsweep.errors import StorageError
from peftsweep.storage.addresses import alike, lasting, same_place
from peftsweep.storage.record import Bound
from peftsweep.storage.stored import StoredStudy

OWNER = "owner.json"  # in a study's folder


class Owner(BaseModel, frozen=True, strict=True):
    """Whose a folder is: the study's key, and the storage that it was last run in."""

    key: str
    storage: str


def owner(folder: Path) -> Owner | None:
    """Of a study's folder, if it has one.

    Raises:
        StorageError: the file cannot be read.
    """
    file = folder / OWNER
    try:
        return Owner.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise StorageError(f"{file} cannot be read; if the folder is this study's, delete that file") from error


def claim(folder: Path, key: str, url: str) -> None:
    """Make the folder this study's. What a deleted study of the same storage left there is taken over; a study that was
    moved brings its folder along.

    Raises:
        StorageError: it is the folder of a study of another storage, which would lose its adapters.
    """
    before, now = owner(folder), Owner(key=key, storage=lasting(url))
    if before is not None and before.key != key and not same_place(before.storage, url):
        raise StorageError(
            f"{folder} has the artifacts of a study of the same name in {before.storage}; name another folder by "
            "?artifacts=FOLDER at the end of --storage or, if that study is gone, delete this one"
        )
    if before != now:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / OWNER) as file:
            file.write_text(json.dumps(now.model_dump()) + "\n", encoding="utf-8")


def fresh(name: str, url: str) -> dict[str, Any]:
    """The attributes of a new study that say which it is."""
    key = uuid4().hex
    return {"key": key, "bound": Bound(key=key, study=name, storage=lasting(url)).model_dump()}


def settle(study: StoredStudy, folder: Path, url: str, main: StoredStudy | None = None) -> None:
    """Give a study that was copied a key of its own, so that it has runs of MLflow and artifacts of its own, too. To be
    called by the holder of its lease.

    Args:
        folder: of its artifacts.
        main: of seeds, the study whose configurations they have; it has been settled.
    """
    record, here = study.record, lasting(url)
    bound = record.bound or Bound(key=record.key or "", study=_name_of(study), storage=here)  # an earlier version's
    key = record.key
    if is_copy(study, bound, folder, url) or not key:
        key = uuid4().hex
        changed: dict[str, Any] = {"mlflow_runs": {}, "mlflow_level": False, "mlflow_lost": False, "key": key}
        if main is not None and main.record.bound and record.retrain_of in (None, main.record.bound.was):
            changed["retrain_of"] = main.record.key
        for name, value in changed.items():
            study.set_user_attr(name, value)
        bound = Bound(key=key, study=study.study_name, storage=here, was=bound.key or None)
    bound = bound.model_copy(update={"storage": here})
    if bound != record.bound:
        study.set_user_attr("bound", bound.model_dump())  # last: until then it is a copy still


def is_copy(study: StoredStudy, bound: Bound, folder: Path, url: str) -> bool:
    if bound.study != study.study_name:
        return True
    if alike(bound.storage, url):
        return False
    there = owner(folder)
    return there is None or there.key != bound.key


def _name_of(study: StoredStudy) -> str:
    """The name of the study that an earlier version made, by where its adapters were."""
    for trial in study.records():
        if trial.adapter and "/trial-" in trial.adapter:
            return trial.adapter.rpartition("/trial-")[0]
    return study.study_name
