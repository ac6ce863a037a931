"""Ways to damage a studies' database and its artifacts."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tests.fuzz import raw, trees, values

TABLES = {  # how often each is chosen
    "study_user_attributes": 6,
    "trial_user_attributes": 6,
    "trial_params": 4,
    "trial_values": 3,
    "trial_intermediate_values": 2,
    "trials": 3,
    "studies": 2,
    "study_directions": 2,
    "study_system_attributes": 1,
    "trial_system_attributes": 1,
    "trial_heartbeats": 1,
    "version_info": 1,
    "alembic_version": 1,
}
STATES = ["RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", "running", ""]
NAMES = [
    "../../outside",
    "..",
    ".",
    "/tmp/x",
    "a/b",
    "comparison.html",
    "small/retrain",
    "é" * 80,
    "x" * 400,
    "\x1b[2J",
]


def row(folder: Path, rng: random.Random) -> str:
    """Change, delete or duplicate a row of one of Optuna's tables."""
    with closing(sqlite3.connect(folder / "studies.db")) as database, database:
        database.execute("PRAGMA foreign_keys = OFF")
        name = rng.choices(list(TABLES), list(TABLES.values()))[0]
        found = database.execute(f"SELECT rowid, * FROM {name} ORDER BY rowid")
        columns = [each[0] for each in found.description][1:]
        rows = found.fetchall()
        if not rows:
            return f"{name}: empty"
        place, *cells = rng.choice(rows)
        what = rng.randrange(10)
        if what == 0:
            database.execute(f"DELETE FROM {name} WHERE rowid = ?", (place,))
            return f"{name} {cells}: deleted"
        if what == 1:  # duplicate it under a new key, the first column
            marks = ", ".join("?" * (len(cells) - 1))
            _try(database, f"INSERT INTO {name} ({', '.join(columns[1:])}) VALUES ({marks})", cells[1:])
            return f"{name} {cells}: twice"
        column = rng.randrange(len(columns))
        new = _cell(columns[column], cells[column], rows, column, rng)
        _try(database, f"UPDATE {name} SET {columns[column]} = ? WHERE rowid = ?", (new, place))
        return f"{name}.{columns[column]} {cells[column]!r:.200}: {new!r:.200}"


def _cell(name: str, old: Any, rows: list[Any], column: int, rng: random.Random) -> Any:
    if name == "value_json" or name == "distribution_json":
        if rng.random() < 0.2:
            return rng.choice(
                ["", "{", "nan", "x", None, b"\xff", raw.mutated(str(old).encode(), rng).decode("latin-1")]
            )
        return json.dumps(trees.mutated(json.loads(old), rng))
    if rng.random() < 0.3:
        return rng.choice(rows)[column + 1]
    if name == "state":
        return rng.choice(STATES)
    if name == "study_name" and rng.random() < 0.7:
        return rng.choice(NAMES)
    if name.endswith("value_type"):
        return rng.choice(["FINITE", "INF_POS", "INF_NEG", "NAN", "x", None])
    if name == "direction":
        return rng.choice(["MINIMIZE", "MAXIMIZE", "NOT_SET", "x"])
    if name == "key" and rng.random() < 0.5:
        return rng.choice(["config", "key", "labels", "metric", "scores", "retrained", "test", "params", "x"])
    new = values.value(rng)
    return new if isinstance(new, float | bool) or (isinstance(new, int) and abs(new) < 2**63) else _written(new)


def _written(value: Any) -> Any:
    text = value if isinstance(value, str) else None if value is None else json.dumps(value)
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if text is not None else None


def _try(database: sqlite3.Connection, statement: str, cells: Any) -> None:
    """Change the database, unless the tables' own constraints forbid it."""
    with suppress(sqlite3.Error):
        database.execute(statement, cells)


def table(folder: Path, rng: random.Random) -> str:
    """Remove or add a table, a column or an index."""
    with closing(sqlite3.connect(folder / "studies.db")) as database, database:
        name = rng.choice(list(TABLES))
        column = rng.choice([each[1] for each in database.execute(f"PRAGMA table_info({name})")] or ["x"])
        statement = rng.choice(
            [
                f"DROP TABLE {name}",
                f"DELETE FROM {name}",
                f"ALTER TABLE {name} RENAME TO other_{name}",
                f"ALTER TABLE {name} RENAME COLUMN {column} TO x",
                "CREATE TABLE experiments (x)",
                "CREATE TABLE foreign_table (x)",
                "UPDATE version_info SET schema_version = 99",
                "UPDATE alembic_version SET version_num = 'v0.9.0.a'",
                "UPDATE alembic_version SET version_num = 'v99'",
                "INSERT INTO alembic_version VALUES ('x')",
            ]
        )
        _try(database, statement, ())
        return statement


