"""A study in the storage: made if it is new, held to its file and its rows if it is not."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import optuna

from peftsweep.config import StudyConfig, differences
from peftsweep.data import Dataset
from peftsweep.errors import StudyMismatchError
from peftsweep.storage import Studies, masked
from peftsweep.sweep import artifacts


def open_study(studies: Studies, config: StudyConfig, data: Dataset) -> optuna.Study:
    """The study in the storage, made if it is new.

    Raises:
        StudyMismatchError: one of that name is there with another space or other data.
        StorageError: its folder of artifacts is that of a study in another storage.
    """
    study = studies.create(config.name)
    attrs = study.user_attrs
    if "config" not in attrs or not study.get_trials(deepcopy=False):  # a study without trials may still be corrected
        described: dict[str, Any] = {
            "fingerprint": data.fingerprint,
            "validation_fingerprint": data.validation_fingerprint,
            "splits": splits(data),
            "key": uuid4().hex,  # tells it from a study of the same name in another storage
            "experiment": _experiment(studies, config, data),
            "metric": config.search.objective,
            "kind": data.task.kind,
            "labels": list(data.task.labels),
            "config": config.identity(),  # last: whoever finds it finds the rest
        }
        artifacts.claim(studies.own_folder(config.name), described["key"], studies.url)
        for key, value in described.items():
            study.set_user_attr(key, value)
        return study
    check_same(studies, study, config, data)
    artifacts.claim(studies.own_folder(config.name), attrs["key"], studies.url)
    study.set_user_attr("config", config.identity())  # a widened range is kept
    if "validation_fingerprint" not in attrs:  # a study of an earlier version
        study.set_user_attr("validation_fingerprint", data.validation_fingerprint)
    return study


def begun(studies: Studies, name: str) -> str | None:
    """The fingerprint of the rows that a study of this name has trials of, if there is one."""
    if name not in studies.names() or not (study := studies.load(name)).get_trials(deepcopy=False):
        return None
    return study.user_attrs.get("fingerprint")


def check_same(studies: Studies, study: optuna.Study, config: StudyConfig, data: Dataset) -> None:
    """Whether the study in the storage is the one of the file, on the same rows.

    Raises:
        StudyMismatchError: it has another space or other data.
    """
    attrs = study.user_attrs
    lines = differences(attrs["config"], config.identity())
    if attrs["metric"] != config.search.objective:
        lines.append(f"search.objective: {attrs['metric']} in the storage, {config.search.objective} now")
    if attrs["fingerprint"] == data.fingerprint:  # the same rows, wherever they lie and however written
        where = ("source", "train", "validation", "test", "subset", "revision", "encoding", "quoting", "labels")
        told = tuple(f"data.{key}{end}" for key in where for end in ":.")
        lines = [line for line in lines if not line.startswith(told)]
    else:
        lines.append(f"the data's rows: fingerprint {attrs['fingerprint']} in the storage, {data.fingerprint} now")
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
        known = studies.load(name).user_attrs
        if known.get("fingerprint") == data.fingerprint and "experiment" in known:
            return str(known["experiment"])
    return f"{config.data.name} · {data.task.kind} · {data.fingerprint[:6]}"


def splits(data: Dataset) -> dict[str, int]:
    """Rows of each split."""
    sizes = {"train": len(data.train), "validation": len(data.validation)}
    return sizes if data.test is None else sizes | {"test": len(data.test)}
