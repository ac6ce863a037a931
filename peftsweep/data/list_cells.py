"""Lists that stand in one cell, written out by one program or another."""

from __future__ import annotations

import ast
import csv
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from peftsweep.data.label_spelling import class_name, is_missing
from peftsweep.system import json_files

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
QUOTED = re.compile(rf"u?[{QUOTES}]")
BARE = re.compile(rf"(?![{QUOTES}])[^,;|\[\](){{}}\"\r\n]+(?<![{QUOTES}])")
BLOCK = re.compile(r"\s*(?:[-*•][ \t]+\S[^\r\n]*\s*)+")  # YAML's, an entry a line


def read_cells(
    cells: Sequence[Any], separator: str | None, elsewhere: Sequence[Any] = ()
) -> list[Sequence[Any] | None]:
    """What stands in each cell of a column that holds all labels of a text, empty entries and repeated ones too; None
    where a cell cannot be read so.

    A text is parted by the separator and read no other way, so that `[bug]` may be a label's name. Without a separator,
    the column as a whole says how its lists are written: each cell must be a list with the brackets that most have, or
    an empty list. If quotation marks prove all that are there to be lists, a word without a mark is a list of one, as R
    writes it.

    Args:
        elsewhere: the same column's cells in the study's other files, which say it where no cell here is a list.
    """
    if separator is not None:
        return [_split(cell, separator) for cell in cells]
    if any(isinstance(cell, list | tuple) for cell in cells):
        return [[] if is_missing(cell) else cell if isinstance(cell, list | tuple) else None for cell in cells]
    found = list(map(_parse_cell, cells))
    usual, proven = (
        _usual_bracket(zip(cells, found, strict=True))
        or _usual_bracket((cell, _parse_cell(cell)) for cell in elsewhere)
        or ("", False)
    )
    return [_read_like_others(cell, own, usual, proven) for cell, own in zip(cells, found, strict=True)]


def _parse_cell(cell: Any) -> list[Any] | None:
    return parse_list(cell) if isinstance(cell, str) and not is_missing(cell) else None


def _usual_bracket(cells: Iterable[tuple[Any, list[Any] | None]]) -> tuple[str, bool] | None:
    """The bracket that most of the lists have, and whether all are lists beyond doubt, and have it; None of no lists.

    Args:
        cells: each with what is listed in it, if it is a list.
    """
    written = [(cell, own) for cell, own in cells if own is not None]
    lists = [cell for cell, own in written if own] or [cell for cell, _ in written]
    kinds = Counter(map(_bracket_of, lists))
    usual = max(kinds, key=lambda kind: kinds[kind], default=None)
    return None if usual is None else (usual, len(kinds) == 1 and all(map(is_surely_list, lists)))


def read_single_labels(cells: Sequence[Any]) -> list[Sequence[Any]]:
    """The same of a column in which each cell has one label, or a list of them that is no text."""
    return [[] if is_missing(cell) else cell if isinstance(cell, list | tuple) else [cell] for cell in cells]


def _read_like_others(cell: Any, own: list[Any] | None, usual: str, proven: bool) -> list[Any] | None:
    if is_missing(cell):
        return []
    if own is not None:
        return own if not own or _bracket_of(cell) == usual else None
    return [cell] if proven and isinstance(cell, str) and BARE.fullmatch(cell.strip()) else None


def _split(cell: Any, separator: str) -> Sequence[Any]:
    if is_missing(cell):
        return []
    return cell.split(separator) if isinstance(cell, str) else cell if isinstance(cell, list | tuple) else [cell]


def are_all_written_lists(cells: Sequence[Any], separator: str) -> bool:
    """Whether the cells of a column with a separator are lists all the same: all stand in brackets, and quotation marks
    or halves of brackets show that the names do not."""
    texts = [cell for cell in cells if not is_missing(cell)]
    if not texts or not all(isinstance(cell, str) and _enclosed(cell) for cell in texts):
        return False
    return any(is_surely_list(cell) or not all(map(_balanced, cell.split(separator))) for cell in texts)


def is_written_list(cell: Any, separator: str) -> bool:
    """Whether a cell of a column with a separator is a list all the same: quotation marks right behind its bracket, or
    a function's name before it, show that it is no name in brackets, and it has several entries or is cut by the
    separator."""
    if not isinstance(cell, str):
        return False
    text = _unwrapped(cell.strip())
    entries = parse_list(text)
    if _enclosed(text):
        sure = QUOTED.match(text[1:-1].strip()) is not None
    else:
        sure = entries is not None and not BLOCK.fullmatch(text)
    return sure and (len(entries or ()) > 1 or not all(map(_balanced, text.split(separator))))


