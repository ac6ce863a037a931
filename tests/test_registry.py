"""Methods of one's own: registered here, trained in a pack, compared with stock peft, rebuilt by it. Nothing in the
package knows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from peftsweep.config import SPECS, MethodSpec, StudyConfig, TrainConfig, load
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.config.hyperparameters.method_spec import MethodHyperparameters, Names
from peftsweep.config.sections import train_config
from peftsweep.engine import Trial
from peftsweep.engine.packed_model import PackedModel
from peftsweep.errors import StudyFileError
from peftsweep.layers import LayerSpec, PackedLayer
from peftsweep.methods import METHODS, Method, attached, register
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.methods.lora import Lora, LoraFile, PackedLora
from peftsweep.methods.method import select, shortest_names
from peftsweep.models import linear_names
from peftsweep.study.enqueued import given
from peftsweep.study.space import candidates, described, distributions
from tests.alone import StockPeft
from tests.numbers import distance, same, same_losses, same_values, same_weights
from tests.packs import SINGLE, Queue, Texts, base_of, pack_of, run_pack
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The methods of this file, and afterwards those of before."""
    methods, specs = dict(METHODS), dict(SPECS)
    for method in (LoraPlus, Vera, Pissa, RsLora):
        register(method)
    yield
    METHODS.clear()
    METHODS.update(methods)
    SPECS.clear()
    SPECS.update(specs)


# LoRA+ (arXiv:2402.12354): a learning rate of its own for B ----------------------------------------------------------


class LoraPlusHyperparameters(LoraHyperparameters):
    rate_ratio: float = Field(default=16.0, gt=0)
    """B's learning rate is so many times A's."""


class PackedLoraPlus(PackedLora):
    own_rates = frozenset({"B"})

    def rate_factor(self, name: str, params: TrainConfig) -> float:
        return float(params.rate_ratio)  # type: ignore[attr-defined]


class LoraPlus(Lora):
    spec = MethodSpec("lora-plus", LoraPlusHyperparameters)
    packed_layer = PackedLoraPlus


# VeRA (arXiv:2310.11454): frozen random matrices that all slots and layers share, and a vector behind each ------------


class VeraHyperparameters(MethodHyperparameters):
    rank: int = Field(default=16, ge=1)
    target_modules: Names = "auto"
    start: float = 0.1
    """The first value of the inner vector."""


class PackedVera(PackedLayer):
    """lambda_d: [K, r], lambda_b: [K, d_out], around the shared A [r, d_in] and B [d_out, r]."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"lambda_d": (len(self.shared["A"]),), "lambda_b": (self.out_features,)}

    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(None),)

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        return {"lambda_d": torch.full(self.shapes()["lambda_d"], params.start)}  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        flat, parts = x.reshape(-1, x.shape[-1]), []
        for slot, start, stop in self.context.segments.by_slot():
            inner = (flat[start:stop] @ self.shared["A"].T) * self.stacked["lambda_d"][slot]
            parts.append((inner @ self.shared["B"].T) * self.stacked["lambda_b"][slot])
        return y + torch.cat(parts).view_as(y)


class VeraFile(AdapterFile):
    r: int
    vera_dropout: float
    d_initial: float
    projection_prng_key: int


class Vera(Method):
    spec = MethodSpec("vera", VeraHyperparameters)
    adapter_file = VeraFile
    key = 7

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        return self.linears if params.target_modules == "auto" else select(self.linears, params.target_modules)

    def __init__(self, model: nn.Module, linears: Sequence[str]) -> None:
        super().__init__(model, linears)
        layers: list[Any] = [model.get_submodule(path) for path in linears]
        self.largest = max(layer.out_features for layer in layers), max(layer.in_features for layer in layers)

    def projections(self, rank: int) -> tuple[Tensor, Tensor]:
        """A [r, largest] and B [largest, r], as peft draws them."""
        from peft.tuners.vera.model import _kaiming_init

        generator = torch.Generator().manual_seed(self.key)
        return _kaiming_init((rank, self.largest[1]), generator), _kaiming_init((self.largest[0], rank), generator)

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedVera:
        a, b = self.projections(candidates[0].rank)
        dtype = spec.inner.weight.dtype
        width, height = int(spec.inner.in_features), int(spec.inner.out_features)  # type: ignore[arg-type]
        return PackedVera(spec, shared={"A": a[:, :width].to(dtype), "B": b[:height].to(dtype)})  # type: ignore[arg-type]

    @classmethod
    def config_class(cls) -> Any:
        from peft import VeraConfig

        return VeraConfig

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        names = shortest_names(self.targets(params), self.modules)
        start: float = params.start  # type: ignore[attr-defined]
        return self.config_class()(
            r=params.rank, target_modules=names, projection_prng_key=self.key, d_initial=start, **common
        )

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        return f"vera_{parameter}", value

    def more_tensors(self, params: TrainConfig) -> Mapping[str, Tensor]:
        a, b = self.projections(params.rank)
        return {"base_model.vera_A": a, "base_model.vera_B": b}


# PiSSA (arXiv:2404.02948): the base gives its first singular vectors away, and the export needs them -----------------


class PackedPissa(PackedLora):
    """Starts where A and B make up for what was taken from the base's weight."""

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        super().start(slot, params, generator)
        return {name: self.shared[name] for name in ("A", "B")}


