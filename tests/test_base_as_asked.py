"""Is only the base loaded from a folder that holds more, and in the precision that the method needs?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from peftsweep import models
from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError
from peftsweep.models.checks import check_loaded
from tests.packs import CPU, SINGLE, base_of, pack_of
from tests.test_engine import trial
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("plain"), "llama")


@pytest.fixture(scope="module")
def adapter(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of stock peft for the base. Its weights are not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModel.from_pretrained(plain)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, base_model_name_or_path=str(plain))
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def refusal(place: Path, method: str = "lora", *, colon: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        base_of(place, SINGLE, method)
    message = str(caught.value)
    assert message.startswith(f"model.id: {place}{':' if colon else ''} ") and "\n" not in message
    return message


def test_an_adapter_beside_a_base_is_refused(plain: Path, adapter: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(plain, tmp_path / "both"))
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    assert "holds an adapter (adapter_config.json) beside its base" in refusal(both)


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_with_only_an_adapter_is_refused_as_an_adapter(
    plain: Path, adapter: Path, tmp_path: Path, named: bool
) -> None:
    alone = Path(shutil.copytree(adapter, tmp_path / "alone"))
    if not named:
        (alone / "adapter_config.json").write_text("[]")
    base = f"its base, {plain}" if named else "its base"
    assert refusal(alone) == f"model.id: {alone} is an adapter, not a base: give {base}, or merge the adapter into it"


HELD: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "8 bits": {"load_in_8bit": True},
}


@pytest.fixture(scope="module")
def quantised(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base as bitsandbytes saves it."""
    folders = {kind: tmp_path_factory.mktemp("held") for kind in HELD}
    for kind, folder in folders.items():
        save_quantised(plain, folder, HELD[kind])
    return folders


def save_quantised(plain: Path, folder: Path, held: dict[str, Any]) -> None:
    bits = BitsAndBytesConfig(**held)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=bits, device_map={"": "cpu"})
    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
    model.save_pretrained(folder)
    tiny_tokenizer(decoder=True).save_pretrained(folder)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_base_in_4_bits_needs_qlora(quantised: dict[str, Path], method: str) -> None:
    assert (
        "is quantised already (bitsandbytes, nf4), but this method needs unquantised weights; set method: qlora"
        in refusal(quantised["nf4"], method)
    )


def test_a_base_stored_in_4_bits_is_used_unchanged(quantised: dict[str, Path], tmp_path: Path) -> None:
    base = base_of(quantised["nf4"], SINGLE, "qlora")
    assert base.four_bit and base.dtype is torch.float32
    stored = load_file(quantised["nf4"] / "model.safetensors")
    layer = base.model.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight.data.flatten(), stored["model.layers.0.mlp.up_proj.weight"].flatten())
    assert layer.compute_dtype is torch.float32 and type(base.model.score) is torch.nn.Linear
    pack_of(
        quantised["nf4"], SINGLE, "qlora", [trial(0, tmp_path)], 1
    ).release()  # building it compares the logits with transformers'


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("kind", ["fp4", "8 bits"])
def test_a_base_in_another_quantisation_is_refused(quantised: dict[str, Path], kind: str, method: str) -> None:
    assert f"is quantised already (bitsandbytes, {kind}), which is not supported; give the base" in refusal(
        quantised[kind], method
    )


@pytest.mark.parametrize("kind", ["gptq", "awq", "fp8", "mxfp4", "compressed-tensors", None])
def test_a_base_of_another_quantiser_is_refused_without_its_library(plain: Path, tmp_path: Path, kind: Any) -> None:
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    config = json.loads((place / "config.json").read_text())
    said = {"quant_method": kind, "bits": 4, "group_size": 128}
    (place / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    assert f"quantised already ({kind})" in refusal(place, "qlora")


def change_config(place: Path, **changes: Any) -> None:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))


