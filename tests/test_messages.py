"""Is each message quoted in only one test? Other tests assert only its facts: the file, the key, the row, the value."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studies import ROOT

WORDS = 4  # a shorter piece of a message is a fact, or distinguishes two messages
VALUE = "\0"  # stands for what an f-string fills in


def strings(node: ast.AST) -> Iterator[str]:
    """The strings in some code, except docstrings."""
    docstrings = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Expr)}
    pieces = {id(piece) for part in ast.walk(node) if isinstance(part, ast.JoinedStr) for piece in part.values}
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            yield "".join(str(piece.value) if isinstance(piece, ast.Constant) else VALUE for piece in part.values)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in docstrings | pieces:
            yield part.value


def phrases(node: ast.AST) -> set[str]:
    """The pieces of plain strings and regular expressions that have at least `WORDS` words."""
    pieces = (piece for text in strings(node) for piece in re.split(rf"{VALUE}|\n|\.\*", text.replace("\\", "")))
    return {piece.strip(" ^$") for piece in pieces if len(re.findall(r"\S*\w\S*", piece)) >= WORDS}


def repeated(messages: set[str], tests: dict[str, str]) -> dict[str, list[str]]:
    """The messages that several functions (or statements of a file) quote, with their places.

    Args:
        tests: the code of each file.
    """
    found: dict[str, set[str]] = {}
    for file, code in tests.items():
        for part in ast.parse(code).body:
            for phrase in phrases(part):
                for message in [phrase] if phrase in messages else [each for each in messages if phrase in each]:
                    place = f"{file}: {getattr(part, 'name', f'line {part.lineno}')}"
                    found.setdefault(message.replace(VALUE, "…"), set()).add(place)
    return {message: sorted(places) for message, places in found.items() if len(places) > 1}


def read(folder: str) -> dict[str, str]:
    files: Iterator[Path] = (ROOT / folder).rglob("*.py")
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


def test_each_message_is_quoted_in_one_test() -> None:
    messages = {text for code in read("peftsweep").values() for text in strings(ast.parse(code))}
    assert repeated(messages, read("tests")) == {}, "keep the words in one test, and assert the facts in the others"


MESSAGE = f"{VALUE} is not there; did you mean {VALUE}?"


@pytest.mark.parametrize(
    ("tests", "places"),
    [
        ("def a(): 'is not there; did'\ndef b(): x == 'is not there; did'", []),  # one of them is a docstring
        ("def a(): x == 'is not there; did'\ndef b(): y == 'is not there; did'", ["t.py: a", "t.py: b"]),
        ("def a(): x == 'a.csv is not'\ndef b(): x == 'did you mean'", []),
        ("X = ['did you mean', 'is not there; did']\ndef b(): x == 'did you mean'", []),
        ("X = 'is not there; did'\ndef b(): x == f'{file} is not there; did you'", ["t.py: b", "t.py: line 1"]),
        (r"def a(): x(r'^.* is not there; did')" + "\ndef b(): x('there; did you mean')", ["t.py: a", "t.py: b"]),
    ],
)
def test_what_counts_as_quoted_twice(tests: str, places: list[str]) -> None:
    assert repeated({MESSAGE}, {"t.py": tests}) == ({MESSAGE.replace(VALUE, "…"): places} if places else {})
