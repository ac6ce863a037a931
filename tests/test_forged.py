"""Does an exported folder with damaged or forged files, but correct digests, give one message?"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from peftsweep import export
from peftsweep.config import ModelConfig
from peftsweep.errors import ExportError
from peftsweep.export import Classifier, exporting
from peftsweep.export.manifest import NAME, Manifest, digests
from peftsweep.models import load_base, revision_of
from peftsweep.task import Task
from tests.test_names import BAD
from tests.tiny import tiny_model, tiny_tokenizer

LABELS = ("anger", "joy", "sadness")
TEXTS = ["the joy and anger of it", "sadness", "", "<pad> joy"]
ADAPTER, CONFIG, WEIGHTS = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"
TOKENIZER = "tokenizer.json"

Edit = Callable[[Any], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as an export writes them, but untrained: an adapter, and a plain model."""
    place = tmp_path_factory.mktemp("forged")
    base = tiny_model(place / "base", "bert")
    found = load_base(
        ModelConfig(id=str(base)), Task("single-label", LABELS), four_bit=False, device=torch.device("cpu")
    )
    asked: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
    peft.get_peft_model(found.model, peft.LoraConfig(**asked)).save_pretrained(place / "lora")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    model.save_pretrained(place / "merged")
    (place / "lora" / "README.md").unlink()
    for name in ("lora", "merged"):
        tiny_tokenizer(decoder=False).save_pretrained(place / name)
        whole: dict[str, Any] = {"version": "0", "study": "small", "trial": 0, "method": "lora", "kind": "single-label"}
        whole |= {"base": revision_of(found), "labels": LABELS, "thresholds": None, "text": "text", "max_length": 32}
        whole |= {"fingerprint": "0", "scores": {}, "merged": name == "merged", "model": ModelConfig(id=str(base))}
        Manifest(**whole, files=digests(place / name)).write(place / name)
        assert len(Classifier(place / name).predict(TEXTS)) == len(TEXTS)
    return {name: place / name for name in ("lora", "merged")}


def sign(folder: Path, **changes: Any) -> None:
    """Write the digests of the present files into the manifest."""
    found = Manifest.model_validate_json((folder / NAME).read_bytes())
    found.model_copy(update={"files": digests(folder), **changes}).write(folder)


def as_json(**changes: Any) -> Edit:
    """A change to a JSON file, such as `post_processor__single=[]`."""

    def edit(data: bytes) -> bytes:
        whole = json.loads(data)
        for place, value in changes.items():
            *above, last = place.split("__")
            here = whole
            for name in above:
                here = here[name]
            here[last] = value
        return json.dumps(whole).encode()

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Edit:
    """A change to the tensors of a file. `change` also gets the name of the first tensor."""

    def edit(data: bytes) -> bytes:
        from safetensors.torch import load, save

        found = load(data)
        change(found, min(found))
        return bytes(save(found, metadata={"format": "pt"}))

    return edit


def head(text: str) -> Edit:
    return lambda data: struct.pack("<Q", len(text)) + text.encode()


