"""Datasets and bases of the hub, from a small hub on this machine; then offline, and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.hub import Hub, commit, serving, with_hub
from tests.tiny import EMOTIONS, SENTIMENTS, tiny_model, tiny_rows, write

LABELS = EMOTIONS[:3]
SPLITS = ("train", "validation", "test")

PROGRAM = """
import contextlib, io, json, sys, time

import torch

from peftsweep import data, models
from peftsweep.config import DataConfig, ModelConfig
from peftsweep.errors import DataError, ModelError
from peftsweep.task import Task
from tests.tiny import tiny_tokenizer

time.sleep = lambda seconds: None  # between the client's attempts at a hub that is not there

def dataset(settings):
    notes = []
    read = data.load(DataConfig(**settings), tiny_tokenizer(False), note=notes.append, warn=notes.append)
    sizes = [len(split) for split in (read.train, read.validation, read.test or ())]
    return {"sizes": sizes, "labels": read.task.labels, "fingerprint": read.fingerprint, "notes": notes}

def base(settings):
    config = ModelConfig(**settings)
    models.load_tokenizer(config)
    loaded = models.load_base(config, Task("single-label", ("a", "b")), four_bit=False, device=torch.device("cpu"))
    return {"source": loaded.source, "revision": models.revision_of(loaded), "parameters": loaded.parameters}

answers = {}
for name, settings in json.loads(sys.argv[1]).items():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            answers[name] = base(settings) if "id" in settings else dataset(settings)
        except (DataError, ModelError) as error:
            answers[name] = {"error": type(error).__name__, "message": str(error)}
    answers[name]["said"] = said.getvalue()