def some_bytes(folder: Path, rng: random.Random) -> str:
    """Damage bytes of the file, or put an invalid journal beside it."""
    file = folder / "studies.db"
    if rng.random() < 0.1:
        beside = folder / f"studies.db-{rng.choice(['wal', 'journal', 'shm'])}"
        beside.write_bytes(rng.choice([b"", b"x" * 100, rng.randbytes(5000)]))
        return beside.name
    file.write_bytes(raw.mutated(file.read_bytes(), rng))
    return "bytes"


def artifact(folder: Path, rng: random.Random) -> str:
    """Damage one of the files beside the database."""
    files = sorted(file for file in (folder / "artifacts").rglob("*") if file.is_file() and not file.is_symlink())
    if not files:
        return "nothing"
    file = rng.choice(files)
    what = rng.choice(["bytes", "bytes", "tree", "tree", "gone", "folder", "link", "above"])
    if what == "bytes" or (what == "tree" and file.suffix not in (".json", ".yaml")):
        file.write_bytes(raw.mutated(file.read_bytes(), rng))
    elif what == "tree":
        try:
            file.write_text(json.dumps(trees.mutated(json.loads(file.read_text()), rng)))
        except ValueError:  # YAML, or damaged before
            file.write_bytes(raw.mutated(file.read_bytes(), rng))
    elif what == "above":
        shutil.rmtree(file.parent)
        if rng.random() < 0.5:
            file.parent.write_text("x")
    else:
        file.unlink()
        if what == "folder":
            file.mkdir()
        elif what == "link":
            file.symlink_to(rng.choice([file.name, "/dev/null", "/etc/passwd", "../..", "nowhere"]))
    return f"{file.relative_to(folder)}: {what}"


def foreign(folder: Path, rng: random.Random) -> str:
    """Add trials and studies that no sweep made, through Optuna's own interface."""
    storage = f"sqlite:///{folder}/studies.db"
    what = rng.choice(["enqueue", "add", "study", "copy", "delete", "empty"])
    name, to = rng.choice(["small", "other", "small/retrain"]), rng.choice(["copied", *NAMES])
    # Optuna refuses some of these
    with suppress(KeyError, ValueError, TypeError, OverflowError, optuna.exceptions.OptunaError):
        if what == "enqueue":
            params = {key: values.value(rng) for key in rng.sample(["rank", "log2_rank", "learning_rate", "x"], 2)}
            optuna.load_study(study_name=name, storage=storage).enqueue_trial(params)
        elif what == "add":
            optuna.load_study(study_name=name, storage=storage).add_trial(_trial(rng))
        elif what == "study":
            directions = ["maximize"] * rng.choice([1, 1, 2])
            made = optuna.create_study(study_name="plain", storage=storage, directions=directions)
            made.add_trial(_trial(rng))
        elif what == "copy":
            optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=to)
        elif what == "delete":
            optuna.delete_study(study_name=name, storage=storage)
        else:
            optuna.create_study(study_name=to, storage=storage)
    return f"{what} {name} {to}"


def _trial(rng: random.Random) -> Any:
    state = rng.choice(
        [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL, TrialState.PRUNED, TrialState.WAITING]
    )
    return create_trial(
        state=state,
        value=rng.choice([0.5, 1e9, float("inf")]) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params={"learning_rate": 0.01, "rank": 4, "x": 1},
        distributions={
            "learning_rate": FloatDistribution(1e-3, 1e-1),
            "rank": CategoricalDistribution([2, 4, None]),
            "x": IntDistribution(0, 3),
        },
        user_attrs=rng.choice([{}, {"scores": {"macro_f1": 0.5}}, {"params": {}}, {"retrains": 0}]),
        intermediate_values={rng.choice([-1, 0, 1, 2]): rng.choice([0.5, float("nan")])},
    )
