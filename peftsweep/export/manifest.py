"""peftsweep.json: what an exported folder is, for programs; and whether it still is what was exported."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from peftsweep.config import MethodName, ModelConfig
from peftsweep.data import FORMATS
from peftsweep.errors import ExportError
from peftsweep.safe_text.quoting import MAX_VALUE, shortened, word
from peftsweep.system import plain_files
from peftsweep.system.names import refusal
from peftsweep.task import Logits, Task, thresholds_from_probabilities

NAME, CARD = "peftsweep.json", "README.md"
LONGEST = 16_000_000  # bytes of a manifest; one of ten thousand labels has half a million
FREE = (NAME, CARD)  # which may change
UNREAD = (".md", *FORMATS)  # endings that no loader looks for


def _name(name: str) -> str:
    """Of a file in the folder, which is opened: a name that leads into another folder is none."""
    if why := refusal(name):
        raise ValueError(f"a file's name {why}")
    return name


def _is_none(value: object) -> bool:
    return value is None


class Manifest(BaseModel):
    """What an exported folder holds.

    Attributes:
        base: the hub's commit of the base, or a fingerprint of its files.
        thresholds: the probability above which each label is on, for people to read; None where classes exclude each
            other.
        cuts: the logit above which each label is on. None where classes exclude each other; and in folders of version
            0.1.0, where the thresholds say it.
        pad: the token that pads; None in folders of version 0.1.0.
        text: the data's column of texts.
        fingerprint: of the data.
        scores: of the validation rows, at the best evaluation.
        test: of the test split, if that was scored by this trial.
        merged: a plain model, the adapter being part of its weights.
        files: digests (SHA-256) by name, of all but this file and the card.
        card: digest of the model card, which may change; None in folders of version 0.1.0.
        digest: of all that is said here, but for where the base is: that may move. What is None and came after version
            0.1.0 is left out, for digests of its folders know nothing of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str
    study: str
    trial: int
    method: MethodName
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
        """Which labels are on [n, C], zeros and ones."""
        thresholds = self.cuts if self.cuts is not None else thresholds_from_probabilities(self.thresholds or ())
        return self.task.one_hot(self.task.predictions(logits, np.asarray(thresholds)))

    def write(self, folder: Path) -> None:
        whole = self.model_copy(update={"digest": self.own_digest()})
        (folder / NAME).write_text(whole.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def own_digest(self) -> str:
        said = self.model_dump_json(exclude={"digest": True, "model": {"id"}})
        return hashlib.sha256(said.encode()).hexdigest()


def read(folder: Path) -> Manifest:
    """The manifest of an exported folder whose files are those that were exported.

    Raises:
        ExportError: it is no such folder, or something in it was changed, is gone or was added.
    """
    found = said(folder)
    for name, digest in found.files.items():
        if not (folder / name).is_file():
            raise ExportError(f"{folder}: {name} is gone; export it again")
        if digest_of(folder / name) != digest:
            raise ExportError(f"{folder}: {name} is not the file that was exported; export it again")
    if added := sorted(name for name in _read_by_loaders(folder) if name not in found.files):
        raise ExportError(f"{folder}: {word(added[0])} was not exported, but added; remove it")
    return found


def said(folder: Path) -> Manifest:
    """The manifest of an exported folder, whatever has become of its files.

    Raises:
        ExportError: it is no such folder, or what the manifest says was changed.
    """
    file = folder / NAME
    if not folder.is_dir():
        if folder.exists():
            raise ExportError(f"{folder} is a file; give a folder that `peftsweep export` made")
        raise ExportError(f"{folder} is not there; make it with: peftsweep export --study NAME {folder}")
    if not file.is_file():
        raise ExportError(f"{folder} has no {NAME}: give a folder that `peftsweep export` made")
    try:
        found = Manifest.model_validate_json(plain_files.read(file, LONGEST))
        digest = found.own_digest()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(word(str(part)) for part in first["loc"] if part != "[key]") or "the file"
        what = shortened(first["msg"].removeprefix("Value error, "), 2 * MAX_VALUE)
        raise ExportError(f"{file}: {where}: {what}; export it again") from error
    except (OSError, ValueError) as error:  # the latter: a number of thousands of digits, half of a surrogate pair
        raise ExportError(f"{file}: cannot be read: {shortened(str(error))}; export it again") from error
    if found.digest != digest:
        raise ExportError(f"{file} is not the file that was exported (model.id alone may change); export it again")
    return found


def foreign(folder: Path, manifest: Manifest) -> list[str]:
    """The names of what is in an exported folder and was not exported: other files, folders, links."""
    exported = {*FREE, *manifest.files}
    entries = sorted(folder.iterdir())
    return [each.name for each in entries if each.name not in exported or each.is_symlink() or not each.is_file()]


def own_words(folder: Path, manifest: Manifest) -> bool:
    """Whether somebody edited the model card, as far as the manifest knows what it was."""
    card = folder / CARD
    return manifest.card is not None and card.is_file() and digest_of(card) != manifest.card


def digests(folder: Path) -> dict[str, str]:
    """Of all that a prediction depends on, by name."""
    return {file.name: digest_of(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name not in FREE}


def _read_by_loaders(folder: Path) -> list[str]:
    """Names of files that a model, a tokenizer or an adapter may be made of: all but hidden files, texts and tables."""
    files = [file for file in folder.iterdir() if file.is_file() and file.name not in FREE]
    return [file.name for file in files if file.suffix.lower() not in UNREAD and not file.name.startswith(".")]


def digest_of(file: Path) -> str:
    with plain_files.opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
