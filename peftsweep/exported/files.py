"""Files of texts, read whole and written again with what was predicted beside each row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from peftsweep.data import missing_columns
from peftsweep.errors import DataError, UsageError
from peftsweep.exported.predicting import Classifier, Prediction
from peftsweep.places import did_you_mean

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
PREDICTED, PROBABILITY = "predicted", "probability_"


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


def read_texts(path: Path, column: str) -> tuple[pyarrow.Table, list[str]]:
    """The file as it is, every field of CSV and TSV as text; and its texts.

    Raises:
        DataError: no such file, a broken one, one without rows, without the column, or with rows that have no text.
    """
    if not path.exists():
        raise DataError(f"{path} is not there{did_you_mean(path)}")
    try:
        table = _READ[path.suffix.lower()](path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if column not in table.column_names:
        raise missing_columns(str(path), [column], table.column_names)
    texts = table.column(column).to_pylist()
    if not texts:
        raise DataError(f"{path}: no rows")
    wrong = [i for i, text in enumerate(texts, start=1) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{path}: column {column}: no text in row {', '.join(map(str, wrong[:5]))}")
    return table, texts


def predict_file(
    classifier: Classifier,
    source: Path,
    target: Path | None,
    column: str | None = None,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], object]]] = silent_bar,
) -> list[str]:
    """Predict a file's texts into another file; into lines of JSON where there is none.

    Args:
        column: of the texts; by default the one that the adapter was trained on.
        bar: shows how many texts have been read; see `progress.bar`.

    Raises:
        DataError: the one file cannot be read, or the other not be written.
    """
    table, texts = read_texts(source, column or classifier.manifest.text)
    with bar("texts", len(texts)) as done:
        found = classifier.predict(texts, done)
    table = with_predictions(table, str(source), found, several=classifier.manifest.task.multi_label)
    if target is None:
        return as_lines(table)
    write(table, target)
    return []


def with_predictions(table: pyarrow.Table, name: str, found: Sequence[Prediction], *, several: bool) -> pyarrow.Table:
    """The table with columns `predicted` (a list, where a text has several labels) and `probability_…` of each label.

    Raises:
        DataError: it has one of them already.
    """
    labels = list(found[0].probabilities)
    columns: dict[str, Any] = {
        PREDICTED: [list(each.labels) if several else each.labels[0] for each in found],
        **{PROBABILITY + label: [each.probabilities[label] for each in found] for label in labels},
    }
    for column, values in columns.items():
        if column in table.column_names:
            raise DataError(f"{name}: has a column {column} already; rename it")
        kind = pyarrow.list_(pyarrow.string()) if column == PREDICTED and several else None
        table = table.append_column(column, pyarrow.array(values, type=kind))
    return table


def write(table: pyarrow.Table, path: Path) -> None:
    """Written aside and renamed.

    Raises:
        DataError: it cannot be written; what was there before is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _WRITE[path.suffix.lower()](table, aside)
        aside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def as_lines(table: pyarrow.Table) -> list[str]:
    """A JSON object for each row."""
    return [json.dumps(row, ensure_ascii=False, default=str) for row in table.to_pylist()]


def _delimited(mark: str) -> Callable[[Path], pyarrow.Table]:
    def read(path: Path) -> pyarrow.Table:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=mark), [])
        quotes: dict[str, Any] = (
            {"quote_char": '"', "newlines_in_values": True} if mark == "," else {"quote_char": False}
        )
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),  # only then it says in which row a mistake is
            parse_options=pyarrow.csv.ParseOptions(delimiter=mark, **quotes),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pyarrow.string())),
        )

    return read


def _write_delimited(mark: str) -> Callable[[pyarrow.Table, Path], None]:
    def write(table: pyarrow.Table, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, delimiter=mark)
            lines.writerow(table.column_names)
            for row in table.to_pylist():
                lines.writerow(", ".join(cell) if isinstance(cell, list) else cell for cell in row.values())

    return write


def _write_lines(table: pyarrow.Table, path: Path) -> None:
    path.write_text("".join(f"{line}\n" for line in as_lines(table)), encoding="utf-8")


_READ: dict[str, Callable[[Path], pyarrow.Table]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
_WRITE: dict[str, Callable[[pyarrow.Table, Path], None]] = {
    ".csv": _write_delimited(","),
    ".tsv": _write_delimited("\t"),
    ".jsonl": _write_lines,
    ".parquet": pyarrow.parquet.write_table,
}
