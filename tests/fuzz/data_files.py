"""Files of texts and labels: CSV, TSV, JSONL and Parquet, with damaged rows, types or bytes."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from pydantic import ValidationError

from peftsweep import data
from peftsweep.config import DataConfig
from peftsweep.errors import DataError
from peftsweep.export import prediction_files
from tests.fuzz import raw, trees, values
from tests.fuzz.running import Kind, Plan
from tests.fuzz.swept_folders import Ground
from tests.tiny import tiny_rows, tiny_tokenizer

LABELS = ["anger", "joy", "sadness"]
ENDINGS = [".csv", ".tsv", ".jsonl", ".parquet"]
KEYS: dict[str, list[Any]] = {
    "text": ["text", "label", "joy", "nothing"],
    "labels": [
        {"column": "label"},
        {"column": "label", "separator": ","},
        {"column": "label", "grouped": True},
        "label",
        LABELS,
        "text",
        ["joy"],
        ["label", "joy"],
        "nothing",
    ],
    "encoding": ["utf-8", "latin-1", "utf-16", "cp1252", "utf-7", "idna", "punycode", "unicode_escape", "shift_jis"],
    "quoting": [True, False],
    "max_length": [2, 3, 64],
    "filter": [{"label": {"equals": "joy"}}, {"joy": {"min": 1}}, {"text": {"max": 1e300}}, {"joy": {"equals": 1}}],
    "drop_duplicates": [True],
    "split": [{"validation": 0.5}, {"validation": 3, "test": 2}, {"train": 0.1, "test": 0.3}, {"validation": 10**9}],
}


class DataFiles(Kind):
    name, share = "data-files", 54

    def __init__(self, ground: Ground) -> None:
        self.tokenizer = tiny_tokenizer(decoder=False)

    def make(self, rng: random.Random, folder: Path) -> Plan:
        kind, rows = labelled(rng)
        ending = rng.choice(ENDINGS)
        how = rng.choice(["rows", "rows", "bytes", "config", "types"])
        damaged: Any = trees.mutated(rows, rng) if how == "rows" else rows
        whole = table(damaged, how == "types", rng) if ending == ".parquet" else written(damaged, ending, rng)
        for old in folder.iterdir():
            old.unlink()
        (folder / f"train{ending}").write_bytes(raw.mutated(whole, rng) if how == "bytes" else whole)
        (folder / "dev.csv").write_bytes(written(rows[:6], ".csv", random.Random(0)))
        config: Plan = {"text": "text", "labels": kind}
        for key, choices in KEYS.items():
            if rng.random() < (0.4 if how == "config" else 0.05):
                config[key] = rng.choice(choices)
        both = rng.random() < 0.3 and "split" not in config
        plan = {"how": how, "file": f"train{ending}", "both": both, "config": config}
        try:
            self._config(folder, plan)
        except ValidationError:  # no study file may say this: make another input
            return self.make(rng, folder)
        return plan

    def use(self, folder: Path, plan: Plan) -> None:
        config = self._config(folder, plan)
        self._predicted(config, str(folder / plan["file"]), folder)
        data.find_mistakes(config)  # `run` looks for them first
        data.load(config, self.tokenizer, note=str, warn=str)

    def _config(self, folder: Path, plan: Plan) -> DataConfig:
        file = str(folder / plan["file"])
        source = {"train": file, "validation": str(folder / "dev.csv")} if plan["both"] else {"source": file}
        return DataConfig.model_validate(plan["config"] | source)

    def _predicted(self, config: DataConfig, file: str, folder: Path) -> None:
        """Read all columns and write them again, as `predict` does."""
        form = data.TextFormat(config.encoding, config.quoting)
        try:
            rows = data.read_table(file, "--input", [config.text], form, str, whole=True)
        except DataError:
            return
        data.with_checked_texts(rows, config.text)
        for ending in ENDINGS:
            try:
                prediction_files.write(rows.columns, folder / f"labelled{ending}")
            except DataError:
                continue
        list(prediction_files._lines(rows.columns))


def labelled(rng: random.Random) -> tuple[Any, list[dict[str, Any]]]:
    """Labels as a study file names them, and rows with them: classes, columns of 0 and 1, joined labels, lists."""
    kind = rng.choice(["classes", "columns", "joined", "lists"])
    if kind == "columns":
        return LABELS, tiny_rows(LABELS, 12, 1)
    rows = tiny_rows(LABELS, 12, 1, single="label")
    if kind == "classes":
        return "label", rows
    both = [[row["label"], "joy"] if n % 2 else [row["label"]] for n, row in enumerate(rows)]
    if kind == "lists":
        return {"column": "label"}, [row | {"label": names} for row, names in zip(rows, both, strict=True)]
    return {"column": "label", "separator": ";"}, [
        row | {"label": ";".join(names)} for row, names in zip(rows, both, strict=True)
    ]


def written(rows: Any, ending: str, rng: random.Random) -> bytes:
    """Rows, damaged or not, as text."""
    rows = rows if isinstance(rows, list) else [rows]
    if ending == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
        return raw.encoded("\n".join(lines) + "\n", rng)
    rows = [row if isinstance(row, dict) else {"text": row} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([cell(row.get(name, "")) for name in names] for row in rows)]
    if ending == ".tsv":
        return raw.encoded("".join("\t".join(line) + "\n" for line in cells), rng)
    stream = io.StringIO()
    csv.writer(stream, delimiter=rng.choice([","] * 8 + [";", "|", "\t"])).writerows(cells)
    return raw.encoded(stream.getvalue(), rng)


def cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


MOMENT = datetime.datetime(2020, 1, 2, 3, 4, 5)
COLUMNS: list[Any] = [
    lambda n: pyarrow.array([b"\xff\xfe"] * n, pyarrow.binary()),
    lambda n: pyarrow.array([b"joy"] * n, pyarrow.binary()),
    lambda n: pyarrow.array(["joy", None] * (n // 2), pyarrow.large_string()),
    lambda n: pyarrow.array(["joy", "anger"] * (n // 2)).dictionary_encode(),
    lambda n: pyarrow.array([None] * n, pyarrow.null()),
    lambda n: pyarrow.array([True, False] * (n // 2)),
    lambda n: pyarrow.array([True, None] * (n // 2)),
    lambda n: pyarrow.array([2**63 - 1] * n, pyarrow.int64()).cast(pyarrow.timestamp("s"), safe=False),
    lambda n: pyarrow.array([2**62] * n, pyarrow.int64()).cast(pyarrow.timestamp("us", "UTC"), safe=False),
    lambda n: pyarrow.array([1] * n, pyarrow.int64()).cast(pyarrow.timestamp("ns", "Mars/Base")),
    lambda n: pyarrow.array([2**31 - 1] * n, pyarrow.int32()).cast(pyarrow.date32()),
    lambda n: pyarrow.array([2**62] * n, pyarrow.int64()).cast(pyarrow.duration("s")),
    lambda n: pyarrow.array([2**62] * n, pyarrow.int64()).cast(pyarrow.time64("ns")),
    lambda n: pyarrow.array([MOMENT] * n),
    lambda n: pyarrow.array([decimal.Decimal("1.50")] * n),
    lambda n: pyarrow.array([["joy", "anger"]] * n),
    lambda n: pyarrow.array([["joy"], None, []] * (n // 3)),
    lambda n: pyarrow.array([{"a": 1, "b": [{"c": None}]}] * n),
    lambda n: pyarrow.array([[("k", 1)]] * n, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    lambda n: pyarrow.array([float("nan"), 1.0, float("inf")] * (n // 3), pyarrow.float16()),
    lambda n: pyarrow.array([0, 1] * (n // 2), pyarrow.uint64()),
    lambda n: pyarrow.array([2**64 - 1] * n, pyarrow.uint64()),
    lambda n: pyarrow.array([0.0, 1.0, None] * (n // 3)),
    lambda n: pyarrow.Array.from_buffers(
        pyarrow.string(), n, pyarrow.array([b"\xc3\x28"] * n, pyarrow.binary()).buffers()
    ),
]


def table(rows: Any, other_types: bool, rng: random.Random) -> bytes:
    """Rows as Parquet; where Arrow has no types for them, as JSON in one column."""
    try:
        found = _table(rows, other_types, rng)
    except (
        pyarrow.ArrowException,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        found = pyarrow.table({"text": [json.dumps(row) for row in rows] if isinstance(rows, list) else ["x"]})
    stream = io.BytesIO()
    parquet.write_table(found, stream, compression=rng.choice(["snappy", "none", "zstd"]))
    return stream.getvalue()


def _table(rows: Any, other_types: bool, rng: random.Random) -> pyarrow.Table:
    found = pyarrow.Table.from_pylist(rows)
    for _ in range(rng.choice([1, 2]) if other_types else 0):
        column = rng.choice(COLUMNS)(len(found))
        place = rng.randrange(len(found.column_names) + 1)
        if place < len(found.column_names):
            found = found.set_column(place, found.column_names[place], column)
        else:
            name = rng.choice([*found.column_names, "more", values.text(rng)]).encode("utf-8", "replace")
            found = found.append_column(name, column)
    parquet.write_table(found, io.BytesIO())  # fails for the types that Parquet does not have
    return found
