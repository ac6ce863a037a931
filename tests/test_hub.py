"""Do datasets and bases load from a small local hub, then offline, and what happens without hub and cache?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from peftsweep.data.hub import _table as read_table
from tests.hub import Hub, commit, serving, with_hub
from tests.tiny import EMOTIONS, SENTIMENTS, tiny_model, tiny_rows, write

LABELS = EMOTIONS[:3]
SPLITS = ("train", "validation", "test")

PROGRAM = """
import io, json, sys, time

sys.stderr = said = io.StringIO()  # before the libraries' handlers take hold of it
sys.stdout, out = said, sys.stdout

import torch

from peftsweep import data, models
from peftsweep.config import DataConfig, ModelConfig
from peftsweep.errors import DataError, ModelError
from peftsweep.task import Task
from tests.tiny import tiny_tokenizer

time.sleep = lambda seconds: None  # the client waits between its attempts at a hub that is not there


def dataset(settings):
    notes = []
    tokenizer = tiny_tokenizer(False)
    tokenizer.unk_token = None  # the texts here are of any words
    read = data.load(DataConfig(**settings), tokenizer, note=notes.append, warn=notes.append)
    sizes = [len(split) for split in (read.train, read.validation, read.test or ())]
    return {"sizes": sizes, "labels": read.task.labels, "fingerprint": read.fingerprint, "notes": notes}


def base(settings):
    config = ModelConfig(**settings)
    loaded = models.load_base(config, Task("single-label", ("a", "b")), four_bit=False, device=torch.device("cpu"))
    models.load_tokenizer(config)
    return {"source": loaded.source, "revision": models.revision_of(loaded), "parameters": loaded.parameters}


answers = {}
for name, settings in json.loads(sys.argv[1]).items():
    said.truncate(0)
    said.seek(0)
    try:
        answers[name] = base(settings) if "id" in settings else dataset(settings)
    except (DataError, ModelError) as error:
        kind = DataError if isinstance(error, DataError) else ModelError
        answers[name] = {"error": kind.__name__, "message": str(error)}
    answers[name]["said"] = said.getvalue()