def _bracket_of(text: str) -> str:
    """The bracket of a written list, or the name of the function in whose place it stands."""
    text = text.lstrip(' "')
    if text[0] in (*PAIRS, "-", "*", "•"):
        return text[0]
    name = text.partition("(")[0].strip()
    return {"set": "{", "frozenset": "{", "tuple": "("}.get(name, "[" if name.endswith("array") else "c")


def is_surely_list(text: str) -> bool:
    """Whether a written list is no name in brackets: it has quotation marks around a name, nothing in it, or a
    function's name before it."""
    text = text.strip()
    inside = text[1:-1].strip()
    return not _enclosed(text) or not inside or QUOTED.match(inside) is not None


def label_names(parts: Sequence[Any]) -> list[str] | None:
    """The labels that the entries of a list name, none twice; None if one names none."""
    names = [class_name(part) for part in parts if not is_missing(part)]
    return None if None in names else list(dict.fromkeys(name for name in names if name is not None))


def parse_list(text: str) -> list[Any] | None:
    """The entries of a list that is written out; None where the text is none.

    Read are the lists of JSON and Python (tuples and sets, too), numpy, R, PostgreSQL and Java, YAML's `[a, b]` and its
    lines `- a`. An entry without quotation marks is a name, and a comma parts it from the next.
    """
    text = text.strip()
    if (inner := _unwrapped(text)) != text:
        return _json(text, str) or (parse_list(inner) if _unwrapped(inner) == inner else None)
    if call := CALL.fullmatch(text):
        inner = call[1].strip()
        return [] if inner in ("", "0") else parse_list(inner) if _enclosed(inner) else _tokens(inner)
    if _enclosed(text):
        return _inside(text)
    if BLOCK.fullmatch(text):
        return [name for line in text.splitlines() if (name := line.strip()[1:].strip().strip("'\""))]
    return None


def _unwrapped(text: str) -> str:
    """What a string holds that is a list inside of one, as JSON and CSV write it; of any other text, the text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').replace('\\"', '"').strip()
    return text


def _inside(text: str) -> list[Any] | None:
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
    return _names(text) if found is None else found


def _json(text: str, kind: type = list) -> list[Any] | None:
    """The list that it is, or (of a string) that stands in the string; else None."""
    try:
        found = json_files.parse(text)
    except ValueError:
        return None
    if kind is str:
        return parse_list(found) if isinstance(found, str) else None
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


def _names(text: str) -> list[Any] | None:
    """Names without quotation marks, and in double ones among them, as PostgreSQL has them. An entry that has a
    bracket, a quotation mark at an end, or what belongs to a map, may be anything."""
    inside = text[1:-1]
    parts = inside.split(",")
    if text[0] == "{" and '"' in inside:
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


def list_fragments(names: Iterable[str]) -> list[str]:
    """Names that look like a list's first or last part (`[joy` and `anger]`), or like an entry with its quotation marks
    (`'joy'`). A mark at one end proves nothing as long as no name has its other half: `:)`, `11"`, `Diabetes (type 1)`.
    """
    names = list(names)
    ends = {name: _unmatched_ends(name) for name in names}
    halves = {first for first, _ in ends.values()} & {last for _, last in ends.values()} - {""}
    found = {name for name in names if halves.intersection(ends[name]) or _in_quotes(name)}
    return [name for name in names if name in found or _enclosed(name)] if found else []


def bracket_halves(names: Iterable[str]) -> list[str]:
    """Those pieces that are halves of a bracket around words: even a few of them show that a list was cut."""
    return [name for name in list_fragments(names) if not _balanced(name) and any(map(str.isalnum, name))]


def _in_quotes(name: str) -> bool:
    return len(name) > 1 and name[0] in QUOTES and name[-1] in QUOTES


def _unmatched_ends(name: str) -> tuple[str, str]:
    """The closing mark that a name's first mark lacks, and its last one that lacks an opening one; empty for none."""
    if not name or _in_quotes(name):
        return "", ""
    first = PAIRS.get(name[0], "") if not _balanced(name) else ""
    last = name[-1] if name[-1] in PAIRS.values() and not _balanced(name) else ""
    return first or ("'" if name[0] in QUOTES else ""), last or ("'" if name[-1] in QUOTES else "")