class Pissa(Lora):
    """LoRA over W - s·B₀A₀ is LoRA of twice the rank over W: (B, -B₀) and (A, A₀)."""

    spec = MethodSpec("pissa", LoraHyperparameters)

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedLora:
        (rank,) = {params.rank for params in candidates}
        weight: Tensor = spec.inner.weight.data  # type: ignore[assignment]
        u, s, v = torch.linalg.svd(weight)
        scale = s[:rank].sqrt() / math.sqrt(2)  # α/r is 2
        first = {"A": scale[:, None] * v[:rank], "B": u[:, :rank] * scale}
        rest = nn.Linear(weight.shape[1], weight.shape[0], bias=spec.inner.bias is not None, dtype=weight.dtype)
        rest.load_state_dict({**spec.inner.state_dict(), "weight": weight - 2 * first["B"] @ first["A"]})
        self.constants |= {f"{spec.name}:{name}": value.cpu() for name, value in first.items()}
        return PackedPissa(spec, rank, inner=rest.requires_grad_(False), shared=first)

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        config = super().peft_config(params, **common)
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        return config

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        first = self.constants[f"{path}:{parameter}"].to(value.dtype)
        both = torch.cat([value, first]) if parameter == "A" else torch.cat([value, -first], dim=1)
        return super().to_peft(path, parameter, both, params)

    def from_peft(self, path: str, parameter: str, stored: Tensor, params: TrainConfig) -> Tensor:
        return stored[: params.rank] if parameter == "A" else stored[:, : params.rank]


# rsLoRA (arXiv:2312.03732): peft calls it LORA too ------------------------------------------------------------------


class PackedRsLora(PackedLora):
    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        started = super().start(slot, params, generator)
        self.scales[slot] *= math.sqrt(params.rank)
        self.factor[slot] = self.scales[slot]
        return started


class RsLoraFile(LoraFile):
    use_rslora: Literal[True]


class RsLora(Lora):
    """LoRA whose term is scaled by α/√r."""

    spec = MethodSpec("rslora", LoraHyperparameters)
    adapter_file, packed_layer = RsLoraFile, PackedRsLora

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        return super().peft_config(params, use_rslora=True, **common)


# Trained ------------------------------------------------------------------------------------------------------------


def trials(folder: Path, method: str, **changes: Any) -> list[Trial]:
    """Two of different rates and batches, and one that comes when a slot is free."""
    plans = [
        {"learning_rate": 2e-3, "batch_size": 8},
        {"learning_rate": 5e-3, "batch_size": 3},
        {"learning_rate": 5e-3, "weight_decay": 0.1},
    ]
    made = [train_config(method).model_validate({"epochs": 1, "rank": 4} | plan | changes) for plan in plans]
    return [Trial(i, 100 + i, params, folder / f"trial-{i}") for i, params in enumerate(made)]


class WithOwnRates(StockPeft):
    """A plain loop with one of torch's parameter groups for B."""

    def _optimizer(self) -> torch.optim.Optimizer:
        params = self.trial.params
        rate, groups = params.learning_rate, []
        for ending in ("A", "B", "weight"):
            some = [p for key, p in self.parameters.items() if key.endswith(f":{ending}")]
            groups.append({"params": some, "lr": rate * (params.rate_ratio if ending == "B" else 1.0)})  # type: ignore[attr-defined]
        return torch.optim.AdamW(groups, weight_decay=params.weight_decay)


