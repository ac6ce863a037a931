"""YAML text as plain data, with the line of every key: what a message about a file needs.

Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-5` is a number, `no`, `on` and `2020-01-01` are words, `010` is ten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Key = tuple[str | int, ...]  # the way down to a value: ("space", "rank", "low"), ("data", "labels", 2)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > 20 or abs(int(node.value)) >= 2**63:
        raise ValueError("a whole number of more than 64 bits")
    return int(node.value)


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
    """The data of a YAML text, the line of each key (from 1), and the keys that were given more than once."""

    data: Any
    lines: dict[Key, int] = field(default_factory=dict)
    repeated: list[tuple[Key, int]] = field(default_factory=list)  # the key, the line of its second mention


def parse(text: str) -> YamlFile:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: it is no YAML; a `yaml.MarkedYAMLError` has the place in `problem_mark` (counted from 0).
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position), error.position - text.rfind("\n", 0, error.position) - 1
        mark = yaml.Mark("", error.position, line, column, None, 0)
        raise yaml.MarkedYAMLError(problem=error.reason, problem_mark=mark) from None
    try:
        root = loader.get_single_node()
        file = YamlFile(None)
        data = None if root is None else _plain(loader, root, (), file)
        return YamlFile(data, file.lines, file.repeated)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=loader.get_mark()) from None
    except (ValueError, OverflowError) as error:  # a character by a number that none has: "\U00110000"
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=loader.get_mark()) from None
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """One value as it would stand behind a key: `16`, `1e-4`, `[a, b]`, `{low: 1, high: 2}`.

    A `#` opens no comment, outside of brackets and quotation marks: names of files and columns have it.
    """
    plain = text.strip()
    return plain if "#" in plain and not plain.startswith(tuple("[{\"'")) else parse(text).data


def dotted(key: Key) -> str:
    """The key as people write it: `space.rank.low`, `data.labels[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def problem(error: yaml.YAMLError) -> tuple[str, str]:
    """Where (`line:column`, from 1, or nothing) and what, of text that is no YAML."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{mark.line + 1}:{mark.column + 1}" if mark else ""
    return where, str(getattr(error, "problem", None) or error)


def _plain(loader: _Loader, node: yaml.Node, key: Key, file: YamlFile, above: tuple[yaml.Node, ...] = ()) -> Any:
    file.lines.setdefault(key, node.start_mark.line + 1)
    if node in above:
        raise yaml.MarkedYAMLError(problem="an alias that contains itself", problem_mark=node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, child, (*key, i), file, above) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except ValueError as error:  # !!int x
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None
        except Exception:  # PyYAML's own slips: !!bool maybe, !!timestamp x
            what = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from None
    mapping: dict[str, Any] = {}
    for name, child in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=name.start_mark)
        here, line = (*key, str(name.value)), name.start_mark.line + 1
        if name.value in mapping:
            file.repeated.append((here, line))
            continue
        file.lines[here] = line
        mapping[name.value] = _plain(loader, child, here, file, above)
    return mapping
