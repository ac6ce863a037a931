"""What does an exported folder contain, and is it unchanged? `peftsweep.json` says so, for programs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from peftsweep.config import ModelConfig
from peftsweep.data import FORMATS
from peftsweep.errors import ExportError
from peftsweep.safe_text.quoting import MAX_VALUE, shortened, word
from peftsweep.system import plain_files
from peftsweep.system.names import refusal
from peftsweep.task import Logits, Task, thresholds_from_probabilities

NAME, CARD = "peftsweep.json", "README.md"
LONGEST = 16_000_000  # most bytes of a manifest; ten thousand labels take half a million
FREE = (NAME, CARD)  # files that may change
UNREAD = (".md", *FORMATS)  # endings that no loader reads


def _name(name: str) -> str:
    """A file's name. The file is opened, so the name may not lead into another folder."""
    if why := refusal(name):
        raise ValueError(f"a file's name {why}")
    return name


def _is_none(value: object) -> bool:
    return value is None


class Manifest(BaseModel):
    """What an exported folder holds.

    Attributes:
        method: need not be registered: a merged model is loaded without it.
        base: revision of the base: a commit of the hub, or a fingerprint of its files.
        thresholds: probability above which each label is predicted, for people; None if each text has one label.
        cuts: logit above which each label is predicted. None if each text has one label; and in folders of version
            0.1.0, which have the thresholds only.
        pad: id of the padding token; None in folders of version 0.1.0.
        text: name of the data's text column.
        fingerprint: of the data.
        scores: on the validation rows, at the best evaluation.
        test: scores on the test split, if this trial was scored there.
        merged: whether the folder is a plain model, with the adapter merged into its weights.
        files: SHA-256 digests by name, of all files but this one and the card.
        card: digest of the model card, which may change; None in folders of version 0.1.0.
        digest: of all fields but the location of the base, which may change. Fields that are newer than version 0.1.0
            are left out if they are None, so that digests of older folders stay valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str
    study: str
    trial: int
    method: str
    model: ModelConfig
    base: str
    kind: Literal["multi-label", "single-label"]
    labels: tuple[str, ...] = Field(min_length=1)
    thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None
    cuts: tuple[FiniteFloat, ...] | None = Field(default=None, exclude_if=_is_none)
    pad: Annotated[int, Field(ge=0)] | None = Field(default=None, exclude_if=_is_none)
    text: str
    max_length: int = Field(ge=1)
    fingerprint: str
    scores: dict[str, float]
    test: dict[str, float] | None = Field(default=None, exclude_if=_is_none)
    merged: bool
    files: dict[Annotated[str, AfterValidator(_name)], str]
    card: str | None = Field(default=None, exclude_if=_is_none)
    digest: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels are the same")
        given = None if self.thresholds is None else len(self.thresholds)
        if given != (len(self.labels) if self.kind == "multi-label" else None):
            raise ValueError("thresholds: expected one for each label if they are multi-label, else null")
        if self.cuts is not None and len(self.cuts) != given:
            raise ValueError("cuts: expected one for each threshold")
        return self

    @property
    def task(self) -> Task:
        return Task(self.kind, self.labels)

    def on(self, logits: Logits) -> NDArray[np.int64]:
        """Predicted labels [n, C] as zeros and ones, given logits [n, C]."""
        thresholds = self.cuts if self.cuts is not None else thresholds_from_probabilities(self.thresholds or ())
        return self.task.one_hot(self.task.predictions(logits, np.asarray(thresholds)))

    def write(self, folder: Path) -> None:
        whole = self.model_copy(update={"digest": self.own_digest()})
        (folder / NAME).write_text(whole.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def own_digest(self) -> str:
        fields = self.model_dump_json(exclude={"digest": True, "model": {"id"}})
        return hashlib.sha256(fields.encode()).hexdigest()


def read(folder: Path) -> Manifest:
    """Read the manifest, and check that the folder's files are those that were exported.

    Raises:
        ExportError: the folder is not an export, or a file in it was changed, removed or added.
    """
    found = read_manifest(folder)
    for name, digest in found.files.items():
        if not (folder / name).is_file():
            raise ExportError(f"{folder}: {name} is missing; export it again")
        if digest_of(folder / name) != digest:
            raise ExportError(f"{folder}: {name} is not the file that was exported; export it again")
    if added := sorted(name for name in _read_by_loaders(folder) if name not in found.files):
        raise ExportError(f"{folder}: {word(added[0])} was added after the export; remove it")
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest without checking the folder's files.

    Raises:
        ExportError: the folder is not an export, or its manifest was changed.
    """
    file = folder / NAME
    if not folder.is_dir():
        if folder.exists():
            raise ExportError(f"{folder} is a file; give a folder that `peftsweep export` wrote")
        raise ExportError(f"{folder} does not exist; create it with: peftsweep export --study NAME {folder}")
    if not file.is_file():
        raise ExportError(f"{folder} has no {NAME}: give a folder that `peftsweep export` wrote")
    try:
        found = Manifest.model_validate_json(plain_files.read(file, LONGEST))
        digest = found.own_digest()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(word(str(part)) for part in first["loc"] if part != "[key]") or "the file"
        what = shortened(first["msg"].removeprefix("Value error, "), 2 * MAX_VALUE)
        raise ExportError(f"{file}: {where}: {what}; export it again") from error
    except (OSError, ValueError) as error:  # ValueError: a number with thousands of digits, half of a surrogate pair
        raise ExportError(f"{file}: cannot be read: {shortened(str(error))}; export it again") from error
    if found.digest != digest:
        raise ExportError(f"{file} is not the file that was exported (model.id alone may change); export it again")
    return found


def added_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of files, folders and links in an exported folder that were not exported."""
    exported = {*FREE, *manifest.files}
    entries = sorted(folder.iterdir())
    return [each.name for each in entries if each.name not in exported or each.is_symlink() or not each.is_file()]


def is_card_edited(folder: Path, manifest: Manifest) -> bool:
    """Whether the model card was edited. False if the manifest does not have its digest."""
    card = folder / CARD
    return manifest.card is not None and card.is_file() and digest_of(card) != manifest.card


def digests(folder: Path) -> dict[str, str]:
    """Digests of all files that a prediction depends on, by name."""
    return {file.name: digest_of(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name not in FREE}


def _read_by_loaders(folder: Path) -> list[str]:
    """Names of files that a loader might read: all but hidden files, texts and tables."""
    files = [file for file in folder.iterdir() if file.is_file() and file.name not in FREE]
    return [file.name for file in files if file.suffix.lower() not in UNREAD and not file.name.startswith(".")]


def digest_of(file: Path) -> str:
    with plain_files.opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