@pytest.mark.parametrize(
    ("method", "stock", "changes"),
    [("lora-plus", WithOwnRates, {"rate_ratio": 8.0}), ("vera", StockPeft, {"start": 0.2})],
)
def test_a_registered_method_trains_as_stock_peft_does(
    tmp_path: Path, in_float64: None, method: str, stock: Callable[..., StockPeft], changes: dict[str, Any]
) -> None:
    folder, asked = tiny_model(tmp_path / "base", "llama"), trials(tmp_path, method, **changes)
    pack = pack_of(folder, SINGLE, method, asked, slots=2)
    run_pack(pack, Queue(asked))
    for trial in asked:
        alone, losses = stock(folder, SINGLE, method, trial, pack.first[trial.number]), []
        for step in range(alone.schedule.steps):
            losses.append(alone.backward(step))
            alone.update()
        same_losses(pack.trace[trial.number], losses, pack.dtype)
        first, last = pack.first[trial.number], pack.last[trial.number]
        same_weights(last, alone.weights(), first, pack.dtype)
        assert distance(last, first) > 0.01


def test_another_ratio_of_rates_moves_b_alone(tmp_path: Path, in_float64: None) -> None:
    """In the first step."""
    folder, moved = tiny_model(tmp_path / "base", "llama"), []
    for ratio in (1.0, 4.0):
        (trial, *_) = trials(tmp_path / str(ratio), "lora-plus", rate_ratio=ratio, warmup=0.0, max_grad_norm=0.0)
        pack = pack_of(folder, SINGLE, "lora-plus", [trial], slots=1)
        pack.slots.put(0, trial)
        start = pack.stack.weights[0].clone()
        pack.step()
        moved.append(pack.stack.split(0, pack.stack.weights[0] - start, trial.params))
    one, four = moved
    for key in one:
        same(four[key], (4.0 if key.endswith(":B") else 1.0) * one[key])


@pytest.mark.numbers
@pytest.mark.parametrize("method", ["lora", "lora-plus", "vera", "pissa", "rslora"])
def test_stock_peft_rebuilds_the_adapter_and_so_does_the_pack(tmp_path: Path, method: str) -> None:
    """From a method that has no base any more, onto a base of its own."""
    folder, asked = tiny_model(tmp_path / "base", "llama"), trials(tmp_path, method)[:1]
    pack, queue = pack_of(folder, SINGLE, method, asked, slots=1), Queue(asked)
    run_pack(pack, queue)
    weights = {key: torch.from_numpy(value) for key, value in (queue.results[0].weights or {}).items()}
    writer = pack.slots.method
    writer.export(tmp_path / "adapter", weights=weights, params=asked[0].params, source=str(folder), revision=None)
    stock = attached(base_of(folder, SINGLE, method).model, tmp_path / "adapter")
    texts, logits = Texts(SINGLE, 12, 2).input_ids, queue.results[0].logits
    assert logits is not None
    with torch.no_grad():
        theirs = torch.cat([stock(input_ids=torch.from_numpy(text)[None]).logits for text in texts])
    same_values(theirs.flatten().tolist(), torch.from_numpy(logits).flatten().tolist())
    again = {key: torch.zeros_like(value) for key, value in weights.items()}
    writer.read(tmp_path / "adapter", again, asked[0].params)
    assert all(torch.equal(again[key], value) for key, value in weights.items())


def test_a_changed_base_is_given_back_as_it_was(tmp_path: Path) -> None:
    model = base_of(tiny_model(tmp_path / "base", "llama"), SINGLE, "pissa").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters, params = METHODS["pissa"](model, linear_names(model)), TrainConfig(rank=4)
    packed = PackedModel(model, adapters, [params], 1, Texts(SINGLE, 4, 1).input_ids, 10.0)
    layer = packed.stack.layers[0]
    assert not torch.equal(layer.weight, before[f"{layer.name}.weight"])
    packed.release()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# In a study file ----------------------------------------------------------------------------------------------------

STUDY = """
model: {id: base}
method: METHOD
data: {train: a.csv, validation: b.csv, text: t, labels: l}
train: {TRAIN}
space: {learning_rate: [1e-3], SPACE}
"""


def study(folder: Path, method: str, train: str = "", space: str = "") -> StudyConfig:
    path = folder / "own.yaml"
    path.write_text(STUDY.replace("METHOD", method).replace("TRAIN", train).replace("SPACE", space))
    return load(path)


def test_a_study_file_may_give_a_registered_method_and_its_keys(tmp_path: Path) -> None:
    fixed = study(tmp_path, "lora-plus", train="rate_ratio: 4.0", space="rank: {low: 4, high: 16, log2: true}")
    assert fixed.hyperparameters({"rank": 8}).model_dump().items() >= {"rate_ratio": 4.0, "rank": 8}.items()
    assert fixed.identity()["train"]["rate_ratio"] == 4.0 and "start" not in fixed.identity()["train"]
    searched = study(tmp_path, "vera", space="start: {low: 0.01, high: 1.0, log: true}")
    assert searched.hyperparameters({"start": 0.5}).start == 0.5  # type: ignore[attr-defined]


