"""What does a mistake in a study file read like? pydantic's errors become: key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from peftsweep.config.yaml_lines import Key, dotted
from peftsweep.safe_text.quoting import quoted, shortened
from peftsweep.system.suggest import nearest

Mistake = tuple[Key, str]  # the key, and what is wrong there

UNKNOWN = "unknown key"
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "some text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least one entry",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:,}",
    "literal_error": "{expected}",
}


class Mistakes(ValueError):  # noqa: N818
    """All mistakes that one validator found, each with its key relative to the validated value."""

    def __init__(self, found: Iterable[Mistake]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{dotted(key)}: {what}" if key else what for key, what in self.found))


def explain(error: ValidationError, given: Any) -> list[Mistake]:
    """pydantic's errors as mistakes. Where no member of a union fits, a single mistake lists what all of them expect.

    Args:
        given: the value that was validated. pydantic's locations mix its keys with the names of union members; this
            value shows which are which.
    """
    found: list[Mistake] = []
    expected: dict[Key, tuple[list[str], Any]] = {}
    for item in error.errors():
        kind, context = item["type"], item.get("ctx", {})
        missing = item["loc"][-1:] if kind == "missing" else ()
        key = (*_key(item["loc"][: len(item["loc"]) - len(missing)], given), *missing)
        if isinstance(context.get("error"), Mistakes):
            found.extend((key + below, what) for below, what in context["error"].found)
        elif kind in _EXPECTED:
            what = _EXPECTED[kind].format(**context)
            if kind == "literal_error":
                what = _with_nearest(what, item["input"])
            expected.setdefault(key, ([], item["input"]))[0].append(what)
        else:
            what = {"missing": "missing", "extra_forbidden": UNKNOWN}.get(kind, shortened(item["msg"], 200))
            found.append((key, what))
    found += ((key, _unexpected(kinds, got)) for key, (kinds, got) in expected.items())
    return found


def none_of(known: Sequence[str], given: Any) -> str:
    """What is wrong with a value that is none of the known ones, in the words for a `Literal`."""
    names = [f"'{name}'" for name in known]
    listed = " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
    return _unexpected([_with_nearest(listed, given)], given)


def _with_nearest(choices: str, given: Any) -> str:
    near = nearest(given, choices.split("'")[1::2])
    return f"{choices} (did you mean {near}?)" if near else choices


def _unexpected(kinds: Iterable[str], got: Any) -> str:
    return f"expected {' or '.join(dict.fromkeys(kinds))}, got {'nothing' if got is None else quoted(got)}"


def _key(location: tuple[str | int, ...], given: Any) -> Key:
    key: list[str | int] = []
    for part in location:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            continue  # the name of a union's member
        key.append(part)
    return tuple(key)
