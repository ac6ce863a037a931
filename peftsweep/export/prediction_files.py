"""Files of texts, written again with what was predicted beside each row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import pyarrow
import pyarrow.parquet

from peftsweep import data
from peftsweep.config import is_text_encoding
from peftsweep.errors import DataError, ExportError, UsageError
from peftsweep.export import manifest as manifests
from peftsweep.export.prediction import Classifier, Prediction
from peftsweep.safe_text.quoting import quoted
from peftsweep.system import json_files, names
from peftsweep.system.atomic_files import aside, put

PREDICTED, PROBABILITY = "predicted", "probability_"

Columns = Mapping[str, Sequence[Any]]
Rows: TypeAlias = Columns | pyarrow.Table  # the latter from Parquet to Parquet, which has types that Python has not


@contextmanager
def silent_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Nobody is told."""
    yield lambda count: None


def predict_file(
    folder: Path,
    source: Path,
    target: Path | None,
    *,
    column: str | None = None,
    encoding: str = "utf-8",
    trust_remote_code: bool = False,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], object]]] = silent_bar,
    warn: Callable[[str], object] = lambda text: None,
    note: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """Predict a file's texts into another file; into lines of JSON where there is none.

    Each row keeps what it has (every field of CSV and TSV as text; from Parquet to Parquet its types too) and gets
    `predicted` (a list, where a text has several labels) and `probability_…` of each label. What can be wrong with the
    files is found out before the model is loaded.

    Args:
        folder: that `export` made.
        target: replaced, once all is written, if it is there.
        column: of the texts; by default the one that the adapter was trained on.
        encoding: of CSV, TSV and JSONL. What is written is in UTF-8.
        trust_remote_code: see `Classifier`.
        bar: shows how many texts have been read; see `progress.bar`.
        warn: told what may spoil the predictions.
        note: gets a line about the file that was written.

    Raises:
        DataError: the one file cannot be read, or the other not be written.
        UsageError: no such encoding or output format, or the two are one file.
        ExportError, ModelError: see `Classifier`.
    """
    manifest = manifests.read(names.parse_path(folder, "the exported folder", ExportError))
    given = names.parse_path(source, "--input", DataError)
    to = None if target is None else _checked(names.parse_path(target, "--output", UsageError), given)
    kept = to is not None and to.suffix.lower() == source.suffix.lower() == ".parquet"
    table = data.read_table(str(source), "--input", [column or manifest.text], _form(encoding), warn, whole=not kept)
    texts = data.with_checked_texts(table, column or manifest.text).column(column or manifest.text)
    rows: Rows = data.read_arrow_table(given, str(source)) if kept else table.columns
    new = {PREDICTED, *(PROBABILITY + label for label in manifest.labels)}
    if taken := sorted(new.intersection(rows.column_names if isinstance(rows, pyarrow.Table) else rows)):
        raise DataError(f"{source}: has a column {taken[0]} already; rename it")
    if to is not None:
        check_writable(rows, to)
    with bar("texts", len(texts)) as done:
        found = Classifier(folder, manifest, trust_remote_code=trust_remote_code).predict(texts, done)
    beside = predicted(found, manifest.labels, several=manifest.task.multi_label)
    if to is None:
        return list(_lines(table.columns | beside))
    write(_extended(rows, beside), to)
    note(f"{target}: {len(texts):,} row{'s' * (len(texts) > 1)}")
    return []


def predicted(found: Sequence[Prediction], labels: Sequence[str], *, several: bool) -> dict[str, list[Any]]:
    """Predictions as columns."""
    on = [list(each.labels) if several else each.labels[0] for each in found]
    return {PREDICTED: on} | {PROBABILITY + label: [each.probabilities[label] for each in found] for label in labels}


def _form(encoding: str) -> data.TextFormat:
    if not is_text_encoding(encoding):
        raise UsageError(f"--encoding: {quoted(encoding)} is no encoding of text; utf-8 and cp1252 are some")
    return data.TextFormat(encoding, decode="--encoding ", unquote="write it as CSV", plain="")


def _checked(to: Path, source: Path) -> Path:
    """Where the output is to be, links followed.

    Raises:
        DataError: nothing can be written there.
        UsageError: it is the input, or its ending is that of no format.
    """
    if to.suffix.lower() not in _WRITE:
        raise UsageError(f"--output: {to} is no file of a format that is written: {', '.join(_WRITE)}")
    if to.is_dir():
        raise DataError(f"{to}: cannot be written: a folder is there")
    if not os.access(to.parent, os.W_OK | os.X_OK):
        raise DataError(f"{to}: cannot be written: the folder {to.parent} is not there, or not to be written")
    if to.exists() and source.exists() and to.samefile(source):
        raise UsageError(f"--output: {to} is the input; give another file")
    return Path(os.path.realpath(to))


def _extended(rows: Rows, beside: Columns) -> Rows:
    if not isinstance(rows, pyarrow.Table):
        return {**rows, **beside}
    for name, values in beside.items():
        rows = rows.append_column(name, pyarrow.array(values))
    return rows


# Writing ------------------------------------------------------------------------------------------------------------


def write(rows: Rows, path: Path) -> None:
    """Written aside and renamed.

    Raises:
        DataError: it cannot be written; what was there before is as it was.
    """
    with _written(rows, path) as written:
        put(written, path)


def check_writable(rows: Rows, path: Path) -> None:
    """Raises:
    DataError: they cannot be written there, by having been written aside.
    """
    with _written(rows, path):
        pass


@contextmanager
def _written(rows: Rows, path: Path) -> Iterator[Path]:
    try:
        with aside(path) as written:
            _WRITE[path.suffix.lower()](rows, written, path)
            yield written
    except (pyarrow.ArrowException, csv.Error, OverflowError, UnicodeError) as error:
        raise DataError(f"{path}: these rows cannot be written so: {error}; another format may take them") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_delimited(columns: Columns, aside: Path, path: Path) -> None:
    tabs = path.suffix.lower() == ".tsv"
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if tabs else {}
    with aside.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(_Lines(file), **dialect)
        lines.writerow(columns)
        cells = [[_cell(value, name, tabs=tabs) for value in values] for name, values in columns.items()]
        lines.writerows(zip(*cells, strict=True))


class _Lines:
    """A file that gets rows of `csv`, one a call, and ends them by a newline alone. The writer itself is to end them by
    both characters: it quotes what has an ending in it, and a carriage return is one to who reads the file."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> int:
        return self.file.write(row.removesuffix("\r\n") + "\n")


def _cell(value: Any, name: str, *, tabs: bool) -> Any:
    if isinstance(value, list) and name == PREDICTED:
        value = ", ".join(value)
    if isinstance(value, list | dict):
        value = _json(value)
    if isinstance(value, str) and tabs:  # which has no way to write them
        value = " ".join(value.split("\t")).replace("\r", " ").replace("\n", " ")
    return value


def _lines(columns: Columns) -> Iterator[str]:
    for row in zip(*columns.values(), strict=True):
        yield _json(dict(zip(columns, row, strict=True)))


def _json(value: Any) -> str:
    return json.dumps(json_files.with_nulls(value), ensure_ascii=False, default=str, allow_nan=False)


def _write_lines(columns: Columns, aside: Path, path: Path) -> None:
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(columns))


def _write_parquet(rows: Rows, aside: Path, path: Path) -> None:
    pyarrow.parquet.write_table(rows if isinstance(rows, pyarrow.Table) else pyarrow.table(dict(rows)), aside)


_WRITE: dict[str, Callable[[Any, Path, Path], None]] = {
    ".csv": _write_delimited,
    ".tsv": _write_delimited,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
