"""The benchmarks' own arithmetic, and what they say to bad input; their figures need a GPU or a quiet machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from torch import nn

from peftsweep.config import TrainConfig
from tests.studies import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks, which import each other as scripts do."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: __import__(name) for name in ("throughput", "scaling", "sweeps", "cpu")}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("name", ["135m", "1b", "8b"])
def test_useful_work_counts_the_linear_layers_of_the_backbone(modules: dict[str, ModuleType], name: str) -> None:
    from transformers import AutoModel

    throughput = modules["throughput"]
    shape = throughput.SHAPES[name]
    with torch.device("meta"):
        model = AutoModel.from_config(throughput.llama(shape))
    linear = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    assert throughput.parameters(shape) == linear
    assert throughput.useful_tflops(shape, {"tokens_per_second": 1e6}) == pytest.approx(4 * linear / 1e6)


def test_texts_are_as_long_as_tweets_and_the_same_for_all_sides(modules: dict[str, ModuleType]) -> None:
    setup = modules["throughput"].Setup("135m")
    lengths = [len(text) for text in setup.texts().input_ids]
    assert len(lengths) == 6838 and abs(sum(lengths) / len(lengths) - 27) < 0.5
    assert lengths == [len(text) for text in setup.texts().input_ids]


def test_the_pack_is_compared_with_each_rival_and_a_failed_one_is_left_out(modules: dict[str, ModuleType]) -> None:
    throughput = modules["throughput"]
    assert throughput.over_rivals({"plain": 10.0, "8 processes": 40.0, "pack": 400.0}) == {
        "pack_over_plain": 40.0,
        "pack_over_8_processes": 10.0,
    }
    assert throughput.over_rivals({"plain": 10.0, "pack": 400.0}) == {"pack_over_plain": 40.0}
    lines = list(throughput.table([{"base": "1b", "side": "plain", "error": "no room"}, {"base": "1b", "slots": 7}]))
    assert len(lines) == 3 and "samples/s" in lines[0] and lines[2].split() == ["1b", "7"]


def test_a_sweep_is_compared_by_the_epochs_that_its_trials_trained(modules: dict[str, ModuleType]) -> None:
    study = optuna.create_study(study_name="some", direction="maximize")
    scores = {"macro_f1": 0.5, "micro_f1": 0.6}
    for epochs, state in ((3.0, TrialState.COMPLETE), (0.5, TrialState.PRUNED)):
        attrs = {"evaluations": [{"epoch": 0.5}, {"epoch": epochs}], "scores": scores}
        value = 0.5 if state is TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, user_attrs=attrs))
    row = modules["sweeps"].row_of(study, 12.34, "time: 10s")
    assert row["epochs"] == 3.5 and row["complete"] == row["pruned"] == 1
    assert row["seconds"] == 12.3 and row["best"] == scores and row["study"] == "some"


def test_the_picture_shows_every_curve(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    scaling, figures = modules["scaling"], tmp_path / "scaling.jsonl"
    rows = [{"peak_tflops": 800, "device": "some GPU"}]
    row = {"slots": 4, "rank": 16, "mean": 27.0, "samples_per_second": 10.0, "useful_tflops": 80.0}
    for curve, changes in scaling.CURVES.items():
        rows += [{"curve": curve} | row | changed for changed in changes]
    rows.append({"curve": "slots", "slots": 1024, "rank": 16, "mean": 27.0, "out_of_memory": True})
    figures.write_text("\n".join(map(json.dumps, rows)))
    scaling.draw([figures], tmp_path / "scaling.png")
    once = (tmp_path / "scaling.png").read_bytes()
    assert len(once) > 10_000 and set(scaling.CURVES) == {"slots", "rank", "length", "plain"}
    again = tmp_path / "again.jsonl"  # one curve, measured anew
    faster = [{"curve": "rank"} | row | changed | {"samples_per_second": 99.0} for changed in scaling.CURVES["rank"]]
    again.write_text("\n".join(map(json.dumps, [rows[0], *faster])))
    scaling.draw([figures, again], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes() != once


def test_a_packs_rate_is_that_of_the_steps_in_which_nothing_was_captured(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    throughput, clock = modules["throughput"], [0.0]
    monkeypatch.setattr(throughput.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    source = throughput.Timed(TrainConfig(), tmp_path, seconds=5.0, warm=2)
    source.graphs = SimpleNamespace(captured=1)
    going_on, took = True, [9, 9, 1, 4, 1, 4, 1, 4]  # seconds; what takes four captures
    steps = iter(took)
    while going_on:
        seconds = next(steps)
        source.graphs.captured += seconds > 1
        clock[0] += seconds
        going_on = source.stepped((), seconds)
    assert source.steady == {2: 1, 4: 1, 6: 1} and source.ended - source.began == 11  # not 5: too little was steady
    assert (source.steps, source.captures) == (7, 2)
    setup = throughput.Setup("1b")
    rates = {"samples_per_second": 2.0, "steady_samples_per_second": 3.0, "slots": 4}
    rates |= {"tokens_per_second": 1e6, "steady_tokens_per_second": 2e6}
    row = modules["scaling"].figures(setup, rates)
    useful = round(throughput.useful_tflops(setup.shape, {"tokens_per_second": 2e6}), 1)
    assert row == {"samples_per_second": 3.0, "slots": 4, "tokens_per_second": 2e6, "useful_tflops": useful}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweeps.py", "--train", "nosuch.tsv", "--validation", "nosuch.tsv"], "nosuch.tsv is not there"),
        (["sweeps.py", "--train", __file__, "--validation", __file__, "--model", "foo"], "expected STUDY=PLACE"),
        (["throughput.py", "--slots", "0"], "--slots: expected a number above 0"),
        (["throughput.py", "--batch", "0"], "--batch: expected whole numbers above 0"),
        (["scaling.py", "--draw", "nosuch.jsonl"], "nosuch.jsonl is not there"),
        (["cpu.py", "--train", "nosuch.tsv", "--validation", "nosuch.tsv"], "nosuch.tsv is not there"),
    ],
)
def test_bad_input_is_told_in_a_line_before_anything_is_measured(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, FOLDER / words[0], *words[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_without_a_gpu_they_say_so() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "throughput.py"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "needs a GPU" in done.stderr and "Traceback" not in done.stderr
