"""Which hyperparameters do methods have, which layers do they adapt, and do exports score the same in stock peft?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from peftsweep.config import SPECS, TrainConfig
from peftsweep.errors import ModelError
from peftsweep.methods import METHODS
from peftsweep.models import linear_names
from tests.numbers import same_values
from tests.packs import SINGLE, base_of
from tests.stock_training import in_full
from tests.studies import LABELS, Home, home
from tests.tiny import tiny_model, tiny_rows, write


def test_study_files_and_the_registry_know_the_same_methods() -> None:
    assert list(METHODS) == list(SPECS)
    assert [name for name, method in METHODS.items() if method.four_bit] == ["qlora"]


def method(folder: Path, architecture: str, name: str) -> Any:
    model = base_of(tiny_model(folder, architecture), SINGLE, name).model
    return METHODS[name](model, linear_names(model))


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_lora_adapts_all_linear_layers_of_the_backbone_and_not_the_head(tmp_path: Path, name: str) -> None:
    targets = method(tmp_path, "llama", name).targets(TrainConfig())
    assert len(targets) == 2 * 7 and not any("score" in path for path in targets)


@pytest.mark.parametrize(("architecture", "names"), [("llama", "k_proj v_proj down_proj"), ("bert", "key value dense")])
def test_ia3_adapts_the_default_layers_of_peft(tmp_path: Path, architecture: str, names: str) -> None:
    ia3 = method(tmp_path, architecture, "ia3")
    last = {path.rsplit(".", 1)[-1] for path in ia3.targets(TrainConfig())}
    assert last == set(names.split())
    assert set(ia3.feedforward(TrainConfig())) <= set(ia3.targets(TrainConfig()))


def test_named_layers_are_adapted_and_unknown_ones_refused(tmp_path: Path) -> None:
    lora = method(tmp_path, "llama", "lora")
    targets = lora.targets(TrainConfig(target_modules=("q_proj", "v_proj")))
    assert {path.rsplit(".", 1)[-1] for path in targets} == {"q_proj", "v_proj"}
    with pytest.raises(ModelError, match=r"target_modules: query match no linear layer .* q_proj"):
        lora.targets(TrainConfig(target_modules=("query",)))


def test_ia3_on_an_architecture_that_peft_does_not_know_asks_for_names(tmp_path: Path) -> None:
    ia3 = method(tmp_path, "distilbert", "ia3")
    with pytest.raises(ModelError, match=r"no default layers for 'distilbert'; name them"):
        ia3.targets(TrainConfig())
    ia3.architecture = "mixtral"  # transformers now stacks the w2 of its experts, so it is no linear layer
    with pytest.raises(ModelError, match=r"default layers that this base does not have for 'mixtral'; name them"):
        ia3.targets(TrainConfig())


def test_ia3_scales_the_inputs_of_those_feedforward_layers_that_a_trial_adapts(tmp_path: Path) -> None:
    ia3 = method(tmp_path, "llama", "ia3")
    narrow = TrainConfig(target_modules=("k_proj", "v_proj"), feedforward_modules=("down_proj",))
    wide = narrow.model_copy(update={"target_modules": ("k_proj", "v_proj", "down_proj")})
    assert ia3.feedforward(narrow) == ()
    assert {path.rsplit(".", 1)[-1] for path in ia3.feedforward(wide)} == {"down_proj"}
    with pytest.raises(ModelError, match=r"^feedforward_modules: fc2 match no linear layer .* down_proj"):
        ia3.feedforward(TrainConfig(feedforward_modules=("fc2",)))


def test_ia3_with_and_without_feedforward_layers_in_one_study(tmp_path: Path) -> None:
    place = home(tmp_path / "home", "llama")
    choices = [["k_proj", "v_proj"], ["k_proj", "v_proj", "down_proj"], ["layers.0.self_attn.k_proj", "down_proj"]]
    study = place.study(
        method="ia3",
        train={"feedforward_modules": ["down_proj"]},
        space={"target_modules": choices},
        search={"sampler": "grid", "trials": 3},
    )
    assert place.run(study).counts == {"complete": 3}
    for trial in range(3):
        adapter = place.adapter(trial).parent
        base = AutoModelForSequenceClassification.from_pretrained(place.folder / "base", num_labels=len(LABELS))
        stock = PeftModel.from_pretrained(base, str(adapter))
        stored = {name for name in load_file(place.adapter(trial)) if "ia3_l" in name}
        assert sum("ia3_l" in name for name, _ in stock.named_parameters()) == len(stored)


# Scores of exported adapters ---------------------------------------------------------------------------------------


def stock_scores(adapter: str, rows: list[dict[str, Any]], multi_label: bool, four_bit: bool) -> tuple[float, float]:
    """Load the adapter with plain transformers and peft, and score the rows in padded batches: macro-F1 and loss."""
    config = PeftConfig.from_pretrained(adapter)
    source = config.base_model_name_or_path
    options: dict[str, Any] = {"num_labels": len(LABELS), "dtype": torch.float32}
    if four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=["score", "classifier"],
        )
    base = AutoModelForSequenceClassification.from_pretrained(source, **options)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    base.config.pad_token_id = tokenizer.pad_token_id
    model = in_full(PeftModel.from_pretrained(base, adapter).eval())
    logits = []
    for start in range(0, len(rows), 8):
        texts = [row["text"] for row in rows[start : start + 8]]
        with torch.no_grad():
            batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
            logits.append(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy())
    scores = np.concatenate(logits)
    if multi_label:
        truth = np.array([[row[label] for label in LABELS] for row in rows])
        loss = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(scores), torch.from_numpy(truth).float())
        return float(f1_score(truth, scores > 0, average="macro", zero_division=0)), float(loss)
    classes = np.array([LABELS.index(row["label"]) for row in rows])
    loss = torch.nn.CrossEntropyLoss()(torch.from_numpy(scores), torch.from_numpy(classes))
    return float(f1_score(classes, scores.argmax(axis=1), average="macro", zero_division=0)), float(loss)


@pytest.mark.numbers
@pytest.mark.parametrize("multi_label", [False, True], ids=["single-label", "multi-label"])
@pytest.mark.parametrize("architecture", ["llama", "bert", "gemma3", "xlm-roberta"])
@pytest.mark.parametrize("name", ["lora", "qlora", "ia3"])
def test_the_exported_adapter_scores_the_same_in_stock_peft(
    tmp_path: Path, name: str, architecture: str, multi_label: bool
) -> None:
    if name == "ia3" and architecture == "xlm-roberta":
        pytest.skip("peft has no default IA³ layers for XLM-RoBERTa; the other three stand for the method")
    place: Home = home(tmp_path / "home", architecture)
    rows = tiny_rows(LABELS, 60, 2, single=None if multi_label else "label")
    write(place.folder / "train.csv", tiny_rows(LABELS, 96, 1, single=None if multi_label else "label"))
    write(place.folder / "dev.csv", rows)
    study = place.study(
        method=name,
        data={"labels": LABELS if multi_label else "label"},
        train={"epochs": 10} | ({} if name == "ia3" else {"dropout": 0.1}),
        space={"learning_rate": [5e-2 if name == "ia3" else 1e-2]},
    )
    best = place.run(study, trials=1).best
    assert best is not None and best.adapter is not None
    macro_f1, loss = stock_scores(best.adapter, rows, multi_label, four_bit=name == "qlora")
    assert macro_f1 == pytest.approx(best.macro_f1)
    # stricter than comparing labels, and meaningful even if a tiny random base has learnt little
    same_values([loss], [best.loss])
