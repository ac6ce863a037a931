"""How is a file of texts labelled? Its rows are written to another file with the predictions beside them."""

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
Rows: TypeAlias = Columns | pyarrow.Table  # a Table from Parquet to Parquet: it has types that Python lacks


@contextmanager
def silent_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Shows nothing."""
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
    """Label the texts of a file, and write the rows to another file; without one, return them as lines of JSON.

    Each row keeps its columns (as text from CSV and TSV; with their types from Parquet to Parquet). It gets `predicted`
    (a list for multi-label data) and `probability_…` for each label. Mistakes in the files are found before the model
    is loaded.

    Args:
        folder: written by `export`.
        target: file to write. An existing file is replaced when everything is written.
        column: column of the texts; by default the one used in training.
        encoding: of the input, if it is CSV, TSV or JSONL. The output is UTF-8.
        trust_remote_code: see `Classifier`.
        bar: shows the number of texts that are done; see `progress.bar`.
        warn: called with a warning about what may harm the predictions.
        note: called with a line about the file that was written.

    Raises:
        DataError: the input cannot be read, or the output cannot be written.
        UsageError: the encoding or output format does not exist, or input and output are the same file.
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
        raise UsageError(f"--encoding: {quoted(encoding)} is not a text encoding; examples are utf-8 and cp1252")
    return data.TextFormat(encoding, decode="--encoding ", unquote="write it as CSV", plain="")


def _checked(to: Path, source: Path) -> Path:
    """The output's path, with links resolved.

    Raises:
        DataError: it cannot be written.
        UsageError: it is the input, or has the ending of no known format.
    """
    if to.suffix.lower() not in _WRITE:
        raise UsageError(f"--output: {to} has no known format; give one of {', '.join(_WRITE)}")
    if to.is_dir():
        raise DataError(f"{to}: cannot be written: it is a folder")
    if not os.access(to.parent, os.W_OK | os.X_OK):
        raise DataError(f"{to}: cannot be written: the folder {to.parent} does not exist or is not writable")
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
    """Write a temporary file and rename it.

    Raises:
        DataError: the rows cannot be written; an earlier file is unchanged.
    """
    with _written(rows, path) as written:
        put(written, path)


def check_writable(rows: Rows, path: Path) -> None:
    """Try to write the rows to a temporary file.

    Raises:
        DataError: they cannot be written there.
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
        raise DataError(f"{path}: these rows cannot be written in this format: {error}; try another format") from error
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
    """Ends rows of `csv` with a newline alone. The csv writer itself must end them with both characters: it quotes only
    cells that contain one of them, and readers take a carriage return for a line end."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> int:
        return self.file.write(row.removesuffix("\r\n") + "\n")


def _cell(value: Any, name: str, *, tabs: bool) -> Any:
    if isinstance(value, list) and name == PREDICTED:
        value = ", ".join(value)
    if isinstance(value, list | dict):
        value = _json(value)
    if isinstance(value, str) and tabs:  # TSV cannot contain tabs or line ends
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
