"""Is each message quoted in only one test? Other tests assert only its facts: the file, the key, the row, the value."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.studies import ROOT

WORDS = 4  # a shorter piece of a message is a fact, or distinguishes two messages
FIXED = 5  # a shorter piece between the values of a message is often in a string that does not quote it
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


def long(pieces: Iterable[str], words: int) -> Iterator[str]:
    return (piece for piece in pieces if len(re.findall(r"\S*\w\S*", piece)) >= words)


def phrases(node: ast.AST) -> set[str]:
    """The pieces of plain strings and regular expressions that have at least `WORDS` words."""
    pieces = (piece for text in strings(node) for piece in re.split(rf"{VALUE}|\n|\.\*", text.replace("\\", "")))
    return {piece.strip(" ^$") for piece in long(pieces, WORDS)}


def fixed_pieces(messages: set[str]) -> dict[str, str]:
    """The message of each piece that has at least `FIXED` words, no value, and is part of no other message."""
    pieces = {piece.strip(): text for text in messages for piece in long(re.split(rf"{VALUE}|\n", text), FIXED)}
    return {piece: text for piece, text in pieces.items() if sum(piece in each for each in messages) == 1}


def repeated(messages: set[str], tests: dict[str, str]) -> dict[str, list[str]]:
    """The messages that several functions (or statements of a file) quote, with their places.

    A test quotes a message by a phrase of it, or by a string, with values filled in, that has a fixed piece of it.

    Args:
        tests: the code of each file.
    """
    found: dict[str, set[str]] = {}
    pieces = fixed_pieces(messages)
    for file, code in tests.items():
        for part in ast.parse(code).body:
            whole = "\n".join(strings(part)).replace("\\", "")
            quoted = {text for piece, text in pieces.items() if piece in whole}
            for phrase in phrases(part):
                quoted.update([phrase] if phrase in messages else (each for each in messages if phrase in each))
            for message in quoted:
                place = f"{file}: {getattr(part, 'name', f'line {part.lineno}')}"
                found.setdefault(message.replace(VALUE, "…"), set()).add(place)
    return {message: sorted(places) for message, places in found.items() if len(places) > 1}


def read(folder: str) -> dict[str, str]:
    files: Iterator[Path] = (ROOT / folder).rglob("*.py")
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


def test_each_message_is_quoted_in_one_test() -> None:
    messages = {text for code in read("peftsweep").values() for text in strings(ast.parse(code))}
    assert repeated(messages, read("tests")) == {}, "keep the words in one test, and assert the facts in the others"


MESSAGE = f"{VALUE} is not there any more; did you mean {VALUE}?"


@pytest.mark.parametrize(
    ("tests", "places"),
    [
        ("def a(): 'is not there any'\ndef b(): x == 'is not there any'", []),  # one of them is a docstring
        ("def a(): x == 'is not there any'\ndef b(): y == 'is not there any'", ["t.py: a", "t.py: b"]),
        ("def a(): x == 'a.csv is not'\ndef b(): x == 'did you mean'", []),
        ("X = ['did you mean', 'is not there any']\ndef b(): x == 'did you mean'", []),
        ("X = 'is not there any'\ndef b(): x == f'{file} is not there any more'", ["t.py: b", "t.py: line 1"]),
        (r"def a(): x(r'^.* is not there any')" + "\ndef b(): x('more; did you mean')", ["t.py: a", "t.py: b"]),
        ("X = 'a is not there any more; did you mean b?'\ndef b(): x('is not there any')", ["t.py: b", "t.py: line 1"]),
    ],
)
def test_what_counts_as_quoted_twice(tests: str, places: list[str]) -> None:
    assert repeated({MESSAGE}, {"t.py": tests}) == ({MESSAGE.replace(VALUE, "…"): places} if places else {})
