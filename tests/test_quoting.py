"""Values in messages."""

from __future__ import annotations

from typing import Any

import pytest

from peftsweep.safe_text.quoting import quoted, word

DEEP: list[Any] = []
DEEP.append(DEEP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a word", "'a word'"),
        (1e-5, "1e-05"),
        (None, "None"),
        (["linear", "cosine"], "['linear', 'cosine']"),
        ("\x1b[31mred\u202e", "'\\x1b[31mred\\u202e'"),
        (10**5000, "a number of thousands of digits"),
        (DEEP, "[[[[[[[...]]]]]]]"),
    ],
    ids=range(7),  # otherwise pytest would use the values as ids
)
def test_a_value_is_written_as_python_does(value: Any, text: str) -> None:
    assert quoted(value) == text


def test_a_long_value_is_cut() -> None:
    for value in ("x" * 10**6, b"x" * 10**6, ["x" * 10**6] * 10**4, {"x" * 1000: DEEP}, 10**4000):
        assert len(quoted(value)) <= 160


def test_a_plain_word_is_not_quoted() -> None:
    assert [word(text) for text in ("naïve", "", "a\nb")] == ["naïve", "", "'a\\nb'"]
    assert len(word("x" * 100)) == 80
