"""How is a study file read? Into its `StudyConfig`, or into every mistake at once, by key and line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from peftsweep.config.data import DataConfig, Filter, LabelColumn, SplitConfig
from peftsweep.config.hyperparameters import SPECS, unused_hyperparameters
from peftsweep.config.messages import UNKNOWN, Mistake, explain
from peftsweep.config.sections import (
    ModelConfig,
    PrunerConfig,
    Range,
    SearchConfig,
    SpaceEntry,
    TrainConfig,
    train_config,
)
from peftsweep.config.study import StudyConfig, search_mistakes
from peftsweep.config.study_paths import find
from peftsweep.config.yaml_lines import (
    MOST_CHARACTERS,
    MOST_LEVELS,
    Key,
    YamlFile,
    as_from_yaml,
    dotted,
    parse,
    parse_value,
    problem,
)
from peftsweep.errors import StudyFileError
from peftsweep.safe_text.quoting import PATH, quoted, word
from peftsweep.safe_text.secrets import remember
from peftsweep.system import plain_files
from peftsweep.system.names import study_refusal
from peftsweep.system.suggest import nearest

# Names that peft, Trainer and papers use for the same keys.
_SYNONYMS = {
    "lr": "learning_rate",
    "warmup_ratio": "warmup",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "scheduler",
    "optim": "optimizer",
    "sep": "separator",
    "delimiter": "separator",
}

_SECTIONS: dict[Key, type[BaseModel]] = {
    ("model",): ModelConfig,
    ("data",): DataConfig,
    ("data", "labels"): LabelColumn,
    ("data", "split"): SplitConfig,
    ("train",): TrainConfig,
    ("search",): SearchConfig,
    ("search", "pruner"): PrunerConfig,
}
_KNOWN_KEYS = "; known here:"
_MAX_MISTAKES = 100  # shown for one file
_TOP = tuple(name for name in StudyConfig.model_fields if name not in ("name", "path"))

Overrides = Sequence[str] | Mapping[str, Any]
Override = tuple[str, ...]  # the path to an overridden value: ("data", "train")

# Keys of the file that an override makes meaningless: `--set data.train=…` replaces the file's source.
_SOURCE = ("source", "subset", "revision", "split", "test")
_REPLACES: dict[Override, tuple[str, ...]] = {
    ("data", "train"): _SOURCE,
    ("data", "validation"): _SOURCE,
    ("data", "source"): ("train", "validation", "test", "subset", "revision"),
    ("model", "id"): ("revision",),
}


def load(
    study: str | Path,
    overrides: Overrides = (),
    folders: Sequence[Path] | None = None,
    check: Callable[[DataConfig], Iterable[Mistake]] = lambda data: (),
) -> StudyConfig:
    """Read and check a study file.

    Args:
        study: a name in `folders`, or a path.
        overrides: texts such as `data.train=tweets.csv`, with the value in YAML, or a mapping such as
            `{"data.train": "tweets.csv"}` with plain values. They replace what the file says; a file for train or
            validation also replaces the file's source, and a value under train also replaces its entry in space.
        folders: where to look names up. By default `folders_of_studies()`.
        check: finds mistakes that the file alone does not show, such as a column that is missing in the data.

    Raises:
        UsageError: there is no such study.
        StudyFileError: the file has mistakes, one a line:
            `sweeps/x.yaml:12: space.rnak: unknown key; did you mean rank?`.
    """
    config, raise_for = read(study, overrides, folders)
    raise_for(check(config.data))
    return config


def read(
    study: str | Path, overrides: Overrides = (), folders: Sequence[Path] | None = None
) -> tuple[StudyConfig, Callable[[Iterable[Mistake]], None]]:
    """The same without the check, and a function that raises the error for further mistakes, if there are any."""
    path = find(study, folders)
    if why := study_refusal(path.stem):
        raise StudyFileError(f"{_label(path)}: the study's name, {quoted(path.stem)}, {why}; rename the file")
    draft = _Draft(_label(path), _parsed(path))
    draft.override(overrides)
    for text in _texts(draft.raw):
        remember(text)
    draft.raise_for(draft.mistakes())
    return StudyConfig.model_validate({**draft.raw, "name": path.stem, "path": path}), draft.raise_for


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """Every text within the value, as `key=text` where it has a key."""
    if isinstance(value, str):
        yield f"{name}={value}" if name else value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _texts(child, str(key))
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, name)


def _label(path: Path) -> str:
    """The path for messages: relative if it is below the working folder."""
    whole = path.absolute()
    return word(str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else path), PATH)


def _parsed(path: Path) -> YamlFile:
    try:
        with plain_files.opened(path) as raw, io.TextIOWrapper(raw, "utf-8-sig") as file:
            return parse(file.read(MOST_CHARACTERS + 1))
    except yaml.YAMLError as error:
        where, what = problem(error)
        raise StudyFileError(f"{_label(path)}:{where or '1'}: broken YAML: {what}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StudyFileError(f"{_label(path)}:{line}: not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise StudyFileError(f"{_label(path)}: cannot be read: {getattr(error, 'strerror', error)}") from None


@dataclass
class _Draft:
    """The data of a study file before it is validated, with the line or override that each value came from."""

    label: str
    file: YamlFile
    raw: dict[str, Any] = field(default_factory=dict)
    overridden: dict[Override, Any] = field(default_factory=dict)
    bad_overrides: list[str] = field(default_factory=list)  # messages about overrides that could not be read
    found: list[Mistake] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.file.data, dict):
            self.raw = self.file.data
        else:
            self.found.append(((), f"expected the keys {', '.join(_TOP)}"))
        self.found += [(key, f"given twice, again in line {line}") for key, line in self.file.repeated]

    @property
    def method(self) -> str | None:
        """As the file gives it, known or not."""
        name = self.raw.get("method")
        return name if isinstance(name, str) else None

    def override(self, overrides: Sequence[str] | Mapping[str, Any]) -> None:
        for key, value in self._assignments(overrides):
            self.overridden[key] = value
        file = {name: set(value) for name, value in self.raw.items() if isinstance(value, dict)}
        for key in self.overridden:
            for section, name in _replaced_keys(key, file):
                if (section, name) not in self.overridden:
                    self.raw[section].pop(name, None)
        for key, value in self.overridden.items():
            self._assign(key, value)

    def _assignments(self, overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[Override, Any]]:
        if isinstance(overrides, Mapping):
            for name, value in overrides.items():
                try:
                    yield tuple(name.split(".")), as_from_yaml(value)
                except ValueError as error:
                    self.bad_overrides.append(f"overrides: {word(name)}: {error}")
            return
        for text in [overrides] if isinstance(overrides, str) else overrides:
            name, equals, value = text.partition("=")
            key = tuple(name.strip().split("."))
            if not equals or not all(key) or len(key) > MOST_LEVELS:
                self.bad_overrides.append(f"--set {word(text)}: expected KEY=VALUE, such as train.epochs=5")
                continue
            try:
                yield key, parse_value(value)
            except yaml.YAMLError as error:
                self.bad_overrides.append(
                    f"--set {word(name)}: {quoted(value)} is not a YAML value ({problem(error)[1]}); quote it"
                )

    def _assign(self, key: Override, value: Any) -> None:
        here = self.raw
        for depth, part in enumerate(key[:-1], start=1):
            below = here.get(part)
            if below is None:
                below = here[part] = {}
            if not isinstance(below, dict):
                self.found.append((key, f"{dotted(key[:depth])} is not a section with keys"))
                return
            here = below
        here[key[-1]] = value

    def raise_for(self, mistakes: Iterable[Mistake]) -> None:
        """Raises:
        StudyFileError: there are mistakes; one a line, in the order of the file.
        """
        found = sorted(mistakes, key=self._order)
        lines = [self._line(key, what) for key, what in self._with_hints(found[:_MAX_MISTAKES])] + self.bad_overrides
        if (more := len(found) - _MAX_MISTAKES) > 0:
            lines.append(f"{self.label}: and {more:,} more mistakes")
        if lines:
            raise StudyFileError("\n".join(lines))

    def mistakes(self) -> list[Mistake]:
        """All mistakes: those of single keys, then those between sections, as far as the sections can be read."""
        if self.found and not self.raw:
            return self.found
        found = list(self.found)
        found += [
            ((name,), "unknown key; a study is named after its file") for name in ("name", "path") if name in self.raw
        ]
        given = {**self.raw, "name": "study", "path": None}
        try:
            StudyConfig.model_validate(given)
        except ValidationError as error:
            # pydantic skips the rules between sections if one section is broken; search_mistakes applies them below
            found += explain(error, given)
        space = _valid_entries(self.raw.get("space"))
        train, search = self.raw.get("train"), self.raw.get("search")
        fixed = train if isinstance(train, dict) else {}
        sampler, pruned = None, True
        if isinstance(search, dict):
            sampler, pruned = search.get("sampler"), search.get("pruner", True) is not None
        found += search_mistakes(self.method, fixed, space, sampler, pruned)
        known = train_config(self.method).model_fields.keys() | unused_hyperparameters(self.method)
        entries = self.raw.get("space")
        for name in entries if isinstance(entries, dict) else ():
            if name not in known:
                found.append((("space", name), UNKNOWN))
        return list(dict.fromkeys(found))

    def _with_hints(self, found: Iterable[Mistake]) -> Iterator[Mistake]:
        """The mistakes, with a suggestion for each unknown key. A list of known keys is given only once."""
        listed = set()
        for key, what in found:
            hint = self._hint(key) if what == UNKNOWN else ""
            yield key, what + ("" if hint in listed else hint)
            if hint.startswith(_KNOWN_KEYS):
                listed.add(hint)

    def _hint(self, key: Key) -> str:
        section, name = key[:-1], str(key[-1])
        known = self._keys_of(section)
        synonyms = _SYNONYMS | {alias: key for spec in SPECS.values() for alias, key in spec.aliases.items()}
        if near := (synonyms[name] if synonyms.get(name) in known else nearest(name, known)):
            return f"; did you mean {near}?"
        sections = [*(other for other in _SECTIONS if name in self._keys_of(other)), *([()] if name in _TOP else [])]
        if sections:
            return "; it belongs " + " or ".join(f"under {dotted(key)}" if key else "at the top" for key in sections)
        return f"{_KNOWN_KEYS} {', '.join(known)}"

    def _keys_of(self, section: Key) -> tuple[str, ...]:
        """The keys that a section may have in a study of this method."""
        if not section:
            return _TOP
        if section in (("train",), ("space",)):
            unused = unused_hyperparameters(self.method) | ({"seed"} if section == ("space",) else set())
            return tuple(name for name in train_config(self.method).model_fields if name not in unused)
        if len(section) == 2 and section[0] == "space":
            return tuple(Range.model_fields)
        if section[:2] == ("data", "filter"):
            return tuple(Filter.model_fields)
        return tuple(_SECTIONS[section].model_fields) if section in _SECTIONS else ()

    def _origin(self, key: Key) -> Override | None:
        """The override that a key came from; None if it came from the file."""
        for given in self.overridden:
            if key[: len(given)] == given or (given[: len(key)] == key and key not in self.file.lines):
                return given
        return None

    def _order(self, mistake: Mistake) -> tuple[bool, int]:
        """Sorts mistakes by the lines of the file; those of overrides come last."""
        key = mistake[0]
        lines = self.file.lines
        known = next((key[:n] for n in range(len(key), -1, -1) if key[:n] in lines), ())
        return self._origin(key) is not None, lines.get(known, 1)

    def _line(self, key: Key, what: str) -> str:
        origin = self._origin(key)
        where = f"--set {dotted(origin)}" if origin is not None else f"{self.label}:{self._order((key, what))[1]}"
        return f"{where}: {what}" if not key or key == origin else f"{where}: {dotted(key)}: {what}"


def _replaced_keys(key: Override, file: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """The keys of the file that an override replaces besides its own."""
    names = _REPLACES.get(key, ())
    if names is _SOURCE and "source" not in file.get("data", ()):
        names = ()
    yield from ((key[0], name) for name in names if key[0] in file)
    other = {"train": "space", "space": "train"}.get(key[0])
    if other is not None and other in file and len(key) > 1:
        yield other, key[1]


def _valid_entries(space: Any) -> dict[str, Any]:
    """The valid entries of a space."""
    entries = {}
    for name, entry in space.items() if isinstance(space, dict) else ():
        try:
            entries[name] = _SPACE_ENTRY.validate_python(entry)
        except ValidationError:
            continue
    return entries


_SPACE_ENTRY: TypeAdapter[Any] = TypeAdapter(SpaceEntry)
