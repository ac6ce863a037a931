"""Writes the tables of keys and commands into the pages, from the code: `make tables`.

A table is between two comments: `<!-- keys: data.split -->` (the keys of a section) or `<!-- commands -->` (the
whole command line), and `<!-- end -->`.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from peftsweep.config import SPECS, Filter, Range, StudyConfig

END = "<!-- end -->"
PLACE = re.compile(rf"^(<!-- (?:keys: (\S+)|commands) -->)$.*?^{END}$", re.DOTALL | re.MULTILINE)
NOT_KEYS = {"name", "path"}  # of a study: its file
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
LIMITS: dict[type, Callable[[Any], str]] = {
    Ge: lambda rule: f"at least {rule.ge:g}",
    Gt: lambda rule: f"more than {rule.gt:g}",
    Le: lambda rule: f"at most {rule.le:g}",
    Lt: lambda rule: f"less than {rule.lt:g}",
}


def main() -> None:
    """Write the tables into the pages."""
    for page in sorted(Path(__file__).parent.glob("*.md")):
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


def renewed(page: str) -> str:
    """Return the page with its tables as the code has them now. An unknown section raises KeyError."""
    return PLACE.sub(lambda place: f"{place[1]}\n\n{keys(place[2]) if place[2] else commands()}\n\n{END}", page)


# The study file -----------------------------------------------------------------------------------------------------


def sections() -> dict[str, type[BaseModel]]:
    """Every section of a study file by its dotted name; `study` is the whole file."""
    found: dict[str, type[BaseModel]] = {"study": StudyConfig, "data.filter": Filter, "space": Range}

    def walk(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            below = next((kind for kind in _members(field.annotation) if _is_model(kind)), None)
            if below is not None:
                found[f"{path}{name}"] = below
                walk(below, f"{path}{name}.")

    walk(StudyConfig, "")
    return found


def keys(section: str) -> str:
    """The description of a section, and the table of its keys."""
    model = sections()[section]
    assert model.__doc__, section
    fields = {name: field for name, field in model.model_fields.items() if name not in NOT_KEYS}
    own = {method: spec.hyperparameters.model_fields for method, spec in SPECS.items()} if section == "train" else {}
    for more in own.values():
        fields |= {name: field for name, field in more.items() if name not in fields}
    rows = [" ".join(model.__doc__.split()), "", "| key | value | default | what it is |", "|---|---|---|---|"]
    for name, field in fields.items():
        assert field.description, f"{section}.{name} has no docstring"
        said = " ".join(field.description.split())
        only = [method for method, more in own.items() if name in more]
        if 0 < len(only) < len(own):
            said += f" Only for {' and '.join(filter(None, [', '.join(only[:-1]), only[-1]]))}."
        default = _default(field)
        others = [f"{other} for {method}" for method in only if (other := _default(own[method][name])) != default]
        cells = (f"`{name}`", _value(field), ", ".join([default, *others]), said)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows)


def _value(field: FieldInfo) -> str:
    """Which values a key takes, in words."""
    if field.examples:
        return ", ".join(f"`{example}`" for example in field.examples)
    members = _members(field.annotation)
    kinds = [word for kind in members if (word := _word(kind)) and not (kind is int and float in members)]
    limits = [LIMITS[type(rule)](rule) for rule in field.metadata if type(rule) in LIMITS]
    return ", ".join([" or ".join(kinds), *limits])


def _word(kind: Any) -> str:
    if kind is type(None):
        return ""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return "list of names"
    if get_origin(kind) in (dict, Mapping) or _is_model(kind):
        return "keys and values"
    return WORDS[kind]


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without their annotations."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    if field.default in (None, {}):
        return "–"
    if isinstance(field.default, BaseModel):
        return "see below"
    return f"`{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"


# The command line ---------------------------------------------------------------------------------------------------


def commands() -> str:
    """The commands as typer describes them, without the title and the list of commands, which the page has itself."""
    typer = [sys.executable, "-m", "typer", "peftsweep.cli", "utils", "docs", "--name", "peftsweep"]
    text = html.unescape(subprocess.run(typer, check=True, stdout=subprocess.PIPE, text=True).stdout)
    own, each = text.split("\n## ", 1)
    return (own.split("\n", 1)[1].split("**Commands**", 1)[0] + "\n## " + each).strip()


if __name__ == "__main__":
    main()