NOBODY = {"SpecialToken": {"id": "nobody", "type_id": 0}}  # makes the package tokenizers panic
NOT_COVERED = '{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
TOKENIZERS: list[tuple[Edit, str]] = [
    (lambda data: data[:-9], "its tokenizer cannot be loaded: "),
    (lambda data: b"[" * 100_000, "its tokenizer cannot be loaded: "),
    (
        as_json(post_processor__single=[NOBODY]),
        "its tokenizer cannot be loaded: PanicException: no entry found for key",
    ),
    (as_json(model__vocab={"<s>": 1, "</s>": 0}), "its tokenizer "),
]
NOT_OURS = "adapter_config.json describes no adapter that peftsweep writes"
CONFIGS: list[tuple[Edit, str]] = [
    (as_json(r="x"), f"{NOT_OURS} (r)"),
    (as_json(r=0), f"{NOT_OURS} (r)"),
    (as_json(r=10**12), "has a rank that no weight of adapter_model.safetensors has"),
    (as_json(r=4), "its adapter cannot be used: RuntimeError: "),
    (as_json(target_modules=["key"]), "is not the adapter of adapter_config.json"),
    (as_json(peft_type="PROMPT_TUNING"), f"{NOT_OURS} (peft_type)"),
    (as_json(task_type="CAUSAL_LM"), f"{NOT_OURS} (task_type)"),
    (lambda data: b"[]", NOT_OURS),
    (lambda data: b"[" * 100_000, f"{NOT_OURS} (nothing that is JSON)"),
    (lambda data: data.replace(b"query", b"(\\\\w+)+$"), f"{NOT_OURS} (target_modules)"),
    *(
        (as_json(**{key: value}), f"{NOT_OURS} ({key})")
        for key, value in {
            "target_modules": "(.*)*query",  # a pattern that may take forever to match
            "modules_to_save": "score",
            "exclude_modules": "(.*)*x",
            "layers_pattern": "(.*)*x",
            "layers_to_transform": [0],
            "layer_replication": [[0, 10**6]],
            "rank_pattern": {"(.*)*query": 4},
            "alpha_pattern": {"(.*)*query": 4},
            "auto_mapping": {"parent_library": "os", "base_model_class": "system"},
            "megatron_config": {"a": 1},
            "eva_config": True,
            "init_lora_weights": "pissa",
            "use_dora": True,
            "target_parameters": ["weight"],
            "trainable_token_indices": [10**9],
        }.items()
    ),
]
ADAPTERS: list[tuple[Edit, str]] = [
    (lambda data: b"", "its adapter cannot be used: SafetensorError: "),
    (head(NOT_COVERED), "its adapter cannot be used: SafetensorError: "),
    (head("{}"), "a rank that"),
    (tensors(lambda found, name: found.pop(name)), "adapter_model.safetensors has no "),
    (
        tensors(lambda found, name: found.update({name + "\x1b[2J": found.pop(name)})),
        "adapter_model.safetensors has no ",
    ),
    (tensors(lambda found, name: found.update({"a": torch.zeros(1)})), "has a weight of no use, a: "),
    (tensors(lambda found, name: found[name].mul_(float("nan"))), "its model gives no finite numbers for 4 of 4 texts"),
]
MODELS: list[tuple[Edit, str]] = [
    (lambda data: b"{", "config.json cannot be"),
    (as_json(model_type="nobody"), "its model has an architecture, 'nobody', that"),
    (
        as_json(hidden_size="x"),
        "config.json in which hidden_size is 'x', but it must be a whole number",
    ),
    (as_json(num_hidden_layers=10**9), "config.json asks for num_hidden_layers: 1000000000"),
    (as_json(num_labels=10**9), "config.json asks for num_labels: 1000000000"),
    (as_json(vocab_size=10**24), "config.json asks for vocab_size: "),
    (as_json(text_config={"hidden_size": 10**9}), "config.json asks for hidden_size: 1000000000"),
    (as_json(intermediate_size=10**7), "config.json asks for 2,5"),
    (lambda data: b"[" * 100_000, "nested too deeply"),
    (as_json(num_hidden_layers=3), "its model has no weights for bert.encoder.layer.2."),
    (
        as_json(vocab_size=7),
        "configuration needs: bert.embeddings.word_embeddings.weight",
    ),
]
MERGED: list[tuple[Edit, str]] = [
    (lambda data: data[:100], "its model cannot be loaded: "),
    (tensors(lambda found, name: found.pop(name)), "its model has no weights for "),
    (tensors(lambda found, name: found.pop("classifier.weight")), "its model has no weights for classifier.weight"),
]
FORGERIES = [
    (which, file, edit, said)
    for which, file, edits in (
        ("lora", TOKENIZER, TOKENIZERS),
        ("lora", "tokenizer_config.json", [(lambda data: b"null", "its tokenizer cannot be loaded: ")]),
        ("lora", CONFIG, CONFIGS),
        ("lora", ADAPTER, ADAPTERS),
        ("merged", "config.json", MODELS),
        ("merged", WEIGHTS, MERGED),
    )
    for edit, said in edits
]