print(json.dumps(answers))
"""


def files(folder: Path, *names: str, seed: int = 0) -> dict[str, bytes]:
    """Files of rows, a row more in each; how they are written, their names say."""
    read = {}
    for i, name in enumerate(names):
        rows = tiny_rows(LABELS, 20 + seed + i, seed + i)
        read[name] = write(folder / f"rows{Path(name).suffix}", rows).read_bytes()
    return read


def named_classes(folder: Path, secret: bool) -> dict[str, bytes]:
    """Parquet files as `datasets` writes them: class numbers, with their names in the schema; -1 where secret."""
    mood = {"_type": "ClassLabel", "names": SENTIMENTS}
    features = {"text": {"_type": "Value", "dtype": "string"}, "mood": mood}
    schema = pyarrow.schema(
        [("text", "string"), ("mood", "int64")], {"huggingface": json.dumps({"info": {"features": features}})}
    )
    read = {}
    for i, split in enumerate(SPLITS):
        rows = tiny_rows(SENTIMENTS, 20 + i, i, single="mood")
        numbered = [row | {"mood": -1 if secret and split == "test" else SENTIMENTS.index(row["mood"])} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(numbered, schema), folder / "named.parquet")
        read[f"data/{split}-00000-of-00001.parquet"] = (folder / "named.parquet").read_bytes()
    return read


def filled(folder: Path) -> Hub:
    hub = Hub()
    card = "---\nconfigs:\n"
    for language in ("en", "de"):
        paths = [f"  - {{split: {split}, path: {language}/{split}.csv}}\n" for split in SPLITS]
        card += f"- config_name: {language}\n  data_files:\n" + "".join(paths)
    english, german = ([f"{language}/{split}.csv" for split in SPLITS] for language in ("en", "de"))
    branch = {language: [f"task.{language}/{split}/0000.parquet" for split in SPLITS] for language in ("en", "de")}
    converted = files(folder, *branch["en"]) | files(folder, *branch["de"], seed=10)
    bert = tiny_model(folder / "bert", "bert")
    base = {path.name: path.read_bytes() for path in bert.iterdir()}
    gguf = {"README.md": b"a model", "config.json": base["config.json"], "pytorch_model.bin": b"pickled"}
    hub.repositories = {
        "datasets/some/plain": {
            "main": files(folder, *(f"data/{split}-00000-of-00001.parquet" for split in SPLITS)),
            "v2": files(folder, "train.jsonl", "dev.jsonl"),
        },
        "datasets/some/subsets": {
            "main": {"README.md": f"{card}---\n".encode()} | files(folder, *english) | files(folder, *german, seed=10)
        },
        "datasets/some/script": {"main": {"script.py": b"raise"}, "refs/convert/parquet": converted},
        "datasets/some/oldscript": {"main": {"oldscript.py": b"raise"}},
        "datasets/some/onescript": {
            "main": {"onescript.py": b"raise"},
            "refs/convert/parquet": files(folder, *(f"default/{split}/0000.parquet" for split in SPLITS)),
        },
        "datasets/some/nothing": {"main": {"README.md": b"soon"}},
        "datasets/some/tests": {"main": files(folder, "test.csv")},
        "datasets/some/named": {"main": named_classes(folder, secret=False)},
        "datasets/some/secret": {"main": named_classes(folder, secret=True)},
        "some/bert": {"main": base, "v2": base | {"README.md": b"better"}},
        "some/bin": {"main": gguf},
        "some/dataless": {"main": {"README.md": b"soon"}},
    }
    hub.gated = {"datasets/some/gated", "some/gated"}
    return hub


def of_dataset(source: str, **settings: Any) -> dict[str, Any]:
    return {"source": f"hub://{source}", "text": "text", "labels": LABELS} | settings


CASES = {
    "plain": of_dataset("some/plain"),
    "plain v2": of_dataset("some/plain", revision="v2"),
    "plain v9": of_dataset("some/plain", revision="v9"),
    "own test": of_dataset("some/plain", split={"validation": 5, "seed": 1}),
    "subset": of_dataset("some/subsets", subset="de"),
    "subset: none named": of_dataset("some/subsets"),
    "subset: unknown": of_dataset("some/subsets", subset="fr"),
    "script": of_dataset("some/script", subset="task.en"),
    "script again": of_dataset("some/script", subset="task.en"),
    "script: other subset": of_dataset("some/script", subset="task.de"),
    "script: none named": of_dataset("some/script"),
    "script: unknown subset": of_dataset("some/script", subset="task.fr"),
    "script: one subset": of_dataset("some/onescript"),
    "script: not converted": of_dataset("some/oldscript"),
    "named": of_dataset("some/named", labels="mood"),
    "secret": of_dataset("some/secret", labels="mood"),
    "column": of_dataset("some/plain", text="texts"),
    "unknown dataset": of_dataset("some/unknown"),
    "gated dataset": of_dataset("some/gated"),
    "nothing": of_dataset("some/nothing"),
    "only a test": of_dataset("some/tests"),
    "no name": of_dataset("a/b/c"),
    "bert": {"id": "some/bert"},
    "bert v2": {"id": "some/bert", "revision": "v2"},
    "bert v9": {"id": "some/bert", "revision": "v9"},
    "bin": {"id": "some/bin"},
    "no config": {"id": "some/dataless"},
    "unknown model": {"id": "some/unknown"},
    "no such name": {"id": "bert"},
    "gated model": {"id": "some/gated"},
}
UNREACHABLE = ["plain", "subset", "script", "bert"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: what came of it, and what was printed; likewise offline afterwards, and without a hub."""
    home = tmp_path_factory.mktemp("home")
    with serving(filled(tmp_path_factory.mktemp("files"))) as url:
        online = with_hub(url, home, PROGRAM, json.dumps(CASES))
    later = {
        f"{name}, offline": answer
        for name, answer in with_hub(url, home, PROGRAM, json.dumps(CASES), HF_HUB_OFFLINE="1").items()
    }
    gone = with_hub(
        url, tmp_path_factory.mktemp("empty"), PROGRAM, json.dumps({name: CASES[name] for name in UNREACHABLE})
    )
    return online | later | {f"{name}, unreachable": answer for name, answer in gone.items()}


def test_show(answers):
    for k, v in answers.items():
        print(k, "::", v)
