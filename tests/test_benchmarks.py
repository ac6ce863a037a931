"""Is the arithmetic of the benchmarks right, and do they report bad input? Figures need a GPU or an idle machine."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from math import nan
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState as OptunaState
from torch import nn

from peftsweep import export
from peftsweep.config import TrainConfig
from peftsweep.storage import Studies
from peftsweep.tracking import MlflowRuns, Outcome, StudySnapshot
from peftsweep.trial_state import TrialState
from tests.fork_server import Program
from tests.numbers import PROMISED
from tests.stored import evaluated, frozen_trial, record
from tests.studies import LABELS, ROOT, home
from tests.tiny import tiny_rows, write

FOLDER = ROOT / "benchmarks"
MODULES = [
    "throughput",
    "scaling",
    "plain_sweep",
    "sweeps",
    "cpu",
    "tracking",
    "predict",
    "timed_command",
    "gpus",
    "replay",
    "scale",
]


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The modules of the benchmarks, which import each other as scripts do."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: __import__(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("name", ["135m", "1b", "8b"])
def test_useful_work_counts_the_linear_layers_of_the_backbone(modules: dict[str, ModuleType], name: str) -> None:
    from transformers import AutoModel

    throughput = modules["throughput"]
    shape = throughput.SHAPES[name]
    with torch.device("meta"):
        model = AutoModel.from_config(throughput.llama(shape))
    sizes = {name: part.weight.numel() for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    last = {name: size for name, size in sizes.items() if name.startswith(f"layers.{shape.layers - 1}.")}
    behind = sum(size for name, size in last.items() if name.rpartition(".")[2] not in ("q_proj", "k_proj", "v_proj"))
    assert throughput.parameters(shape) == (sum(sizes.values()), behind)
    rates = {"tokens_per_second": 1e6, "samples_per_second": 4e4}
    needed = 4 * (sum(sizes.values()) - behind * 24 / 25) / 1e6
    assert throughput.useful_tflops(shape, rates) == pytest.approx(needed)


def test_texts_are_as_long_as_tweets_and_the_same_for_every_contestant(modules: dict[str, ModuleType]) -> None:
    setup = modules["throughput"].Setup("135m")
    lengths = [len(text) for text in setup.texts().input_ids]
    assert len(lengths) == 6838 and abs(sum(lengths) / len(lengths) - 27) < 0.5
    assert lengths == [len(text) for text in setup.texts().input_ids]


def test_the_pack_is_compared_with_each_rival_except_those_that_failed(modules: dict[str, ModuleType]) -> None:
    throughput = modules["throughput"]
    assert throughput.over_rivals({"plain": 10.0, "8 processes": 40.0, "pack": 400.0}) == {
        "pack_over_plain": 40.0,
        "pack_over_8_processes": 10.0,
    }
    assert throughput.over_rivals({"plain": 10.0, "pack": 400.0}) == {"pack_over_plain": 40.0}
    lines = list(throughput.table([{"base": "1b", "side": "plain", "error": "no room"}, {"base": "1b", "slots": 7}]))
    assert len(lines) == 3 and "samples/s" in lines[0] and lines[2].split() == ["1b", "7"]


def test_a_sweep_is_compared_by_the_epochs_that_its_trials_ran(modules: dict[str, ModuleType]) -> None:
    trials = [
        record(frozen_trial(0.5, evaluations=evaluated(0.4, 0.5, 0.5))),
        record(frozen_trial(None, evaluations=evaluated(0.4))),
    ]
    said = "time: 1m40s in this run · training 50.0% · evaluation 10.0% · checkpoints 15.0% · everything else 25.0%"
    row = modules["sweeps"].row_of("some", trials, 120.04, said)
    assert row["epochs"] == 4.0 and row["complete"] == row["pruned"] == 1
    assert row["seconds"] == 120.0 and row["best"] == trials[0].scores and row["study"] == "some"
    assert (row["training_seconds"], row["gpu_seconds"]) == (50, 60)
    beside = modules["sweeps"].beside_one_at_a_time(row, rows=1000, rate=10.0)  # 4,000 texts
    assert (beside["one_at_a_time_seconds"], beside["times"]) == (400, 3.3)
    assert (beside["one_at_a_time_rate"], beside["samples_per_second"]) == (10.0, 80.0)
    assert modules["sweeps"].training_seconds("time: 1h00m10s · training 10% · evaluation 0%")[0] == pytest.approx(361)


def test_the_chart_shows_every_curve(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    scaling, figures = modules["scaling"], tmp_path / "scaling.jsonl"
    assert set(scaling.CURVES) == {"slots", "rank", "length", "plain"}
    rows = [{"peak_tflops": 800, "device": "some GPU"}]
    for curve, changes in scaling.CURVES.items():
        for number, changed in enumerate(changes, start=2 if curve == "plain" else 10):
            row = {"curve": curve, "slots": 4, "rank": 16, "mean": 27.0}
            rows.append(row | {"samples_per_second": float(number), "useful_tflops": 8.0 * number} | changed)
    rows.append({"curve": "slots", "slots": 1024, "rank": 16, "mean": 27.0, "out_of_memory": True})
    figures.write_text("\n".join(map(json.dumps, rows)))
    axes = scaling.drawn([figures]).axes
    for axis, curve in zip(axes[:3], ("slots", "rank", "length"), strict=True):
        ours, loop = (line.get_ydata().tolist() for line in axis.lines)
        assert ours == [10.0 + i for i in range(len(scaling.CURVES[curve]))]
        alone = {"slots": [3.0] * len(ours), "rank": [nan, 3.0, nan, nan, nan], "length": [2.0, 3.0, 4.0, 5.0, 6.0]}
        assert loop == pytest.approx(alone[curve], nan_ok=True)  # 3 at 27 tokens; only measured at rank 16
    shares = axes[3].lines[0].get_ydata().tolist()
    assert shares == [100 * 8.0 * (10 + i) / 800 for i in range(len(shares))]
    assert axes[0].lines[0].get_xdata().tolist() == [change["slots"] for change in scaling.CURVES["slots"]]
    again = tmp_path / "again.jsonl"  # a single curve, measured again
    anew = [{"curve": "rank", "slots": 4, "rank": 8, "mean": 27.0, "samples_per_second": 99.0, "useful_tflops": 50.0}]
    again.write_text("\n".join(map(json.dumps, [{"peak_tflops": 500, "device": "another"}, *anew])))
    curves, cards = scaling.curves_of([figures, again])
    assert [(row["samples_per_second"], row["share"]) for row in curves["rank"]] == [(99.0, 10.0)]
    assert len(curves["slots"]) == len(scaling.CURVES["slots"]) and cards == "another, some GPU"
    scaling.drawn([again]).savefig(tmp_path / "scaling.png")  # a chart of a single curve works too
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_a_loop_counts_at_its_fastest_and_processes_over_the_same_time(modules: dict[str, ModuleType]) -> None:
    throughput = modules["throughput"]
    loop = throughput.of_stretches([(10, 270, 2.0), (30, 810, 3.0), (20, 540, 5.0)])
    assert loop == {
        "samples_per_second": 10.0,
        "tokens_per_second": 270.0,
        "mean_samples_per_second": 6.0,
        "mean_tokens_per_second": 162.0,
    }
    one = loop | {"slots": 1, "peak_gb": 3.0, "step_ms": 7.0}
    assert throughput.together([one, one | {"step_ms": 9.0}]) == {
        "samples_per_second": 12.0,
        "tokens_per_second": 324.0,
        "slots": 2,
        "peak_gb": 6.0,
        "step_ms": 9.0,
    }


def test_rates_count_the_texts_and_tokens_of_every_slot_s_step(modules: dict[str, ModuleType]) -> None:
    found = modules["throughput"].rates([np.array([0, 2]), np.array([1, 1, 1])], np.array([10, 20, 40]), 2.0)
    assert found == {"samples_per_second": 2.5, "tokens_per_second": (10 + 40 + 3 * 20) / 2}


def test_each_side_is_a_row_and_a_failure_keeps_the_others(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    throughput = modules["throughput"]
    seen = []

    def side(rate: float | None) -> Any:
        def measured(setup: Any) -> dict[str, float]:
            seen.append([len(text) for text in setup.texts().input_ids])
            if rate is None:
                raise RuntimeError("no room")
            return {"samples_per_second": rate, "tokens_per_second": 27 * rate}

        return measured

    sides = {"plain": side(10.0), "8 processes": side(None), "pack": side(400.0)}
    monkeypatch.setattr(throughput, "SIDES", sides)
    monkeypatch.setattr(throughput, "matmul_peak", lambda: 500.0)
    monkeypatch.setattr(throughput, "machine", lambda: {"device": "some GPU"})
    setup = throughput.Setup("1b")
    peak, plain, failed, pack = throughput.figures([setup], list(sides))
    assert (peak["tflops"], peak["device"]) == (500, "some GPU") and seen[0] == seen[1] == seen[2]
    assert failed["error"] == "RuntimeError: no room" and plain["samples_per_second"] == 10.0
    useful = throughput.useful_tflops(setup.shape, {"tokens_per_second": 27 * 400, "samples_per_second": 400})
    assert pack["useful_tflops"] == round(useful, 1) and pack["share_of_peak"] == round(useful / 500, 3)
    assert pack["pack_over_plain"] == 40.0 and "pack_over_8_processes" not in pack
    (row,) = list(throughput.figures([throughput.Setup("1b-bf16")], ["8 processes"]))[1:] or [None]
    assert row is None  # that base has no such row


def test_rates_on_a_cpu_count_only_steps_after_the_warm_up(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, clock = modules["cpu"], [0.0]
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    marks = cpu.Marks(SimpleNamespace(warmup=2, steps=3))
    for seconds in (9.0, 9.0, 1.0, 2.0, 3.0):
        clock[0] += seconds
        going_on = marks.step()
    assert not going_on and marks.rate(16) == 16 * 3 / 6
    found = cpu.ratios({cpu.PACK: [30.0, 40.0], "loop": [10.0, 20.0]})
    assert found == {"loop": [3.0, 2.0]}


def test_predictions_are_compared_round_by_round_and_padding_is_counted(modules: dict[str, ModuleType]) -> None:
    predict = modules["predict"]
    rates = {"ours": [30.0, 40.0, 50.0], "plain": [10.0, 20.0, 10.0], "pipeline": [15.0, 10.0, 50.0]}
    assert predict.ratios(rates) == {"plain": [3.0, 2.0, 5.0], "pipeline": [2.0, 4.0, 1.0]}
    assert predict.summary([3.0, 2.0, 5.0]) == {"median": 3.0, "min": 2.0, "max": 5.0}
    assert predict.padding([4, 2, 6, 3, 5], 2) == round(1 - 20 / (2 * 4 + 2 * 6 + 5), 3)
    ours, plain, pipeline = np.array([[0.1, 0.9]]), np.array([[0.12, 0.9]]), np.array([[0.1, 0.85]])
    assert predict.apart({"ours": ours, "plain": plain, "pipeline": pipeline}) == pytest.approx(0.05)


@pytest.mark.parametrize("single", [True, False])
def test_every_side_of_the_prediction_benchmark_gives_the_same_probabilities(
    modules: dict[str, ModuleType], tmp_path: Path, single: bool
) -> None:
    place, texts = home(tmp_path / "home"), ["joy and anger", "sadness", "and when there were words of anger " * 9] * 3
    several: dict[str, Any] = {} if single else {"labels": LABELS}
    for name, rows, seed in () if single else (("train", 48, 1), ("dev", 24, 2)):
        write(place.folder / f"{name}.csv", tiny_rows(LABELS, rows, seed))
    place.run(place.study(data=several), trials=1)
    export.export("small", tmp_path / "out", storage=place.storage)
    predict, classifier = modules["predict"], export.Classifier(tmp_path / "out")
    shares = {side: found(classifier, texts, 2) for side, found in predict.SIDES.items()}
    assert len(shares) == 3 and {found.shape for found in shares.values()} == {(9, 3)}
    assert predict.apart(shares) <= PROMISED[torch.float32].step
    assert (shares["ours"][0] != shares["ours"][1]).any()


def test_a_packs_rate_counts_only_steps_without_a_capture(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    throughput, clock = modules["throughput"], [0.0]
    monkeypatch.setattr(throughput.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    source = throughput.Timed(TrainConfig(), tmp_path, seconds=5.0, warm=2)
    source.graphs = SimpleNamespace(captured=1)
    going_on, took = True, [9, 9, 1, 4, 1, 4, 1, 4]  # seconds; a step that captures takes 4 or more
    steps = iter(took)
    while going_on:
        seconds = next(steps)
        source.graphs.captured += seconds > 1
        clock[0] += seconds
        going_on = source.goes_on()
    assert (
        source.steady == {2: 1, 4: 1, 6: 1} and source.ended - source.began == 11
    )  # longer than 5, because too few steps were steady
    assert (source.steps, source.captures) == (7, 2)
    setup = throughput.Setup("1b")
    rates = {"samples_per_second": 2.0, "steady_samples_per_second": 3.0, "slots": 4, "step_ms": 8.0}
    rates |= {"tokens_per_second": 1e6, "steady_tokens_per_second": 2e6, "steady_step_ms": 7.0}
    row = modules["scaling"].figures(setup, rates)
    useful = round(throughput.useful_tflops(setup.shape, {"tokens_per_second": 2e6, "samples_per_second": 3.0}), 1)
    assert row == {
        "samples_per_second": 3.0,
        "slots": 4,
        "tokens_per_second": 2e6,
        "step_ms": 7.0,
        "useful_tflops": useful,
    }


def test_runs_with_and_without_a_tracker_are_compared_round_by_round(modules: dict[str, ModuleType]) -> None:
    tracking = modules["tracking"]

    def took(seconds: float, writer: float, start: float) -> dict[str, Any]:
        costs = {
            "writer_cpu": writer,
            "start_cpu": start,
            "caller_cpu": 0.5,
            "end_seconds": 2.0,
            "drawing_seconds": 0.25,
        }
        return costs | {"seconds": seconds, "pack_seconds": seconds / 2, "cpu": 101.0, "level": True}

    usual = [took(seconds, 0.0, 0.0) for seconds in (10.0, 20.0, 40.0)]
    file = [took(seconds, 2.5, 1.0) for seconds in (11.0, 21.0, 48.0)]  # a machine that slows down affects both
    nothing, tracked = tracking.figures({tracking.NOTHING: usual, "a file": file})
    assert "added" not in nothing and nothing["seconds"] == 20.0 and nothing["rounds"] == 3
    assert (tracked["added"], tracked["added_to_pack"], tracked["added_range"]) == (0.1, 0.1, [0.05, 0.2])
    assert (tracked["cpu_share"], tracked["cpu_share_after_start"]) == (round(3 / 101, 5), 0.02)
    assert tracked["level"] and (tracked["end_seconds"], tracked["drawing_seconds"]) == (2.0, 0.25)


def test_drawing_the_comparison_is_timed_apart_from_writing_to_the_tracker(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    timed, (page, notes) = modules["tracking"].Timed, (tmp_path / "page.html", [])
    page.write_text("p")
    tracker = timed(MlflowRuns("http://127.0.0.1:9"), note=notes.append)
    before = timed.caller_cpu, timed.drawing_seconds

    def draw(tracker: Any) -> None:
        time.sleep(0.2)
        tracker.store_page("tweets", page)

    modules["tracking"].set_aside(draw)(tracker)
    tracker.close()
    assert timed.caller_cpu > before[0] and timed.drawing_seconds - before[1] >= 0.2
    assert timed.drawing_cpu < 0.1 and len(notes) == 2


def test_a_tracker_s_seconds_include_its_thread_and_its_calls(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    tracking = modules["tracking"]
    uri, costs = f"sqlite:///{tmp_path}/mlflow.db", {}
    for kind in (tracking.Untold, tracking.Timed):
        before = {name: getattr(tracking.Timed, name) for name in ("writer_cpu", "caller_cpu", "end_seconds")}
        tracker = kind(MlflowRuns(uri), note=print)
        tracker.open_study(StudySnapshot("demo", "tweets"))
        tracker.start_trial(0, params={}, tags={})
        for step in range(50):
            tracker.log(0, {"loss": 0.5}, step)
        tracker.end_trial(0, Outcome(TrialState.COMPLETE))
        tracker.close()
        assert (tmp_path / "mlflow.db").exists() == (kind is tracking.Timed)
        costs[kind] = {name: getattr(tracking.Timed, name) - value for name, value in before.items()}
    without, timed = costs[tracking.Untold], costs[tracking.Timed]
    assert without["writer_cpu"] == 0
    assert timed["writer_cpu"] > 0.05 and 0 < timed["caller_cpu"] < timed["writer_cpu"] and timed["end_seconds"] > 0.05
    assert 0 < tracking.Timed.start_cpu < tracking.Timed.writer_cpu


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweeps.py", "--train", "nosuch.tsv", "--validation", "nosuch.tsv"], "nosuch.tsv is not there"),
        (["sweeps.py", "--train", __file__, "--validation", __file__, "--model", "foo"], "expected STUDY=PLACE"),
        (["throughput.py", "--slots", "0"], "--slots: expected a number above 0"),
        (["throughput.py", "--batch", "0"], "--batch: expected whole numbers above 0"),
        (["scaling.py", "--draw", "nosuch.jsonl"], "nosuch.jsonl is not there"),
        (["tracking.py", "--rounds", "0"], "--rounds: expected a whole number of at least 1"),
        (["predict.py", "--rows", "0"], "--rows: expected a number above 0, got 0"),
        (["predict.py", "--adapter", "nosuch"], "nosuch is not there"),
        (["predict.py", "--input", __file__], "--input goes with --adapter"),
        (["cpu.py", "--train", "nosuch.tsv", "--validation", "nosuch.tsv"], "nosuch.tsv is not there"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    modules: dict[str, ModuleType],
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        modules[words[0].removesuffix(".py")].main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and said in err and out == ""


def test_they_say_that_they_need_a_gpu() -> None:
    with Program([str(FOLDER / "throughput.py")], ROOT, {"CUDA_VISIBLE_DEVICES": ""}) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "needs a GPU" in said and "Traceback" not in said


def test_the_steady_rate_leaves_out_the_beginning_and_the_end(modules: dict[str, ModuleType]) -> None:
    """Two trials of 1,000 steps of 8 samples: slow at first, then 2 x 80 samples a second, then slow again."""
    moments = [(20_000, 100), *((20_000 + 10_000 * i, 100 + 100 * i) for i in range(1, 9)), (200_000, 1000)]
    curve = [SimpleNamespace(at=at, step=step) for at, step in moments]
    trials = [SimpleNamespace(began=1, evaluations=curve) for _ in range(2)]
    steady_rate = modules["timed_command"].steady_rate
    assert round(steady_rate(trials, batch=8), 3) == 160.0 and steady_rate([], batch=8) == 0.0


def test_two_workers_are_compared_with_one_and_with_plain_loops(modules: dict[str, ModuleType]) -> None:
    def row(part: str, name: str, seconds: float, rate: float, value: float, **more: Any) -> dict[str, Any]:
        rates, values = {name: rate}, {name: {"0": value}}
        found = {"part": part, "run": name, "command_seconds": seconds, "steady_samples_per_second": rates}
        return found | {"values": values} | more

    loops = {"part": "loops", "run": "a", "samples_per_second": 100.0}
    rows = [row("one", "a", 100.0, 400, 0.5), row("two", "a", 50.0, 760, 0.51), loops, row("one", "b", 20.0, 1, 0.1)]
    rows += [row("kill", "a", 62.0, 700, 0.5), {"part": "pair", "run": "a + b", "command_seconds": 80.0}]
    rows += [row("nf4", "c", 9.0, 1, 1.0, cut="")]
    two, killed, pair, alone = modules["gpus"].comparisons(rows)
    found = {"times_the_rate": 1.9, "times_the_command": 2.0, "scores_apart": [0.01, 0.01]}
    assert two == {"compared": "a", "two_workers": found | {"rate_over_plain_loops": 7.6}}
    assert killed == {"compared": "a", "a_killed_worker": {"seconds_lost": 12.0, "scores_apart": [0.01, 0.01]}}
    assert pair == {"compared": "a + b", "both_at_once": {"one_after_the_other": 120.0, "times": 1.5}}
    assert alone == {"compared": "c", "two_workers": {}}


# Many workers and trials ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "halving", "mlflow", "artifacts"])
def test_simulated_workers_run_a_whole_sweep_and_lose_nothing(kind: str, tmp_path: Path) -> None:
    side = {"workers": 4, "trials": 30} | ({} if kind == "random" else {kind: True})
    one = {"url": f"sqlite:///{tmp_path}/studies.db", "folder": str(tmp_path), "side": side}
    with Program([str(FOLDER / "scale.py"), "--one", json.dumps(one)], tmp_path) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    assert (found["trials"], found["lost"], found["double"]) == (30, 0, 0)
    assert found["ms_per_trial"] == {} and found["evaluations_per_second"] > 0  # so few trials have no cost
    states = Counter(trial.state for trial in Studies(one["url"]).load("replayed").trials)
    assert states[OptunaState.COMPLETE] == 30 or kind == "halving"
    assert states[OptunaState.PRUNED] > 10 or kind != "halving"


def test_lost_and_double_trials_are_counted(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="one", storage=url)
    points = {"intermediate_values": dict.fromkeys(range(1, 7), 0.5)}
    study.add_trials([optuna.create_trial(value=0.5, **points) for _ in range(3)])
    assert modules["scale"].checked(url, judged=18) == {"trials": 3, "lost": 0, "double": 0}
    study.ask()  # never ended
    study.add_trial(optuna.create_trial(value=0.5, intermediate_values={1: 0.5}))
    assert modules["scale"].checked(url, judged=21) == {"trials": 5, "lost": 2, "double": 2}


def test_recorded_curves_are_thinned_out_to_the_evaluations_of_a_simulated_trial(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    names = ("macro_f1", "micro_f1", "accuracy", "jaccard", "loss")
    points = [{"index": i, **dict.fromkeys(names, i / 12)} for i in range(1, 13)]
    (tmp_path / "curves.json").write_text(json.dumps([{"evaluations": points}, {"evaluations": points[:3]}]))
    (curve,) = modules["replay"].recorded(tmp_path / "curves.json")
    assert [scores["macro_f1"] for scores in curve] == [i / 12 for i in (2, 4, 6, 8, 10, 12)]
    modelled = modules["replay"].modelled(7)
    assert len(modelled) == 6 and modelled == modules["replay"].modelled(7)
    assert modelled[0]["macro_f1"] < modelled[-1]["macro_f1"] <= 1


def test_a_rival_runs_its_share_of_trials_in_each_process(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    optuna.create_study(study_name="rival", storage=url, direction="maximize")
    begin, ready = threading.Event(), threading.Semaphore(0)
    begin.set()
    modules["scale"].rival_process(url, None, 3, begin, ready)
    assert modules["scale"].checked(url, judged=18) == {"trials": 3, "lost": 0, "double": 0}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # transformers warns about itself
def test_plain_loops_train_each_of_the_trials_once(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    plain, place, journal = modules["plain_sweep"], home(tmp_path), tmp_path / "journal"
    trials = [{"learning_rate": rate, "rank": rank} for rate, rank in ((1e-2, 2), (1e-3, 4), (1e-2, 4), (1e-9, 2))]
    study = place.study(search={"pruner": {"reduction": 2, "min_evals": 1}})
    made = plain.begun(study, [], trials, journal)
    plain.work(study, [], journal)
    found = [trial for trial in made.trials if plain.PARAMS in trial.user_attrs]
    assert [trial.user_attrs[plain.PARAMS] for trial in found] == trials
    assert OptunaState.COMPLETE in {trial.state for trial in found} <= {OptunaState.COMPLETE, OptunaState.PRUNED}
    assert all(len(trial.intermediate_values) == 4 for trial in found if trial.state == OptunaState.COMPLETE)
