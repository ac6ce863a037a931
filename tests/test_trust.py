"""Code that a model's folder names runs only if the study file or the option allows it; nobody is ever asked."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from peftsweep import models
from peftsweep.config import ModelConfig
from peftsweep.errors import ExportError, ModelError, PeftsweepError
from peftsweep.export.exporting import _save_tokenizer
from peftsweep.export.manifest import Manifest
from peftsweep.export.model_card import Origin, card, code_blocks
from peftsweep.methods import attached
from peftsweep.models.gguf import convert_gguf
from peftsweep.models.loading import saved_tokenizer
from peftsweep.task import Task
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
TASK = Task("single-label", ("no", "yes"))
LOAD = re.compile(r"transformers\.Auto\w+\.from_pretrained")
LOADERS = {"from_pretrained", "from_config", "load_dataset", "load_model"}


@pytest.mark.parametrize("folder", ["peftsweep", "benchmarks"])
def test_every_call_that_loads_something_says_whether_code_may_run(folder: str) -> None:
    silent = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in LOADERS
        and not any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
    ]
    assert silent == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("plain"), "llama")


@pytest.fixture
def base(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base whose code, `code.py`, leaves a file `ran`. Whatever is asked on the terminal is answered with yes."""
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    (place / "code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel, PreTrainedTokenizerFast\n"
        "class Model(LlamaForSequenceClassification): pass\n"
        "class Part(LlamaModel): pass\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(LlamaConfig, "_auto_class", None)  # transformers remembers code that it ran
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n" * 100))
    return place


def changed(file: Path, **changes: Any) -> None:
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(said | changes))


TOKENIZER = {"AutoTokenizer": [None, "code.Tokenizer"]}
EVERYTHING = {"AutoConfig": "code.LlamaConfig", "AutoModelForSequenceClassification": "code.Model"} | TOKENIZER
PROCESSOR = {"AutoProcessor": "code.P", "AutoFeatureExtractor": "code.P", "AutoImageProcessor": "code.P"}
VISION = {"model_type": "trocr", "auto_map": {"AutoModel": "code.Part"}}  # transformers has no AutoModel for it


def name_code_in(place: Path, where: str) -> None:
    """Let one of the folder's files name the code."""
    code: dict[str, Any] = {"auto_map": EVERYTHING | PROCESSOR}
    config, tokenizer = place / "config.json", place / "tokenizer_config.json"
    if where == "config":
        changed(config, **code)
    elif where == "config of an unknown architecture":
        changed(config, model_type="own-kind", **code)
    elif where == "tokenizer":
        changed(tokenizer, **code)
    elif where == "tokenizer of an unknown class":
        changed(tokenizer, tokenizer_class="OwnTokenizer", **code)
    elif where == "tokenizer in the old form":
        changed(tokenizer, auto_map=TOKENIZER["AutoTokenizer"])
    elif where == "processors":
        changed(place / "processor_config.json", processor_class="P", **code)
        changed(place / "preprocessor_config.json", feature_extractor_type="P", image_processor_type="P", **code)
    elif where == "a part of the model":
        text = {name: value for name, value in json.loads(config.read_text()).items() if name != "model_type"}
        vision = VISION | {"_name_or_path": str(place), "name_or_path": str(place)}
        config.write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": vision}))
    elif where == "attention":
        changed(config, attn_implementation="somebody/code")
    else:
        assert where == "generation"
        (place / "custom_generate").mkdir()
        shutil.copy(place / "code.py", place / "custom_generate" / "generate.py")


PLACES = ["config", "config of an unknown architecture", "tokenizer", "tokenizer of an unknown class"]
PLACES += ["tokenizer in the old form", "processors", "a part of the model", "attention", "generation"]
REFUSED = {PLACES[1], PLACES[3], "a part of the model"}  # these do not load without the code


