"""A study in the storage: made if it is new, held to its file and its rows if it is not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from peftsweep.config import StudyConfig, differences
from peftsweep.data import Dataset
from peftsweep.errors import ForeignStudyError, StorageError, StudyMismatchError
from peftsweep.storage import StoredStudy, Studies, claim, fresh, masked, settle


def open_study(studies: Studies, config: StudyConfig, data: Dataset, main: StoredStudy | None = None) -> StoredStudy:
    """The study in the storage, made if it is new.

    Args:
        main: of seeds, the study whose configurations they have.

    Raises:
        ForeignStudyError: one of that name is there which another program made.
        StudyMismatchError: one of that name is there with another space or other data.
        StorageError: its folder of artifacts is that of a study in another storage, or its trials are not numbered.
    """
    found, folder = _found(studies, config.name), studies.own_folder(config.name)
    if found is not None:
        found.check_numbers()
    if found is None or not found.has_trials():  # a study without trials may still be corrected
        return _made(studies, config, data)
    for line in found.left_out():
        studies.warn(line)
    check_same(studies, found, config, data)
    settle(found, folder, studies.place, main)
    found.set_user_attr("config", config.identity())  # a widened range is kept
    if found.record.validation_fingerprint is None:  # a study of an earlier version
        found.set_user_attr("validation_fingerprint", data.validation_fingerprint)
    return found


def _found(studies: Studies, name: str) -> StoredStudy | None:
    try:
        return studies.find(name)
    except ForeignStudyError as error:
        raise ForeignStudyError(f"{error}; save the study file under another name, or use another --storage") from error


def _made(studies: Studies, config: StudyConfig, data: Dataset) -> StoredStudy:
    described: dict[str, Any] = {
        **fresh(config.name, studies.place),
        "fingerprint": data.fingerprint,
        "validation_fingerprint": data.validation_fingerprint,
        "splits": splits(data),
        "experiment": _experiment(studies, config, data),
        "metric": config.search.objective,
        "kind": data.task.kind,
        "labels": list(data.task.labels),
        "config": config.identity(),  # last: whoever finds it finds the rest
    }
    # first: by its folder, a study that a process was killed over is told from another program's
    claim(config.name, studies.own_folder(config.name), described["key"], studies.place)
    study = studies.create(config.name)
    for key, value in described.items():
        study.set_user_attr(key, value)
    return studies.load(config.name)


def begun(studies: Studies, name: str) -> str | None:
    """The fingerprint of the rows that a study of this name has trials of, if there is one."""
    study = _found(studies, name)
    return None if study is None or not study.has_trials() else study.record.fingerprint


def check_same(studies: Studies, study: StoredStudy, config: StudyConfig, data: Dataset) -> None:
    """Whether the study in the storage is the one of the file, on the same rows.

    Raises:
        StudyMismatchError: it has another space or other data.
    """
    record = study.record
    lines = differences(study.user_attrs["config"], config.identity())
    if record.metric != config.search.objective:
        lines.append(f"search.objective: {record.metric} in the storage, {config.search.objective} now")
    if record.fingerprint == data.fingerprint:  # the same rows, wherever they lie and however written
        where = ("source", "train", "validation", "test", "subset", "revision", "encoding", "quoting", "labels")
        told = tuple(f"data.{key}{end}" for key in where for end in ":.")
        lines = [line for line in lines if not line.startswith(told)]
    else:
        lines.append(f"the data's rows: fingerprint {record.fingerprint} in the storage, {data.fingerprint} now")
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyMismatchError(
            f"study {config.name!r} exists in {masked(studies.url)} and is another one:\n{listed}\n"
            "To go on with it, restore these in the study file; to begin anew, save the study file under another name "
            "or use another --storage"
        )


def _experiment(studies: Studies, config: StudyConfig, data: Dataset) -> str:
    """A name that a person reads. Studies of the same rows share one, wherever the rows lie; no others do."""
    for name in studies.names():
        with suppress(StorageError):  # what cannot be read has no say
            known = studies.find(name)
            if known is not None and known.record.fingerprint == data.fingerprint:
                return known.record.experiment
    return f"{config.data.name} · {data.task.kind} · {data.fingerprint[:6]}"


def splits(data: Dataset) -> dict[str, int]:
    """Rows of each split."""
    sizes = {"train": len(data.train), "validation": len(data.validation)}
    return sizes if data.test is None else sizes | {"test": len(data.test)}
