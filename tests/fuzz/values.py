"""Values that often break programs."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

TEXTS = [
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\x1b[31mred\x1b[2J",
    "\x7f\x80\x9b",
    "\u202eleft\u202c",
    "\u2028",
    "\ufeff",
    "\ud800",
    "\ud83d\ude00",
    "😀é",
    "é" * 80,
    "x" * 300,
    "y" * 5_000,
    "word " * 20_000,
    "null",
    "true",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "0",
    "1",
    "-1",
    "1.0",
    "007",
    "1e5",
    "1_000",
    "0x10",
    "9" * 5_000,
    "[]",
    "{}",
    "[",
    "[1, 2",
    '"',
    "'",
    ",",
    ";",
    "|",
    "%s%n",
    "{0}{x}",
    "{{7*7}}",
    "<script>",
    "# heading",
    "..",
    ".",
    "/",
    "../../outside",
    "/dev/null",
    "/dev/zero",
    "~nobody-of-this-name/x",
    "C:\\x",
    "a/b",
    "package://os/x",
    "package://../x",
    "hub://owner/name",
    "https://me:secret@host/x?token=abc",
    "comparison.html",
    "retrain",
    "small/retrain",
    "lora",
    "ia3",
    "auto",
    "macro_f1",
    "utf-16",
    "idna",
    "punycode",
    "undefined",
]
NUMBERS: list[Any] = [0, 1, -1, 2, 3, 7, 255, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400]
NUMBERS += [0.5, -0.5, 1.5, -0.0, 1e-320, 1e-9, 1e9, 1e308, float("nan"), float("inf"), float("-inf")]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": []}}, [0, "a", None, 1.5]]


def value(rng: random.Random) -> Any:
    """A random value; each kind is equally likely."""
    return deepcopy(rng.choice(rng.choice([TEXTS, NUMBERS, OTHERS])))


def text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def deep(rng: random.Random) -> Any:
    """Nested lists or mappings, some deeper than parsers can handle."""
    nested: Any = value(rng)
    in_list = rng.random() < 0.5
    for _ in range(rng.choice([5, 40, 150, 600])):
        nested = [nested] if in_list else {"a": nested}
    return nested
