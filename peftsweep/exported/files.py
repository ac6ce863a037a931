"""Files of texts, written again with what was predicted beside each row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from peftsweep.data import missing_columns
from peftsweep.errors import DataError, UsageError
from peftsweep.exported.manifest import Manifest, read
from peftsweep.exported.predicting import Classifier, Prediction
from peftsweep.places import did_you_mean

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
PREDICTED, PROBABILITY = "predicted", "probability_"

Row = dict[str, Any]


@contextmanager
def silent_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Nobody is told."""
    yield lambda count: None


def check_format(path: Path, option: str) -> None:
    """Raises:
    UsageError: its ending is that of no format.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{option}: {path} is no file of a format that is known: {', '.join(FORMATS)}")


def predict_file(
    folder: Path,
    source: Path,
    target: Path | None,
    column: str | None = None,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], object]]] = silent_bar,
) -> list[str]:
    """Predict a file's texts into another file; into lines of JSON where there is none.

    Each row gets `predicted` (a list, where a text has several labels) and `probability_…` of each label. What can be
    wrong with the files is found out before the model is loaded.

    Args:
        folder: that `export` made.
        column: of the texts; by default the one that the adapter was trained on.
        bar: shows how many texts have been read; see `progress.bar`.

    Raises:
        DataError: the one file cannot be read, or the other not be written.
        ExportError, ModelError: see `Classifier`.
    """
    manifest = read(folder.expanduser())
    rows, texts = read_texts(source.expanduser(), column or manifest.text)
    _check_new(rows, source, manifest)
    to = None if target is None else target.expanduser()
    if to is not None and not os.access(to.parent, os.W_OK | os.X_OK):
        raise DataError(f"{to}: cannot be written: the folder {to.parent} is not there, or not to be written")
    with bar("texts", len(texts)) as done:
        found = Classifier(folder).predict(texts, done)
    for row, each in zip(rows, found, strict=True):
        row |= predicted(each, several=manifest.task.multi_label)
    if to is None:
        return [_line(row) for row in rows]
    write(rows, to)
    return []


def predicted(found: Prediction, *, several: bool) -> Row:
    """A prediction as columns."""
    shares = {PROBABILITY + label: share for label, share in found.probabilities.items()}
    return {PREDICTED: list(found.labels) if several else found.labels[0], **shares}


def _check_new(rows: Sequence[Row], source: Path, manifest: Manifest) -> None:
    names = {PREDICTED, *(PROBABILITY + label for label in manifest.labels)}
    if taken := sorted(names & {name for row in rows for name in row}):
        raise DataError(f"{source}: has a column {taken[0]} already; rename it")


# Reading ------------------------------------------------------------------------------------------------------------


def read_texts(path: Path, column: str) -> tuple[list[Row], list[str]]:
    """The rows as they are, every field of CSV and TSV as text; and their texts.

    Raises:
        DataError: no such file, a broken one, one without rows, without the column, or with rows that have no text.
    """
    if not path.exists():
        raise DataError(f"{path} is not there{did_you_mean(path)}")
    try:
        rows = _READ[path.suffix.lower()](path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not rows:
        raise DataError(f"{path}: no rows")
    there = list(dict.fromkeys(name for row in rows for name in row))
    if column not in there:
        raise missing_columns(str(path), [column], there)
    texts = [row.get(column) for row in rows]
    wrong = [str(i) for i, text in enumerate(texts, start=1) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{path}: column {column}: no text in row {', '.join(wrong[:5])}")
    return rows, [text for text in texts if isinstance(text, str)]


def _read_delimited(path: Path) -> list[Row]:
    """CSV, or TSV as it is exchanged: tabs, and quotation marks that mean nothing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = csv.reader(file, **_dialect(path))
        header = next(records, [])
        if twice := [name for i, name in enumerate(header) if name in header[:i]]:
            raise ValueError(f"two columns are called {twice[0]}")
        rows = []
        for number, record in enumerate((record for record in records if record), start=1):
            if len(record) != len(header):
                raise ValueError(f"row {number} has {len(record)} fields, the header {len(header)}")
            rows.append(dict(zip(header, record, strict=True)))
        return rows


def _dialect(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".csv":
        return {"delimiter": ",", "strict": True}
    return {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}


def _read_lines(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object with columns as its keys")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


# Writing ------------------------------------------------------------------------------------------------------------


def write(rows: Sequence[Row], path: Path) -> None:
    """Written aside and renamed.

    Raises:
        DataError: it cannot be written; what was there before is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _WRITE[path.suffix.lower()](rows, aside, path)
        aside.replace(path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, csv.Error) as error:
        raise DataError(f"{path}: these rows cannot be written so: {error}; another format may take them") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _write_delimited(rows: Sequence[Row], aside: Path, path: Path) -> None:
    with aside.open("w", encoding="utf-8", newline="") as file:
        dialect = _dialect(path) | {"lineterminator": "\n"}
        lines = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), **dialect)
        lines.writeheader()
        for row in rows:
            lines.writerow({name: _cell(name, value, path) for name, value in row.items()})


def _cell(name: str, value: Any, path: Path) -> Any:
    if isinstance(value, list) and name == PREDICTED:
        value = ", ".join(value)
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and path.suffix.lower() == ".tsv":  # which has no way to write them
        value = " ".join(value.split("\t")).replace("\r", " ").replace("\n", " ")
    return value


def _write_lines(rows: Sequence[Row], aside: Path, path: Path) -> None:
    aside.write_text("".join(f"{_line(row)}\n" for row in rows), encoding="utf-8")


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)


def _write_parquet(rows: Sequence[Row], aside: Path, path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    pyarrow.parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), aside)


_READ: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_lines,
    ".parquet": _read_parquet,
}
_WRITE: dict[str, Callable[[Sequence[Row], Path, Path], None]] = {
    ".csv": _write_delimited,
    ".tsv": _write_delimited,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