@pytest.mark.parametrize("where", PLACES)
def test_no_code_runs_and_nobody_is_asked(base: Path, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    name_code_in(base, where)
    said: list[str] = []
    loads: list[Callable[[], Any]] = [
        lambda: models.load_base(ModelConfig(id=str(base)), TASK, four_bit=False, device=torch.device("cpu")),
        lambda: models.load_tokenizer(ModelConfig(id=str(base))),
        lambda: saved_tokenizer(base, trust_remote_code=False),
    ]
    for load in loads:
        try:
            load()
        except PeftsweepError as error:
            said.append(str(error))
    assert not (base.parent / "ran").exists() and capfd.readouterr().out == ""
    assert (said != []) == (where in REFUSED), said
    assert all("its own code" in line and "\n" not in line for line in said)


@pytest.mark.parametrize("where", ["config", "tokenizer"])
def test_code_runs_when_it_is_trusted(base: Path, where: str, tmp_path: Path) -> None:
    name_code_in(base, where)
    trusted = ModelConfig(id=str(base), trust_remote_code=True)
    if where == "config":
        loaded = models.load_base(trusted, TASK, four_bit=False, device=torch.device("cpu")).model
        assert type(loaded).__name__ == "Model"
    else:
        _save_tokenizer(trusted, 0, [np.array([5, 6])], tmp_path / "exported")  # including its code
        shutil.rmtree(base)
        assert type(saved_tokenizer(tmp_path / "exported", trust_remote_code=True)).__name__ == "Tokenizer"
    assert (base.parent / "ran").exists()


def test_a_copy_of_what_was_loaded_without_the_code_does_not_name_it(base: Path, tmp_path: Path) -> None:
    for where in ("config", "tokenizer"):
        name_code_in(base, where)
    place = ModelConfig(id=str(base))
    models.load_base(place, TASK, four_bit=False, device=torch.device("cpu")).model.save_pretrained(tmp_path / "copy")
    models.load_tokenizer(place).save_pretrained(tmp_path / "copy")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in (tmp_path / "copy" / name).read_text()


def test_converting_a_gguf_file_runs_no_code_beside_it(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for where in ("config of an unknown architecture", "tokenizer of an unknown class", "generation"):
        name_code_in(base, where)
    (base / "own.gguf").write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(ModelError):
        convert_gguf(base / "own.gguf", tmp_path / "cache")
    assert not (tmp_path / "ran").exists() and capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "said",
    [
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2, "prompt_tuning_init": "TEXT"},
        {"peft_type": "XLORA", "adapters": {"0": "code"}},
        {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "code"},
        {"peft_type": ["LORA"]},
        {},
        [],
    ],
)
def test_an_adapter_of_another_kind_is_refused_before_anything_is_loaded(
    plain: Path, base: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(base)
    name_code_in(base, "tokenizer of an unknown class")
    if isinstance(said, dict):
        said = {"tokenizer_name_or_path": str(base), "task_type": "SEQ_CLS", "inference_mode": False} | said
    (base / "adapter_config.json").write_text(json.dumps(said))
    shutil.copy(base / "model.safetensors", base / "adapter_model.safetensors")
    model = models.load_base(ModelConfig(id=str(plain)), TASK, four_bit=False, device=torch.device("cpu")).model
    with pytest.raises(ExportError, match=r"adapter_config\.json describes no adapter"):
        attached(model, base)
    assert not (base.parent / "ran").exists()


def test_an_adapter_without_safetensors_is_not_unpickled(base: Path) -> None:
    (base / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (base / "adapter_model.bin").write_bytes(b"what was pickled")
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors is gone"):
        attached(torch.nn.Linear(1, 1), base)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("method", "merged"), [("lora", False), ("qlora", False), ("ia3", False), ("lora", True)])
def test_the_card_s_code_says_in_every_load_whether_code_may_run(
    method: str, merged: bool, nested: bool, trusted: bool
) -> None:
    said: dict[str, Any] = {"version": "0", "study": "s", "trial": 0, "method": method, "kind": "single-label"}
    said |= {"labels": TASK.labels, "thresholds": None, "text": "text", "max_length": 8, "fingerprint": "0"}
    model = ModelConfig(id="owner/base", trust_remote_code=trusted)
    manifest = Manifest(**said, base="0", scores={}, merged=merged, files={}, model=model)
    whole = card(manifest, Origin("owner/base", True, 0, ["score"], nested=nested), folder="out", params={}, sampled=[])
    loads = [
        node
        for code in code_blocks(whole)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and re.fullmatch(r"transformers\.Auto\w+\.from_pretrained", ast.unparse(node.func))
    ]
    assert len(loads) == (2 if merged or not nested else 3)
    for node in loads:
        (value,) = [ast.literal_eval(each.value) for each in node.keywords if each.arg == "trust_remote_code"]
        assert value is trusted


def test_a_package_of_the_working_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an installed package may assemble its parts: an exported folder, or a stranger's, may be a package too."""
    evil = tmp_path / "evilpackage"
    evil.mkdir()
    (evil / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef assemble(file): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="is not among Python's installed packages, and its code is not run"):
        models.load_tokenizer(ModelConfig(id="package://evilpackage"))
    assert not (tmp_path / "ran").exists()
