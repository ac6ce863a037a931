"""Which labels does a cell hold that is a list, written as text by one program or another?"""

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
STRAIGHT = str.maketrans("‘’“”„", '\'\'"""')  # word processors and Excel turn straight quotation marks into these
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
BLOCK = re.compile(r"\s*(?:[-*•][ \t]+\S[^\r\n]*\s*)+")  # a YAML list with one entry a line


def read_cells(
    cells: Sequence[Any], separator: str | None, elsewhere: Sequence[Any] = ()
) -> list[Sequence[Any] | None]:
    """The entries of each cell of a column that holds all labels of a text, including empty and repeated entries. None
    for a cell that cannot be read.

    With a separator, texts are split at it and read in no other way, so that `[bug]` may be the name of a label.
    Without one, the whole column decides how its lists are written: each cell must be a list with the most frequent
    bracket, or an empty list. If quotation marks prove that all other cells are lists, a bare word is a list with one
    entry, as R writes it.

    Args:
        elsewhere: the cells of the column in the study's other files. They decide if no cell here is a list.
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
    """The bracket of most lists, and whether all cells are surely lists with that bracket; None without lists.

    Args:
        cells: each cell with its entries, or None if it is not a list.
    """
    written = [(cell, own) for cell, own in cells if own is not None]
    lists = [cell for cell, own in written if own] or [cell for cell, _ in written]
    kinds = Counter(map(_bracket_of, lists))
    usual = max(kinds, key=lambda kind: kinds[kind], default=None)
    return None if usual is None else (usual, len(kinds) == 1 and all(map(is_surely_list, lists)))


def read_single_labels(cells: Sequence[Any]) -> list[Sequence[Any]]:
    """Like `read_cells` for a column in which each cell holds one label, or a list that is not text."""
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
    """Whether the cells of a column with a separator are lists nevertheless: all are in brackets, and quotation marks
    or unmatched brackets show that the brackets do not belong to the names."""
    texts = [cell for cell in cells if not is_missing(cell)]
    if not texts or not all(isinstance(cell, str) and _enclosed(cell) for cell in texts):
        return False
    return any(is_surely_list(cell) or not all(map(_balanced, cell.split(separator))) for cell in texts)


def is_written_list(cell: Any, separator: str) -> bool:
    """Whether a cell of a column with a separator is a list nevertheless: a quotation mark after its bracket or a
    function's name before it shows that it is not a name in brackets, and it has several entries or contains the
    separator."""
    if not isinstance(cell, str):
        return False
    text = _unwrapped(cell.strip())
    entries = parse_list(text)
    if _enclosed(text):
        is_list = QUOTED.match(text[1:-1].strip()) is not None
    else:
        is_list = entries is not None and not BLOCK.fullmatch(text)
    return is_list and (len(entries or ()) > 1 or not all(map(_balanced, text.split(separator))))


def _bracket_of(text: str) -> str:
    """The bracket that a written list begins with, or the one that its function stands for."""
    text = text.lstrip(' "')
    if text[0] in (*PAIRS, "-", "*", "•"):
        return text[0]
    name = text.partition("(")[0].strip()
    return {"set": "{", "frozenset": "{", "tuple": "("}.get(name, "[" if name.endswith("array") else "c")


def is_surely_list(text: str) -> bool:
    """Whether a written list cannot be a name in brackets: it is empty, begins with a quotation mark, or follows a
    function's name."""
    text = text.strip()
    inside = text[1:-1].strip()
    return not _enclosed(text) or not inside or QUOTED.match(inside) is not None


def label_names(parts: Sequence[Any]) -> list[str] | None:
    """The labels that the entries of a list name, without repetitions; None if an entry names none."""
    names = [class_name(part) for part in parts if not is_missing(part)]
    return None if None in names else list(dict.fromkeys(name for name in names if name is not None))


def parse_list(text: str) -> list[Any] | None:
    """The entries of a list that is written as text; None if the text is not a list.

    It reads the lists of JSON, Python (also tuples and sets), numpy, R, PostgreSQL and Java, and YAML's `[a, b]` and
    lines `- a`. An entry without quotation marks ends at the next comma.
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
    """The content of a text in double quotation marks, as JSON and CSV write it; any other text unchanged."""
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
    """The JSON list in a text, or (kind `str`) the list written in a JSON string; else None."""
    try:
        found = json_files.parse(text)
    except ValueError:
        return None
    if kind is str:
        return parse_list(found) if isinstance(found, str) else None
    return found if isinstance(found, list) else None


def _tokens(inside: str) -> list[Any] | None:
    """Quoted texts, numbers and words for missing values, as Python writes them. Commas may be missing, as in numpy."""
    # literal_eval of the whole would join 'joy' 'anger' into one text
    try:
        return list(_entries(tokenize.generate_tokens(io.StringIO(inside).readline)))
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None


def _entries(tokens: Iterator[tokenize.TokenInfo]) -> Iterator[Any]:
    """Raises:
    ValueError, SyntaxError: a token is not a text, a number or a word for a missing value, or two tokens have no comma
        or space between them: 007, 'it''s'.
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
    """Names without quotation marks, or some in double ones as in PostgreSQL. None if an entry has a bracket, a
    quotation mark at an end, or a sign of a mapping, because it may then be anything."""
    inside = text[1:-1]
    parts = inside.split(",")
    if text[0] == "{" and '"' in inside:
        try:
            parts = next(csv.reader([inside], escapechar="\\", strict=True))
        except csv.Error:
            return None
    parts = [part.strip() for part in parts]
    ambiguous = any(part[:1] in QUOTES or part[-1:] in QUOTES or part in ("...", "…") for part in filter(None, parts))
    if ambiguous or any(mark in inside for mark in "[](){}") or (text[0] == "{" and re.search("[:=]", inside)):
        return None
    return [None if part in MISSING[:4] else part for part in parts]


def _enclosed(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and PAIRS.get(text[0]) == text[-1]


def _balanced(text: str) -> bool:
    return all(text.count(first) == text.count(last) for first, last in PAIRS.items())


def list_fragments(names: Iterable[str]) -> list[str]:
    """Names that look like the first or last part of a list (`[joy` and `anger]`) or like a quoted entry (`'joy'`).

    A mark at one end proves nothing unless another name has its counterpart: `:)`, `11"`, `Diabetes (type 1)`.
    """
    names = list(names)
    ends = {name: _unmatched_ends(name) for name in names}
    halves = {first for first, _ in ends.values()} & {last for _, last in ends.values()} - {""}
    found = {name for name in names if halves.intersection(ends[name]) or _in_quotes(name)}
    return [name for name in names if name in found or _enclosed(name)] if found else []


def bracket_halves(names: Iterable[str]) -> list[str]:
    """The fragments with an unmatched bracket and a word: even a few of them show that lists were split."""
    return [name for name in list_fragments(names) if not _balanced(name) and any(map(str.isalnum, name))]


def _in_quotes(name: str) -> bool:
    return len(name) > 1 and name[0] in QUOTES and name[-1] in QUOTES


def _unmatched_ends(name: str) -> tuple[str, str]:
    """The closing mark that the first character needs, and the last one if it needs an opening one; else empty."""
    if not name or _in_quotes(name):
        return "", ""
    first = PAIRS.get(name[0], "") if not _balanced(name) else ""
    last = name[-1] if name[-1] in PAIRS.values() and not _balanced(name) else ""
    return first or ("'" if name[0] in QUOTES else ""), last or ("'" if name[-1] in QUOTES else "")