def change_weights(place: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    weights = load_file(place / "model.safetensors")
    weights = dict(change(name, weight) for name, weight in weights.items())
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


WEIGHTS: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "renamed",
        lambda at: change_weights(at, lambda name, part: (f"x.{name}", part)),
        "holds the weights of another model",
    ),
    (
        "a layer less",
        lambda at: change_config(at, num_hidden_layers=1),
        "by its config.json, model.layers.1.input_layernorm",
    ),
    (
        "a layer more",
        lambda at: change_config(at, num_hidden_layers=3),
        "has no weights for model.layers.2.input_layernorm",
    ),
    (
        "wider",
        lambda at: change_config(at, intermediate_size=256),
        "has weights of other shapes than its configuration needs: model.layers.0.mlp.down_proj.weight is ",
    ),
    (
        "of fewer words",
        lambda at: change_config(at, vocab_size=40),
        "model.embed_tokens.weight is 128 × 64, not 40 × 64; give the config.json that belongs",
    ),
    (
        "padded by a text",
        lambda at: change_config(at, pad_token_id="0"),
        ": has a config.json in which pad_token_id is '0', but it must be a whole number or null",
    ),
    (
        "padded by a list",
        lambda at: change_config(at, pad_token_id=[3, 4]),
        ": has a config.json in which pad_token_id is [3, 4], but it must be a whole number or null",
    ),
    (
        "padded by half a token",
        lambda at: change_config(at, pad_token_id=0.5),
        ": has a config.json in which pad_token_id is 0.5, but it must be a whole number or null",
    ),
    (
        "biased",
        lambda at: change_config(at, model_type="qwen2"),
        "has no weights for model.layers.0.self_attn.k_proj.bias",
    ),
    ("unknown", lambda at: change_config(at, model_type="no"), ": has an architecture, 'no', that transformers "),
    ("said oddly", lambda at: change_config(at, quantization_config=[1]), ": cannot be loaded: AttributeError: "),
    *(
        (
            str(kind),
            lambda at, kind=kind: change_weights(
                at, lambda name, part: (name, part.to(kind) if "q_proj" in name and "0" in name else part)
            ),
            f"its files hold model.layers.0.self_attn.q_proj.weight as {said}, and config.json does not say how",
        )
        for kind, said in ((torch.int8, "I8"), (torch.uint8, "U8"), (torch.float8_e4m3fn, "F8_E4M3"))
    ),
]


@pytest.mark.parametrize(("damage", "said"), [each[1:] for each in WEIGHTS], ids=[each[0] for each in WEIGHTS])
def test_weights_that_do_not_match_the_configuration_are_refused(
    plain: Path, tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    damage(place)
    assert said in refusal(place, colon=said.startswith((":", "its files", "by its")))


def test_norms_that_an_architecture_does_not_read_are_reported(tmp_path: Path) -> None:
    place = tiny_model(tmp_path / "base", "qwen3")
    change_config(place, model_type="llama", architectures=["LlamaForCausalLM"])
    assert "self_attn.q_norm.weight" in (message := refusal(place, colon=True)) and "would be left out" in message


def test_unrelated_tensors_in_the_files_do_not_matter(plain: Path, tmp_path: Path) -> None:
    """Another head, parts for images, and buffers that old versions of transformers saved."""
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    weights = load_file(place / "model.safetensors")
    weights |= {"vision.tower.weight": torch.zeros(3, 3), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    weights |= {"model.embed_tokens.position_ids": torch.arange(9)[None], "score.weight": torch.zeros(7, 64)}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    assert base_of(place, SINGLE, "lora").model.score.out_features == 3


def test_a_missing_shard_is_refused(plain: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    model = AutoModelForCausalLM.from_pretrained(place)
    (place / "model.safetensors").unlink()
    model.save_pretrained(place, max_shard_size="100KB")
    base_of(place, SINGLE, "lora")
    lost = sorted(place.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert lost.name in refusal(place, colon=True)
    index = place / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    said["weight_map"] = {name: file for name, file in said["weight_map"].items() if file != lost.name}
    index.write_text(json.dumps(said))
    assert "has no weights for model.layers.0." in refusal(place)


def test_the_loaded_base_is_checked_against_the_request(plain: Path) -> None:
    def found(dtype: torch.dtype = torch.float32, four_bit: bool = False) -> str:
        with pytest.raises(ModelError, match="was not loaded as asked for") as caught:
            check_loaded(place, model, SINGLE, dtype=dtype, four_bit=four_bit)
        return str(caught.value)

    place = ModelConfig(id=str(plain), dtype="float32")
    model = models.load_base(place, SINGLE, four_bit=False, device=CPU).model
    check_loaded(place, model, SINGLE, dtype=torch.float32, four_bit=False)
    assert "4 bits asked for" in found(four_bit=True) and "bfloat16 asked for" in found(torch.bfloat16)
    model.score.requires_grad_(True)
    assert found().endswith("some of its parameters are trainable")
    model.score = torch.nn.Linear(64, 7).requires_grad_(False)
    assert found().endswith("labels: 3 asked for, its head has [7]")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert "it has an adapter" in found()
