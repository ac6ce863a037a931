"""Lists that stand in one cell, written out by one program or another."""

from __future__ import annotations

import ast
import csv
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from peftsweep import jsonfile
from peftsweep.data.spelling import class_name, is_missing

PAIRS = {"[": "]", "(": ")", "{": "}"}
QUOTES = "'\"`‘’“”„«»"
STRAIGHT = str.maketrans("‘’“”„", '\'\'"""')  # what word processors and Excel make of straight ones
# numpy's array([…], dtype=object), Python's set(…) and frozenset(…), R's c(…), list(…) and character(0)
CALL = re.compile(
    r"(?:(?:np\.|numpy\.)?array|frozenset|set|tuple|list|c|character|factor)"
    r"\s*\((.*?)(?:,\s*dtype\s*=[^()\[\]]*)?\)",
    re.DOTALL,
)
SCALAR = re.compile(r"\b(?:np|numpy)\.[a-z]+_?\d*\(('[^']*'|\"[^\"]*\"|[-+.\w]+)\)")  # numpy 2: np.str_('joy')
MISSING = ("nan", "None", "null", "NULL", "NA")
BLOCK = re.compile(r"\s*(?:[-*•][ \t]+\S[^\r\n]*\s*)+")  # YAML's, an entry a line


def labels_in(value: Any, separator: str | None) -> list[str] | None:
    """The labels of a cell that holds all labels of a text, none twice; None where it cannot be read so.

    Args:
        separator: what parts them in a text that is no list; without it, the text must be a list, as `listed` reads it.
    """
    parts = entries(value, separator)
    return None if parts is None else names_in(parts)


def entries(value: Any, separator: str | None) -> Sequence[Any] | None:
    """What stands in the cell of `labels_in`, empty entries and repeated ones too."""
    if is_missing(value):
        return []
    if not isinstance(value, str):
        return value if isinstance(value, list | tuple) else None if separator is None else [value]
    if (found := listed(value, separator)) is not None or separator is None:
        return found
    parts = value.split(separator)
    one = len(parts) == 1 and any(mark in value for mark in (",", ":", *QUOTES))
    if _enclosed(value) and (one or not all(map(_balanced, parts))):
        return None  # something else, or pieces of it: {"joy": 1, "anger": 0}
    return parts


def names_in(parts: Sequence[Any]) -> list[str] | None:
    """The labels that the entries of a list name, none twice; None if one names none."""
    names = [class_name(part) for part in parts if not is_missing(part)]
    return None if None in names else list(dict.fromkeys(name for name in names if name is not None))


def listed(text: str, separator: str | None = None) -> list[Any] | None:
    """The entries of a list that is written out; None where the text is none.

    Read are the lists of JSON and Python (tuples and sets, too), numpy, R, PostgreSQL and Java, YAML's `[a, b]` and its
    lines `- a`. An entry without quotation marks is a name.

    Args:
        separator: what parts names without quotation marks, if it stands between them; else a comma does.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':  # a list inside of a string, as JSON and CSV write it
        return _json(text, str) or listed(text[1:-1].replace('""', '"').replace('\\"', '"'), separator)
    if call := CALL.fullmatch(text):
        inner = call[1].strip()
        return [] if inner in ("", "0") else listed(inner, separator) if _enclosed(inner) else _tokens(inner)
    if _enclosed(text):
        return _inside(text, separator)
    if separator is None and BLOCK.fullmatch(text):
        return [name for line in text.splitlines() if (name := line.strip()[1:].strip().strip("'\""))]
    return None


def _inside(text: str, separator: str | None) -> list[Any] | None:
    inside = text[1:-1]
    found = _json(text)
    if found is None:
        found = _tokens(SCALAR.sub(r"\1", inside))
    if found is not None:
        return found
    if any(quote in inside for quote in "‘“„"):
        found = _tokens(inside.translate(STRAIGHT))
    elif '""' in inside and '"' not in inside.replace('""', ""):
        found = _tokens(inside.replace('""', '"'))
    return _names(text, separator) if found is None else found


def _json(text: str, kind: type = list) -> list[Any] | None:
    """The list that it is, or (of a string) that stands in the string; else None."""
    try:
        found = jsonfile.parsed(text)
    except ValueError:
        return None
    if kind is str:
        return listed(found) if isinstance(found, str) else None
    return found if isinstance(found, list) else None


def _tokens(inside: str) -> list[Any] | None:
    """Texts in quotation marks, numbers and words for a missing one, as Python writes them; commas may lack, as numpy
    leaves them out."""
    # not by literal_eval of it all: 'joy' 'anger' would be one text
    try:
        return list(_entries(tokenize.generate_tokens(io.StringIO(inside).readline)))
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None


def _entries(tokens: Iterator[tokenize.TokenInfo]) -> Iterator[Any]:
    """Raises:
    ValueError, SyntaxError: a token that is no text, no number and no word for a missing one, or two without a comma or
        space between them: 007, 'it''s'.
    """
    end, sign = (0, -1), ""
    for token in tokens:
        if not token.string.strip() or token.string == ",":
            continue
        if token.start == end and not sign:
            raise ValueError(token.string)
        word, end, sign = sign + token.string, token.end, token.string if token.string in ("-", "+") else ""
        if sign:
            continue
        if word in MISSING:
            yield None
        elif isinstance(found := ast.literal_eval(word), int | float | complex) and not isinstance(found, bool):
            yield word  # 1E6 and 1_0 may be codes
        else:
            yield found


def _names(text: str, separator: str | None) -> list[Any] | None:
    """Names without quotation marks, and in double ones among them, as PostgreSQL has them. An entry that has a
    bracket, a quotation mark at an end, or what belongs to a map, may be anything."""
    inside = text[1:-1]
    given = separator is not None and separator in inside and (separator.strip() or "," not in inside)
    mark = separator if given else ","
    parts = inside.split(mark)
    if text[0] == "{" and '"' in inside and mark == ",":
        try:
            parts = next(csv.reader([inside], escapechar="\\", strict=True))
        except csv.Error:
            return None
    parts = [part.strip() for part in parts]
    odd = any(part[:1] in QUOTES or part[-1:] in QUOTES or part in ("...", "…") for part in filter(None, parts))
    if odd or any(mark in inside for mark in "[](){}") or (text[0] == "{" and re.search("[:=]", inside)):
        return None
    return [None if part in MISSING[:4] else part for part in parts]


def _enclosed(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and PAIRS.get(text[0]) == text[-1]


def _balanced(text: str) -> bool:
    return all(text.count(first) == text.count(last) for first, last in PAIRS.items())


def pieces(names: Iterable[str]) -> list[str]:
    """Names that begin or end as a list does, or one of its entries: `[joy`, `anger]`, `'joy'`."""
    ends = (*QUOTES, *PAIRS, *PAIRS.values())
    return [name for name in names if name[:1] in ends or name[-1:] in ends]