def test_what_a_trial_records_is_what_its_method_has(tmp_path: Path) -> None:
    for method, more in {"lora": {"alpha": 8.0}, "lora-plus": {"alpha": 8.0, "rate_ratio": 16.0}}.items():
        own = study(tmp_path, method, train="rank: 4")
        assert described(own, own.hyperparameters({})).items() >= ({"rank": 4} | more).items()
    own = study(tmp_path, "vera", train="rank: 4")
    assert described(own, own.hyperparameters({})).keys() == own.identity()["train"].keys() | own.space.keys()


@pytest.mark.parametrize(
    ("method", "train", "space", "mistake"),
    [
        ("lora", "rate_ratio: 4.0", "", ":5: train.rate_ratio: lora has no rate_ratio"),
        ("vera", "", "alpha: [1.0]", ":6: space.alpha: vera has no alpha"),
        ("lora-plus", "rate_ratio: -1.0", "", ":5: train.rate_ratio: expected more than 0, got -1.0"),
        ("lora-plus", "", "rate_ratio: [2.0, 0.0]", r":6: space.rate_ratio[1]: expected more than 0, got 0.0"),
        ("lora-plus", "rate_ration: 4.0", "", ":5: train.rate_ration: unknown key; did you mean rate_ratio?"),
        (
            "verra",
            "start: 0.2",
            "",
            ":3: method: expected 'lora', 'qlora', 'ia3', 'lora-plus', 'vera', 'pissa' or 'rslora' (did you mean",
        ),
    ],
)
def test_its_mistakes_are_told_as_those_of_any_method(
    tmp_path: Path, method: str, train: str, space: str, mistake: str
) -> None:
    with pytest.raises(StudyFileError) as told:
        study(tmp_path, method, train, space)
    assert mistake in str(told.value)
    assert len(str(told.value).splitlines()) == 1


# One method beside others ---------------------------------------------------------------------------------------------


class RescaledHyperparameters(MethodHyperparameters):
    """Keys that other methods have, and one that all have, of other types, bounds and defaults."""

    rank: int = Field(default=256, ge=128)
    dropout: Literal["none", "half"] = "half"
    warmup: float = Field(default=0.5, gt=0.1)


class Rescaled(Lora):
    spec = MethodSpec("rescaled", RescaledHyperparameters)


@pytest.mark.parametrize("method", ["lora", "qlora", "ia3"])
def test_registering_a_method_changes_no_study_of_another(tmp_path: Path, method: str) -> None:
    space = "" if method == "ia3" else "rank: {low: 4, high: 16, log2: true}, dropout: {low: 0.0, high: 0.3, step: 0.1}"
    before = study(tmp_path, method, "weight_decay: 0.1", space)
    register(Rescaled)
    after = study(tmp_path, method, "weight_decay: 0.1", space)
    assert after == before and after.train == TrainConfig(weight_decay=0.1) and after.identity() == before.identity()
    assert distributions(after) == distributions(before) and candidates(after) == candidates(before)


def test_a_method_has_its_own_types_bounds_and_defaults(tmp_path: Path) -> None:
    register(Rescaled)
    own = study(tmp_path, "rescaled", space="rank: {low: 128, high: 512}, dropout: [none, half]")
    assert described(own, own.hyperparameters({})).items() >= {"rank": 256, "dropout": "half", "warmup": 0.5}.items()
    assert [params.model_dump()["dropout"] for params in candidates(own)] == ["none", "half"]
    drawn, reasons = given(own, {"rank": 200, "dropout": "none"})
    assert drawn == {"rank": 200, "dropout": "none"} and reasons == []
    with pytest.raises(StudyFileError) as told:
        study(tmp_path, "rescaled", space="rank: {low: 4, high: 512}, dropout: {low: 0.0, high: 0.3}")
    assert "space.rank.low: expected at least 128, got 4" in str(told.value)
    assert "space.dropout: takes no numbers, so it cannot have a range" in str(told.value)


@pytest.mark.parametrize("method", ["lora", "lora-plus", "vera", "rescaled"])
def test_a_trials_hyperparameters_can_be_sent_to_another_process(tmp_path: Path, method: str) -> None:
    register(Rescaled)
    params = study(tmp_path, method, "weight_decay: 0.1").train
    here, there = Pipe()
    here.send(params)
    again = there.recv()
    assert again == params and type(again) is type(params) and again.model_fields_set == {"weight_decay"}
