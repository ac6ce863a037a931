"""What a folder holds besides a base is not loaded unsaid, and a base is held as the method wants it or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
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
    """A LoRA of stock peft on the base, whose weights are not nought."""
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModel.from_pretrained(plain)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, base_model_name_or_path=str(plain))
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def refusal(place: Path, method: str = "lora") -> str:
    with pytest.raises(ModelError) as caught:
        base_of(place, SINGLE, method)
    message = str(caught.value)
    assert message.startswith(f"model.id: {place} ") and "\n" not in message
    return message


def test_an_adapter_beside_a_base_is_refused(plain: Path, adapter: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(plain, tmp_path / "both"))
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    assert "holds an adapter (adapter_config.json) beside its base" in refusal(both)


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_is_only_an_adapter_is_called_one(
    plain: Path, adapter: Path, tmp_path: Path, named: bool
) -> None:
    alone = Path(shutil.copytree(adapter, tmp_path / "alone"))
    if not named:
        (alone / "adapter_config.json").write_text("[]")
    base = f"its base, {plain}" if named else "its base"
    assert refusal(alone) == f"model.id: {alone} is an adapter, and no base: give {base}, or merge the adapter into it"


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
def test_a_base_in_4_bits_is_for_qlora(quantised: dict[str, Path], method: str) -> None:
    assert (
        "is quantised already (bitsandbytes, nf4), and this method trains on whole weights; set method: qlora"
        in refusal(quantised["nf4"], method)
    )


def test_a_base_in_4_bits_is_trained_on_as_it_is(quantised: dict[str, Path], tmp_path: Path) -> None:
    base = base_of(quantised["nf4"], SINGLE, "qlora")
    assert base.four_bit and base.dtype is torch.float32
    stored = load_file(quantised["nf4"] / "model.safetensors")
    layer = base.model.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight.data.flatten(), stored["model.layers.0.mlp.up_proj.weight"].flatten())
    assert layer.compute_dtype is torch.float32 and type(base.model.score) is torch.nn.Linear
    pack_of(quantised["nf4"], SINGLE, "qlora", [trial(0, tmp_path)], 1).release()  # proven against transformers' own


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("kind", ["fp4", "8 bits"])
def test_a_base_quantised_otherwise_is_refused(quantised: dict[str, Path], kind: str, method: str) -> None:
    assert f"is quantised already (bitsandbytes, {kind}): not supported; give the base" in refusal(
        quantised[kind], method
    )


@pytest.mark.parametrize("kind", ["gptq", "awq", "fp8", "mxfp4", "compressed-tensors", None])
def test_a_base_of_other_quantisers_is_refused_without_their_libraries(plain: Path, tmp_path: Path, kind: Any) -> None:
    place = Path(shutil.copytree(plain, tmp_path / "base"))
    config = json.loads((place / "config.json").read_text())
    said = {"quant_method": kind, "bits": 4, "group_size": 128}
    (place / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    assert f"is quantised already ({kind}): not supported" in refusal(place, "qlora")


def test_what_is_loaded_is_what_was_asked_for(plain: Path) -> None:
    def found(dtype: torch.dtype = torch.float32, four_bit: bool = False) -> str:
        with pytest.raises(ModelError, match="is not loaded as it was asked for") as caught:
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
    assert "an adapter is on it" in found()
