"""A user's own methods are registered, trained in a pack, compared with stock peft and rebuilt by it. The package has
no code for any of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from peftsweep import export
from peftsweep.config import SPECS, MethodSpec, StudyConfig, TrainConfig, load
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.config.hyperparameters.method_spec import MethodHyperparameters
from peftsweep.config.sections import train_config
from peftsweep.engine import Trial
from peftsweep.engine.packed_model import PackedModel
from peftsweep.errors import MethodError, ModelError, StudyFileError, UsageError
from peftsweep.export import Classifier
from peftsweep.methods import METHODS, Method, attached, register
from peftsweep.methods.lora import Lora, PackedLora
from peftsweep.models import linear_names
from peftsweep.study import best_rows
from peftsweep.study.enqueued import given
from peftsweep.study.grid import grid
from peftsweep.study.space import candidates, decode, described, distributions
from peftsweep.workers.spawned_worker import SpawnedWorker
from peftsweep.workers.worker import LocalWorker, StartWorker
from tests.numbers import distance, same, same_losses, same_values, same_weights
from tests.own_methods import LoraPlus, Pissa, RsLora, Vera
from tests.packs import SINGLE, Queue, Texts, base_of, pack_of, run_pack
from tests.stock_training import StockPeft
from tests.studies import home
from tests.tiny import tiny_model

BUILT_IN = tuple(METHODS)


@pytest.fixture(autouse=True)
def own_methods() -> Iterator[None]:
    for method in (LoraPlus, Vera, Pissa, RsLora):
        register(method)
    yield
    forget()


def forget() -> None:
    """Unregister the user's own methods, as if this process had not imported them."""
    for name in METHODS.keys() - set(BUILT_IN):
        del METHODS[name], SPECS[name]


# Trained ------------------------------------------------------------------------------------------------------------


def trials(folder: Path, method: str, **changes: Any) -> list[Trial]:
    """Two trials with different learning rates and batch sizes, and one that starts when a slot is free."""
    plans = [
        {"learning_rate": 2e-3, "batch_size": 8},
        {"learning_rate": 5e-3, "batch_size": 3},
        {"learning_rate": 5e-3, "weight_decay": 0.1},
    ]
    made = [train_config(method).model_validate({"epochs": 1, "rank": 4} | plan | changes) for plan in plans]
    return [Trial(i, 100 + i, params, folder / f"trial-{i}") for i, params in enumerate(made)]


class WithOwnRates(StockPeft):
    """A plain loop in which B has its own parameter group in the optimizer."""

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
    """The first step shows it."""
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
    """The method has released its base; the adapter is rebuilt on another copy."""
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
    packed = PackedModel(model, adapters, [params], 1, Texts(SINGLE, 4, 1).input_ids, Texts(SINGLE, 4, 1).input_ids)
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


def test_a_trial_records_the_hyperparameters_of_its_method(tmp_path: Path) -> None:
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
            ":3: method: expected 'lora', 'qlora', 'ia3', 'lora-plus', 'vera', 'pissa' or 'rslora' (did you mean vera?",
        ),
        ("mine", "", "", "got 'mine'; if it is a method of your own, import its module first"),
    ],
)
def test_mistakes_in_its_keys_are_reported_like_those_of_any_method(
    tmp_path: Path, method: str, train: str, space: str, mistake: str
) -> None:
    with pytest.raises(StudyFileError) as told:
        study(tmp_path, method, train, space)
    assert mistake in str(told.value)
    assert len(str(told.value).splitlines()) == 1


# One method beside others ---------------------------------------------------------------------------------------------


class RescaledHyperparameters(MethodHyperparameters):
    """Keys that other methods have, too, and one that all have, with other types, bounds and defaults."""

    rank: int = Field(default=256, ge=128)
    alpha: int = Field(default=8, ge=1)
    dropout: Literal["none", "half"] = "half"
    warmup: float = Field(default=0.5, gt=0.1)


class Rescaled(Lora):
    spec = MethodSpec("rescaled", RescaledHyperparameters)


@pytest.mark.parametrize("there", [METHODS["lora"], METHODS["ia3"], LoraPlus])
def test_no_method_takes_the_name_of_another(there: type[Method]) -> None:
    class Taker(Lora):
        spec = there.spec

    message = (
        f"Taker: the method '{there.name}' is {there.__module__}.{there.__name__} already; give yours a `spec` with"
    )
    with pytest.raises(UsageError, match=message):
        register(Taker)
    assert METHODS[there.name] is there and SPECS[there.name] is there.spec


def test_a_class_may_be_registered_again_and_defined_again() -> None:
    def cell() -> type[Lora]:
        @register
        class Mine(Lora):
            spec = MethodSpec("mine", RescaledHyperparameters)

        return Mine

    first, second = cell(), cell()
    assert first is not second and METHODS["mine"] is second and SPECS["mine"] is second.spec
    assert register(Lora) is Lora is METHODS["lora"]