json.dump(answers, out)
"""


def files(folder: Path, *names: str, seed: int = 0) -> dict[str, bytes]:
    """Files of rows, by name. Each has one row more than the last, in the format of its name."""
    read = {}
    for i, name in enumerate(names):
        rows = tiny_rows(LABELS, 20 + seed + i, seed + i)
        read[name] = write(folder / f"rows{Path(name).suffix}", rows).read_bytes()
    return read


def named_classes(folder: Path, secret: bool) -> dict[str, bytes]:
    """Parquet files as `datasets` writes them: class numbers (-1 if secret), with their names in the schema."""
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


def test_lists_of_class_numbers_are_lists_of_their_names() -> None:
    several = datasets.List(datasets.ClassLabel(names=SENTIMENTS))
    features = datasets.Features({"text": datasets.Value("string"), "all": several})
    split = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "all": [[0, 2], [], None]}, features)
    assert read_table("hub://o/n (train)", split, ["all"]).columns == {"all": [["negative", "positive"], [], None]}


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
    pickled = {"README.md": b"a model", "config.json": base["config.json"], "pytorch_model.bin": b"pickled"}
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
        "datasets/some/nothing": {"main": {"README.md": b"---\nlicense: mit\n---\n"}},
        "datasets/some/tests": {"main": files(folder, "test.csv")},
        "datasets/some/named": {"main": named_classes(folder, secret=False)},
        "datasets/some/secret": {"main": named_classes(folder, secret=True)},
        "some/bert": {"main": base, "v2": base | {"README.md": b"better"}},
        "some/pickled": {"main": pickled},
        "some/dataless": {"main": {"README.md": b"---\nlicense: mit\n---\n"}},
    }
    hub.gated = {"datasets/some/gated", "some/gated"}
    return hub


def of_dataset(source: str, **settings: Any) -> dict[str, Any]:
    return {"source": f"hub://{source}", "text": "text", "labels": LABELS} | settings


CASES = {
    "plain": of_dataset("some/plain"),
    "plain v2": of_dataset("some/plain", revision="v2"),
    "plain v9": of_dataset("some/plain", revision="v9"),
    "own split": of_dataset("some/plain", split={"validation": 5, "seed": 1}),
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
    "script: at a revision": of_dataset("some/script", subset="task.en", revision="main"),
    "named": of_dataset("some/named", labels="mood"),
    "secret": of_dataset("some/secret", labels="mood"),
    "column": of_dataset("some/plain", text="texts"),
    "unknown dataset": of_dataset("some/unknown"),
    "gated dataset": of_dataset("some/gated"),
    "nothing": of_dataset("some/nothing"),
    "only a test": of_dataset("some/tests"),
    "no owner": of_dataset("a/b/c"),
    "bert": {"id": "some/bert"},
    "bert v2": {"id": "some/bert", "revision": "v2"},
    "bert v9": {"id": "some/bert", "revision": "v9"},
    "pickled": {"id": "some/pickled"},
    "no config": {"id": "some/dataless"},
    "unknown model": {"id": "some/unknown"},
    "no such name": {"id": "bert"},
    "gated model": {"id": "some/gated"},
}
UNREACHABLE = ("plain", "subset", "script", "bert")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all cases; of all again, offline; and of some without a hub or a cache."""
    home, empty = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty")
    hub = filled(tmp_path_factory.mktemp("files"))
    with serving(hub) as url:
        online = with_hub(url, home, PROGRAM, json.dumps(CASES))
    offline = with_hub(url, home, PROGRAM, json.dumps(CASES), HF_HUB_OFFLINE="1")
    alone = with_hub(url, empty, PROGRAM, json.dumps({name: CASES[name] for name in UNREACHABLE}))
    later = {f"{name}, offline": answer for name, answer in offline.items()}
    return online | later | {f"{name}, alone": answer for name, answer in alone.items()} | {"asked": hub.asked}


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("plain", [20, 21, 22]),
        ("plain v2", [20, 21, 0]),
        ("own split", [15, 5, 22]),
        ("subset", [30, 31, 32]),
        ("named", [20, 21, 22]),
    ],
)
def test_a_dataset_keeps_its_own_splits(answers: dict[str, Any], case: str, sizes: list[int]) -> None:
    assert answers[case]["sizes"] == sizes
    unused = [
        "data.split: validation is split off from hub://some/plain's train split; its own validation split is not used"
    ]
    assert answers[case]["notes"] == (unused if case == "own split" else [])


def test_a_dataset_made_by_a_script_comes_from_its_parquet_branch(answers: dict[str, Any]) -> None:
    assert answers["script"]["fingerprint"] == answers["plain"]["fingerprint"]  # the same rows
    assert answers["script: other subset"]["fingerprint"] == answers["subset"]["fingerprint"]
    assert answers["script: one subset"]["fingerprint"] == answers["plain"]["fingerprint"]


def test_the_parquet_branch_is_used_the_second_time_too(answers: dict[str, Any]) -> None:
    assert answers["script again"] == answers["script"]


def test_class_numbers_get_the_dataset_s_own_names(answers: dict[str, Any]) -> None:
    assert answers["named"]["labels"] == sorted(SENTIMENTS)


def test_a_test_split_with_secret_labels_is_left_out_with_a_note(answers: dict[str, Any]) -> None:
    assert answers["secret"]["sizes"] == [20, 21, 0]
    assert answers["secret"]["notes"] == ["hub://some/secret (test): no row has a label: left out"]


