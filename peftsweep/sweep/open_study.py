"""How a study is opened: created if it is new, compared with its file and its rows if it is not."""

from __future__ import annotations

from contextlib import suppress

from peftsweep.config import StudyConfig, differences
from peftsweep.data import Dataset
from peftsweep.errors import ForeignStudyError, StorageError, StudyMismatchError
from peftsweep.storage import StoredStudy, Studies, claim, fresh, masked, settle, write_study


def open_study(studies: Studies, config: StudyConfig, data: Dataset, main: StoredStudy | None = None) -> StoredStudy:
    """The study in the storage, created if it is new.

    Args:
        main: for a study of seeds: the study whose configurations they have.

    Raises:
        ForeignStudyError: another program made a study of that name.
        StudyMismatchError: the study of that name has another space or other data.
        StorageError: its folder of artifacts belongs to a study in another storage, or its trials are misnumbered.
    """
    found, folder = _found(studies, config.name), studies.own_folder(config.name)
    if found is not None:
        found.check_numbers()
    if found is None or not found.has_trials():  # as long as a study has no trials, its file may change
        return _made(studies, config, data)
    for line in found.left_out():
        studies.warn(line)
    check_same(studies, found, config, data)
    settle(found, folder, studies.place, main)
    write_study(found, identity=config.identity())  # ranges may have been widened
    if found.record.validation_fingerprint is None:  # an earlier version did not record it
        write_study(found, validation_fingerprint=data.validation_fingerprint)
    return found


def _found(studies: Studies, name: str) -> StoredStudy | None:
    try:
        return studies.find(name)
    except ForeignStudyError as error:
        raise ForeignStudyError(f"{error}; save the study file under another name, or use another --storage") from error


def _made(studies: Studies, config: StudyConfig, data: Dataset) -> StoredStudy:
    key, bound = fresh(config.name, studies.place)
    name = _data_name(studies, config, data)
    # Claim the folder first: it tells a study that a process died over from another program's.
    claim(config.name, studies.own_folder(config.name), key, studies.place)
    write_study(
        studies.create(config.name),
        key=key,
        bound=bound,
        fingerprint=data.fingerprint,
        validation_fingerprint=data.validation_fingerprint,
        splits=data.sizes,
        data=name,
        objective=config.search.objective,
        kind=data.task.kind,
        labels=list(data.task.labels),
        identity=config.identity(),  # last: whoever finds it finds the rest
    )
    return studies.load(config.name)


def begun(studies: Studies, name: str) -> str | None:
    """The fingerprint of the rows of the study with this name, if it has trials."""
    study = _found(studies, name)
    return None if study is None or not study.has_trials() else study.record.fingerprint


def check_same(studies: Studies, study: StoredStudy, config: StudyConfig, data: Dataset) -> None:
    """
    Raises:
        StudyMismatchError: the study in the storage has another space or other data than the study file.
    """
    record = study.record
    lines = differences(record.identity, config.identity())
    if record.objective != config.search.objective:
        lines.append(f"search.objective: {record.objective} in the storage, {config.search.objective} now")
    if record.fingerprint == data.fingerprint:  # the same rows, wherever they are and however they were written
        where = ("source", "train", "validation", "test", "subset", "revision", "encoding", "quoting", "labels")
        ways = tuple(f"data.{key}{end}" for key in where for end in ":.")
        lines = [line for line in lines if not line.startswith(ways)]
    else:
        lines.append(f"the data's rows: fingerprint {record.fingerprint} in the storage, {data.fingerprint} now")
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyMismatchError(
            f"study {config.name!r} exists in {masked(studies.url)} and is another one:\n{listed}\n"
            "To go on with it, restore these in the study file; to begin anew, save the study file under another name "
            "or use another --storage"
        )


def _data_name(studies: Studies, config: StudyConfig, data: Dataset) -> str:
    """A name for people to read. Studies on the same rows share it, wherever the rows are; other studies do not."""
    for name in studies.names():
        with suppress(StorageError):  # a study that cannot be read does not count
            known = studies.find(name)
            if known is not None and known.record.fingerprint == data.fingerprint:
                return known.record.data
    return f"{config.data.name} · {data.task.kind} · {data.fingerprint[:6]}"