@pytest.mark.parametrize("method", ["lora", "qlora", "ia3"])
def test_registering_a_method_changes_no_study_of_another(tmp_path: Path, method: str) -> None:
    space = "" if method == "ia3" else "rank: {low: 4, high: 16, log2: true}, dropout: {low: 0.0, high: 0.3, step: 0.1}"
    before = study(tmp_path, method, "warmup: 0.05", space)
    register(Rescaled)
    after = study(tmp_path, method, "warmup: 0.05", space)
    assert after == before and after.train == TrainConfig(warmup=0.05) and after.identity() == before.identity()
    assert distributions(after) == distributions(before) and candidates(after) == candidates(before)


def test_a_study_without_the_section_train_has_the_defaults_of_its_method(tmp_path: Path) -> None:
    register(Rescaled)
    for method, rank in {"lora": 16, "lora-plus": 16, "rescaled": 256}.items():
        own, file = study(tmp_path, method), tmp_path / "own.yaml"
        file.write_text(file.read_text().replace("train: {}\n", ""))
        assert load(file) == own and load(file).train.rank == rank and own.text() == load(file).text()


def test_a_method_has_its_own_types_bounds_and_defaults(tmp_path: Path) -> None:
    register(Rescaled)
    own = study(tmp_path, "rescaled", space="alpha: {low: 4, high: 6}, dropout: [none, half]")
    defaults = {"rank": 256, "dropout": "half", "warmup": 0.5, "alpha": 8}
    assert described(own, own.hyperparameters({})).items() >= defaults.items()
    assert [repr(params.alpha) + params.model_dump()["dropout"] for params in candidates(own)] == ["6none", "6half"]
    assert isinstance(distributions(own)["alpha"], IntDistribution) and grid(own)["alpha"] == [4, 5, 6]
    assert given(own, {"alpha": 5, "dropout": "none"}) == ({"alpha": 5, "dropout": "none"}, [])
    assert given(own, {"alpha": 4.5})[1] == ["alpha: expected 4 to 6, got 4.5"]
    assert repr(decode(own, {"alpha": 5})) == "{'alpha': 5}"
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


# What a method must keep to ------------------------------------------------------------------------------------------


class Needed(MethodHyperparameters):
    gain: float


class Endless(MethodHyperparameters):
    gain: float = math.inf


class Vast(MethodHyperparameters):
    gain: float | None = 1e39


class Mapped(MethodHyperparameters):
    gain: dict[str, int] = Field(default={})


class Counted(MethodHyperparameters):
    gain: tuple[int, ...] = (1,)


@pytest.mark.parametrize(
    ("hyperparameters", "mistake"),
    [
        (Needed, "gain: it needs a default"),
        (Endless, "gain: its default: expected a finite number"),
        (Vast, r"gain: its default: .* 3\.4e\+38, got 1e\+39"),
        (Mapped, "gain: its type must be bool, int, float, str, Literal, Names or a union of these"),
        (Counted, "gain: its type must be bool, int, float, str, Literal, Names or a union of these"),
    ],
)
def test_hyperparameters_that_cannot_be_stored_are_refused(
    hyperparameters: type[MethodHyperparameters], mistake: str
) -> None:
    with pytest.raises(UsageError, match=f"^method strange: hyperparameters: {mistake}$"):
        MethodSpec("strange", hyperparameters)


@pytest.mark.parametrize("name", ["", "a\nb", "lora ", "-lora", "a/b"])
def test_a_methods_name_is_a_word(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"method {name!r}: its name may have letters")):
        MethodSpec(name, LoraHyperparameters)


class Patterns(MethodHyperparameters):
    pattern: str = "[0-9]+"
    gain: int | float = 1


class Patterned(Lora):
    spec = MethodSpec("patterned", Patterns)


def test_a_searched_text_may_look_like_a_list_and_a_number_of_both_kinds_is_a_float(tmp_path: Path) -> None:
    register(Patterned)
    own = study(tmp_path, "patterned", space="pattern: ['[0-9]+', '[1, 2]'], gain: {low: 0.1, high: 0.9}")
    for choice in ("[0-9]+", "[1, 2]"):
        assert decode(own, {"pattern": choice}) == {"pattern": choice}
    assert distributions(own)["gain"] == FloatDistribution(0.1, 0.9)
    assert decode(own, {"gain": 0.5}) == {"gain": 0.5}


class ColonLayer(PackedLora):
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{name}:": shape for name, shape in super().shapes().items()}


class MistypedLayer(PackedLora):
    def start(self, *given: Any) -> dict[str, Tensor]:
        return {name.lower(): value for name, value in super().start(*given).items()}


class FlatLayer(PackedLora):
    def start(self, *given: Any) -> dict[str, Tensor]:
        return {name: value[:1] for name, value in super().start(*given).items()}


