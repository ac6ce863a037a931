"""On which line of a YAML text does each key stand, and what does it say as plain data?

Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-5` is a number, `no`, `on` and `2020-01-01` are words, `010` is ten.
ruamel.yaml is not used: it stops at the first repeated key, limits neither depth nor aliases, lets an alias contain
itself, reads dates and `1_000`, and takes twice the time. The code around it would be as long as this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peftsweep.safe_text.quoting import quoted, shortened, word

Key = tuple[str | int, ...]  # the way down to a value: ("space", "rank", "low"), ("data", "labels", 2)

# A study file has some hundred values, five levels deep. An alias counts as the values it stands for: a line of nine
# aliases, each to another line of nine aliases and so on, would fill any memory.
MOST_CHARACTERS = 1 << 18
MOST_VALUES = 10_000
MOST_LEVELS = 32
TOO_DEEP = "nested too deeply"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""


def whole(number: int) -> int:
    """Raises:
    ValueError: it has more than 64 bits; neither database stores that.
    """
    if abs(number) >= 2**63:
        raise ValueError("a whole number of more than 64 bits")
    return number


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    return whole(2**63 if len(node.value) > 20 else int(node.value))


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.inf|\.nan)$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


@dataclass(frozen=True)
class YamlFile:
    """A YAML text, read.

    Attributes:
        lines: line of each key, counted from 1.
        repeated: each key that is there more than once, with the line of the repetition.
    """

    data: Any
    lines: dict[Key, int]
    repeated: list[tuple[Key, int]]


def parse(text: str) -> YamlFile:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: it is not YAML, or larger than a study file can be; a `yaml.MarkedYAMLError` has the place in
            `problem_mark` (counted from 0).
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {MOST_CHARACTERS:,} characters: no study is so long")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position), error.position - text.rfind("\n", 0, error.position) - 1
        mark = yaml.Mark("", error.position, line, column, None, 0)
        raise yaml.MarkedYAMLError(problem=error.reason, problem_mark=mark) from None
    try:
        root = loader.get_single_node()
        reader = _Reader(loader)
        data = None if root is None else reader.plain(root, ())
        return YamlFile(data, reader.lines, reader.repeated)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem=TOO_DEEP, problem_mark=loader.get_mark()) from None
    except (ValueError, OverflowError) as error:  # the number of no character: "\U00110000"
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=loader.get_mark()) from None
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """Read one value, written as it would be after a key: `16`, `1e-4`, `[a, b]`, `{low: 1, high: 2}`.

    A `#` outside brackets and quotation marks does not start a comment: names of files and columns have it.
    """
    plain = text.strip()
    return plain if "#" in plain and not plain.startswith(tuple("[{\"'")) else parse(text).data


def dotted(key: Key) -> str:
    """The key as people write it: `space.rank.low`, `data.labels[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{word(part)}" for part in key).removeprefix(".")


def problem(error: yaml.YAMLError) -> tuple[str, str]:
    """Where a text is not YAML (`line:column`, from 1; empty if unknown), and what is wrong there."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{mark.line + 1}:{mark.column + 1}" if mark else ""
    return where, shortened(str(getattr(error, "problem", None) or error), 200)


class _Reader:
    """Turns nodes into plain data and notes the line of each key."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[Key, int] = {}
        self.repeated: list[tuple[Key, int]] = []
        self.values = 0

    def plain(self, node: yaml.Node, key: Key, above: tuple[yaml.Node, ...] = ()) -> Any:
        self.lines.setdefault(key, node.start_mark.line + 1)
        self.values += 1
        if node in above:
            raise _problem("an alias that contains itself", node)
        if len(above) >= MOST_LEVELS:
            raise _problem(TOO_DEEP, node)
        if self.values > MOST_VALUES:
            raise _problem(f"more than {MOST_VALUES:,} values, each alias counted as what it stands for", node)
        above = (*above, node)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*key, i), above) for i, child in enumerate(node.value)]
        return self._mapping(node, key, above) if isinstance(node, yaml.MappingNode) else self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, key: Key, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for name, child in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise _problem("a key must be a word", name)
            known = _joined(name.value, name)
            here, line = (*key, known), name.start_mark.line + 1
            if known in mapping:
                self.repeated.append((here, line))
                continue
            self.lines[here] = line
            mapping[known] = self.plain(child, here, above)
        return mapping

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except ValueError as error:  # !!int x
            raise _problem(str(error), node) from None
        except Exception:  # PyYAML's constructors raise anything: !!bool maybe, !!timestamp x
            raise _problem(f"{quoted(node.value)} is no {node.tag.rpartition(':')[2]}", node) from None
        return _joined(value, node) if isinstance(value, str) else value


def _joined(text: str, node: yaml.Node) -> str:
    """The text with each pair of surrogates joined to one character, as JSON writes it: "\\uD83D\\uDE00"."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _problem("half a character, which nothing can write: a surrogate alone", node) from None


def _problem(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)


def as_from_yaml(value: Any, level: int = 0) -> Any:
    """A Python value as the YAML reader would have returned it."""
    if level > MOST_LEVELS:
        raise ValueError(TOO_DEEP)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): as_from_yaml(child, level + 1) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_from_yaml(child, level + 1) for child in value]
    return whole(value) if isinstance(value, int) else value