@pytest.mark.parametrize(("which", "file", "edit", "said"), FORGERIES)
def test_a_forged_file_gives_one_message_about_the_folder(
    made: dict[str, Path],
    which: str,
    file: str,
    edit: Edit,
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made[which], folder)
    (folder / file).write_bytes(edit((folder / file).read_bytes()))
    sign(folder)
    with pytest.raises(ExportError) as error:
        Classifier(folder).predict(TEXTS)
    text = str(error.value)
    assert text.startswith(f"{folder}: ") and said in text
    assert len(text) < 600 and text.removeprefix(str(folder)).isprintable()
    assert capfd.readouterr() == ("", "")  # native code that panics writes to the process's own streams


def test_labels_that_the_head_lacks_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    for which, said in (
        ("lora", "its adapter cannot be used: "),
        ("merged", "configuration needs: classifier."),
    ):
        folder = tmp_path / which
        shutil.copytree(made[which], folder)
        sign(folder, labels=(*LABELS, "more"))
        with pytest.raises(ExportError, match=said):
            Classifier(folder)


@pytest.mark.parametrize("name", [name for name in BAD if "\ud800" not in name])
def test_no_name_in_a_manifest_leads_out_of_the_folder(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "out"
    shutil.copytree(made["lora"], folder)
    for place in (tmp_path / "etc", tmp_path / "x", folder / "a"):
        place.mkdir(exist_ok=True)
    found = Manifest.model_validate_json((folder / NAME).read_bytes())
    found.model_copy(update={"files": {**found.files, name: "0" * 64}}).write(folder)
    with pytest.raises(ExportError, match=r"peftsweep\.json: files\.") as error:
        export.read(folder)
    assert "a file's name " in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[" * 5000,
        b"[]",
        b" " * 17_000_000 + b"{}",
        json.dumps({"x\x1b[2J" * 1000: 1}).encode(),
        b'{"trial": ' + b"9" * 5000 + b"}",
        b'{"study": "\\ud800"}',
    ],
)
def test_an_invalid_manifest_gives_one_short_message(tmp_path: Path, text: bytes) -> None:
    (tmp_path / NAME).write_bytes(text)
    with pytest.raises(ExportError, match=r"peftsweep\.json: ") as error:
        export.read(tmp_path)
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


def test_reading_does_not_wait_for_a_pipe(made: dict[str, Path], tmp_path: Path) -> None:
    for name in (NAME, TOKENIZER, ADAPTER):
        folder = tmp_path / name
        shutil.copytree(made["lora"], folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ExportError, match=f"has no {NAME}|{name} is missing"):
            Classifier(folder)
        if name == TOKENIZER:
            sign(folder)  # as if it had never been exported
            with pytest.raises(ExportError, match=r"its tokenizer tokenizer\.json: no plain file"):
                Classifier(folder)
    with pytest.raises(ExportError, match="is a file; give a folder"):
        Classifier(made["lora"] / TOKENIZER)
    with pytest.raises(ExportError, match="is too long"):
        Classifier(tmp_path / ("a" * 300))


def test_a_tokenizer_with_several_chat_templates_is_exported_as_plain_files(
    made: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["lora"].parent / "base", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template = {"default": "{{ 1 }}", "rag": "{{ 2 }}"}
    tokenizer.save_pretrained(tmp_path / "base")
    assert (tmp_path / "base" / "additional_chat_templates").is_dir()
    (tmp_path / "out").mkdir()
    exporting._save_tokenizer(ModelConfig(id=str(tmp_path / "base")), 0, [np.array([2, 5, 6, 3])], tmp_path / "out")
    assert all(file.is_file() for file in (tmp_path / "out").iterdir())