class MisratedLayer(PackedLora):
    own_rates = frozenset({"b"})


class FailingLayer(PackedLora):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("broken")


class Elsewhere(Lora):
    spec = MethodSpec("elsewhere", LoraHyperparameters)

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        return (*super().targets(params), "model.layers.9.mlp")


@pytest.mark.parametrize(
    ("layer", "error", "said"),
    [
        (ColonLayer, MethodError, "ColonLayer: shapes() names a parameter 'A:': use a Python identifier"),
        (MistypedLayer, MethodError, "MistypedLayer: start() gives a value for 'a', which shapes() does not name"),
        (
            FlatLayer,
            MethodError,
            "FlatLayer: start() gives a value for 'A' of shape (1, 64); its trial_part() has (4, ",
        ),
        (MisratedLayer, MethodError, "MisratedLayer: own_rates has 'b', which shapes() does not name"),
        (
            FailingLayer,
            ModelError,
            "with the layers of method own, cannot be run with texts in one row: ValueError: bro",
        ),
        (
            None,
            MethodError,
            "method elsewhere: targets() names 'model.layers.9.mlp', which is no linear layer of the base",
        ),
    ],
)
def test_a_method_that_breaks_a_rule_is_named_before_anything_trains(
    tmp_path: Path, layer: type[PackedLora] | None, error: type[Exception], said: str
) -> None:
    if layer is None:
        method: type[Lora] = Elsewhere
    else:
        method = type("Own", (Lora,), {"spec": MethodSpec("own", LoraHyperparameters), "packed_layer": layer})
    register(method)
    folder = tiny_model(tmp_path / "base", "llama")
    with pytest.raises(error, match=re.escape(said)):
        pack_of(folder, SINGLE, method.name, trials(tmp_path, method.name), slots=2)


def test_no_parameter_of_an_adapter_may_hide_another(tmp_path: Path) -> None:
    class Twice(Lora):
        spec = MethodSpec("twice", LoraHyperparameters)

        def to_peft(self, *given: Any) -> tuple[str, Tensor]:
            return "lora_A.weight", super().to_peft(*given)[1]

    register(Twice)
    folder = tiny_model(tmp_path / "base", "llama")
    model = base_of(folder, SINGLE, "lora").model
    writer, path = Twice(model, linear_names(model)), linear_names(model)[0]
    with pytest.raises(MethodError, match=rf"method twice: .* two tensors base_model.model.{path}.lora_A.weight"):
        pack_of(folder, SINGLE, "twice", trials(tmp_path, "twice"), slots=2)
    weights = {f"{path}:{name}": torch.ones(2, 2) for name in ("A", "B")}
    with pytest.raises(MethodError, match=rf"method twice: .* two tensors base_model.model.{path}.lora_A.weight"):
        writer.export(tmp_path / "adapter", weights=weights, params=TrainConfig(rank=2), source="base", revision=None)


# From a sweep to predictions ----------------------------------------------------------------------------------------

TEXTS = ["the joy and anger of it", "sadness", "was it for them", "joy", "and when there were words of anger"]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("method", "space", "start"),
    [
        ("vera", {"start": [0.1, 0.3], "rank": [4]}, LocalWorker),
        ("lora-plus", {"rate_ratio": [4.0, 16.0]}, SpawnedWorker),
    ],
)
def test_a_registered_method_is_swept_exported_and_rebuilt_by_stock_peft(
    tmp_path: Path, method: str, space: dict[str, list[float]], start: StartWorker
) -> None:
    here = home(tmp_path / "home")
    space = {"learning_rate": [1e-2, 5e-3], **space}
    result = here.run(here.study(method=method, space=space, search={"trials": 2}), start=start)
    assert result.counts == {"complete": 2}
    (row,) = best_rows.best(here.storage)
    assert row.method == method and row.params.keys() >= space.keys()
    for name in ("adapter", "merged"):  # stock peft loads each folder; its logits must equal the sweep's
        export.export("small", tmp_path / name, storage=here.storage, merge=name == "merged")
    found = Classifier(tmp_path / "adapter").predict(TEXTS)
    forget()
    assert best_rows.best(here.storage) == [row]
    again = Classifier(tmp_path / "merged").predict(TEXTS)
    assert [text.labels for text in again] == [text.labels for text in found]
    with pytest.raises(UsageError, match=f"study 'small' has the method '{method}', which is not registered here"):
        export.export("small", tmp_path / "again", storage=here.storage)
    with pytest.raises(UsageError, match=f"adapter has the method '{method}', which is not registered here"):
        Classifier(tmp_path / "adapter")
    with pytest.raises(StudyFileError, match=f":\\d+: method: expected 'lora', 'qlora'.* got '{method}'"):
        here.run(here.folder / "small.yaml")