@pytest.mark.parametrize("case", ["subset", "script", "script: one subset", "named", "secret", "bert", "bert v2"])
def test_downloads_load_offline_later(answers: dict[str, Any], case: str) -> None:
    assert "error" not in answers[case]
    assert answers[f"{case}, offline"] | {"said": ""} == answers[case]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("plain v9", "has no revision 'v9'; its revisions are listed at https://huggingface.co/datasets/some/plain"),
        ("subset: none named", "has several subsets; name one of these as data.subset: en, de"),
        ("subset: unknown", "has no subset 'fr'; name one of these as data.subset: en, de"),
        ("script: none named", "has several subsets; name one of these as data.subset: task.de, task.en"),
        ("script: unknown subset", "has no subset 'task.fr'; name one of these as data.subset: task.de, task.en"),
        ("script: not converted", "it needs a script, which is not run, and the hub has no Parquet branch of it"),
        ("script: at a revision", "there are no Parquet files at revision main; leave data.revision out"),
        ("script: at a revision, offline", "the local cache"),
        ("column", "no column texts; it has text, anger, anticipation, disgust; did you mean text for texts?"),
        ("unknown dataset", "no such dataset on the hub (or a private one). Check the spelling"),
        ("gated dataset", "gated: accept its terms at https://huggingface.co/datasets/some/gated, then log in"),
        ("nothing", "has no file of a supported format"),
        ("only a test", "no split called train; it has test"),
        ("no owner", "expected hub://owner/name"),
        (
            "unknown dataset, offline",
            "not in the local cache, and the hub cannot be reached. Check the network, or name your own copy: "
            "--set data.train=train.tsv --set data.validation=dev.tsv",
        ),
        ("subset: unknown, offline", "--set data.train=train.tsv"),
        *((f"{name}, alone", "--set data.train=train.tsv") for name in ("plain", "subset", "script")),
    ],
)
def test_a_dataset_that_cannot_be_loaded_is_refused_with_the_reason(
    answers: dict[str, Any], case: str, said: str
) -> None:
    settings, answer = CASES[case.partition(", ")[0]], answers[case]
    assert answer["error"] == "DataError" and said in answer["message"]
    assert settings["source"] in answer["message"] and "\n" not in answer["message"]


def test_a_base_is_pinned_to_its_commit(answers: dict[str, Any]) -> None:
    assert answers["bert"]["source"] == answers["bert v2"]["source"] == "some/bert"
    assert answers["bert"]["revision"] == commit("main")
    assert answers["bert v2"]["revision"] == commit("v2")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bert v9", "listed at https://huggingface.co/some/bert/tree/main"),
        ("pickled", "no safetensors weights"),
        ("no config", "has no config.json with an architecture"),
        ("unknown model", "no such model on the hub, and no such folder here. Check the spelling"),
        ("no such name", "no such model on the hub, and no such folder here. Check the spelling"),
        ("gated model", "gated: accept its licence at https://huggingface.co/some/gated, then log in"),
        ("unknown model, offline", "HF_HUB_OFFLINE"),
        (
            "bert, alone",
            "not in the local cache, and the hub cannot be reached. Check the network (and that HF_HUB_OFFLINE",
        ),
    ],
)
def test_a_base_that_cannot_be_loaded_is_refused_with_the_reason(answers: dict[str, Any], case: str, said: str) -> None:
    settings, answer = CASES[case.partition(", ")[0]], answers[case]
    assert answer["error"] == "ModelError" and said in answer["message"]
    assert settings.get("revision", "") in answer["message"]
    assert answer["message"].startswith(f"model.id: {settings['id']}: ") and "\n" not in answer["message"]


def test_no_conversion_service_is_asked_for_a_base_without_safetensors(answers: dict[str, Any]) -> None:
    assert any("some/pickled" in path for path in answers["asked"])
    assert not [path for path in answers["asked"] if "discussions" in path]


def test_loading_prints_nothing(answers: dict[str, Any]) -> None:
    assert [name for name in CASES if answers[name]["said"]] == []
    assert [name for name, settings in CASES.items() if "id" in settings and answers[f"{name}, offline"]["said"]] == []
