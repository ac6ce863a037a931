"""What a person sees: plain lines, the live table, the tables of results."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peftsweep.engine import SlotStatus
from peftsweep.progress import (
    EndedTrial,
    LiveProgress,
    Opened,
    PlainProgress,
    Progress,
    Silent,
    Stage,
    SweepStatus,
    WorkerStatus,
    bar,
    best_table,
    for_stream,
    formats,
    next_step,
    peak_memory,
    result_lines,
    status_table,
    sweep_lines,
    sweep_result,
    time_spent,
    worker_loaded,
)
from peftsweep.study.best_rows import Best
from peftsweep.workers import Memory

OPENED = Opened(
    study="demo",
    model="owner/base",
    method="lora",
    parameters=22_713_216,
    trainable=(73_728, 294_912),
    slots=8,
    rows={"train": 1000, "validation": 500},
    device="cpu",
    dtype="float32",
    done=2,
    total=12,
    storage="sqlite:///studies.db",
    tracker="MLflow",
    tracking="sqlite:///mlflow.db",
)
PARAMS: dict[str, Any] = {"learning_rate": 3.1e-4, "rank": 16, "dropout": 0.05, "scheduler": "cosine"}
SLOTS = [SlotStatus(0, 7, 63, 189, 0.5012, 0.71, 0.7249, 206.4), SlotStatus(1)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def draw(
    progress: Progress,
    slots: list[SlotStatus] = SLOTS,
    best: tuple[int, float] | None = (3, 0.8116),
    eta: float | None = 130.0,
) -> None:
    progress.step(SweepStatus([WorkerStatus(0, None, "cpu", slots)], done=5, total=12, best=best, eta=eta))


@pytest.fixture(params=[LiveProgress, PlainProgress])
def kind(request: pytest.FixtureRequest) -> Callable[..., Progress]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_the_first_line_reports_what_was_loaded(kind: Callable[..., Progress], terminal: Terminal) -> None:
    with kind(terminal) as progress:
        progress.opened(OPENED)
    text = terminal.getvalue()
    assert "demo: lora on owner/base" in text
    assert "22.7 M parameters, 73.7 k to 295 k trained per trial · float32 on cpu" in text
    assert "1,000 train · 500 validation" in text
    assert "2 of 12 done · 8 at a time" in text


def test_a_pipe_gets_a_line_when_a_stage_begins_and_only_one_for_all_workers() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, hour=lambda: "12:34:56") as progress:
        progress.stage(Stage.DATA, "tweets")
        progress.stage(Stage.BASE, "owner/base", "demo")
        progress.stage(Stage.BASE, "owner/base", "demo")
    assert stream.getvalue() == "12:34:56 reading the data: tweets\n12:34:56 demo: loading the base: owner/base\n"


def test_on_a_terminal_a_stage_is_the_last_line_until_the_next_one_or_the_end(terminal: Terminal) -> None:
    with LiveProgress(terminal) as progress:
        progress.stage(Stage.DATA, "tweets")
        progress.note("3 texts dropped")
        progress.stage(Stage.BASE, "owner/base")
        before = terminal.tell()
        progress.opened(OPENED)
    shown = re.sub(r"\x1b\[[0-9;?]*[mhl]", "", terminal.getvalue()[:before])
    data, base, erase = "reading the data: tweets …", "loading the base: owner/base …", "\r\x1b[2K"
    assert shown == f"{data}{erase}3 texts dropped\n{data}{erase}{base}"
    assert terminal.getvalue()[before:].startswith(erase)


def test_the_stage_of_a_study_is_shown_below_the_table_of_others(terminal: Terminal) -> None:
    with LiveProgress(terminal) as progress:
        progress.opened(OPENED)
        draw(progress)
        progress.stage(Stage.BASE, "owner/base", "other")
        assert terminal.getvalue().endswith("206 samples/s\x1b[0m\n\x1b[2mother: loading the base: owner/base …\x1b[0m")


def test_planned_and_used_gpu_memory_are_reported_and_a_cpu_has_no_plan() -> None:
    memory = Memory(planned=int(61.2 * 2**30), whole=int(79.1 * 2**30), slots=40, tokens=32768)
    header = dict(sweep_lines.header(replace(OPENED, memory=memory)))
    assert header["memory"] == "plan 61.2 of 79.1 GiB: 40 slots, 32,768 tokens at once"
    assert peak_memory(memory, int(58.4 * 2**30)) == "memory: peak 58.4 of 79.1 GiB, planned 61.2"
    assert "memory" not in dict(sweep_lines.header(OPENED))


def test_each_of_several_workers_has_a_line_of_its_own() -> None:
    memory = Memory(planned=int(61.2 * 2**30), whole=int(79.1 * 2**30), slots=40, tokens=32768)
    header = dict(sweep_lines.header(replace(OPENED, memory=memory, alone=False)))
    assert header["trials"] == "2 of 12 done" and header["model"].endswith(" · float32") and "memory" not in header
    assert worker_loaded(1, 40, "cuda:1 of b", memory) == "worker 1: 40 slots on cuda:1 of b · 61.2 of 79.1 GiB planned"
    assert worker_loaded(0, 1, "cpu of a", None) == "worker 0: 1 slot on cpu of a"


def test_a_trial_that_ends_is_one_line(kind: Callable[..., Progress], terminal: Terminal) -> None:
    with kind(terminal) as progress:
        progress.opened(OPENED)
        progress.ended(EndedTrial(8, "pruned", 0.4123, "pruned at step 63 of 189", PARAMS, 14.2))
    line = "trial 8 pruned · its best macro-F1 0.412 · at step 63 of 189 · 14s · lr 3.1e-4 rank 16 dropout 0.05 cosine"
    assert line in terminal.getvalue()


def test_a_trial_is_called_the_best_when_it_beats_all_before_it(
    kind: Callable[..., Progress], terminal: Terminal
) -> None:
    with kind(terminal) as progress:
        draw(progress, best=(3, 0.80))
        for number, state, value in [
            (7, "complete", 0.79),
            (8, "pruned", 0.95),
            (9, "complete", 0.81),
            (10, "complete", 0.805),
        ]:
            progress.ended(EndedTrial(number, state, value, "all 189 steps", {}, 1.0))
        progress.ended(EndedTrial(11, "failed", None, "loss is nan at step 5", {}, 1.0))
    lines = terminal.getvalue().splitlines()
    assert [line.split("trial ")[1].split()[0] for line in lines if "(best)" in line] == ["9"]
    assert any("trial 11 failed · loss is nan at step 5 · 1s" in line for line in lines)


def test_notes_and_warnings_come_through_before_and_after(kind: Callable[..., Progress], terminal: Terminal) -> None:
    progress = kind(terminal)
    progress.note("[data] 3 texts dropped :+1:")
    with progress:
        progress.warn("the tracker is down")
        progress.closed()
    progress.warn("it still is")
    text = terminal.getvalue()
    assert "[data] 3 texts dropped :+1:" in text  # brackets and colons are plain text, not markup
    assert "the tracker is down" in text
    assert "it still is" in text


def test_the_live_table_shows_every_slot_and_the_state_of_things(terminal: Terminal) -> None:
    with LiveProgress(terminal) as progress:
        progress.opened(OPENED)
        draw(progress)
        text = terminal.getvalue()
    assert "   0       7   63 of 189   0.501      0.710   0.725         206" in text
    assert "   1       -" in text
    assert "5 of 12 trials done · best macro-F1 0.812 (trial 3) · 2m10s left · 1 running · 206 samples/s" in text


def test_the_live_table_keeps_within_the_screen(terminal: Terminal) -> None:
    with LiveProgress(terminal) as progress:
        progress.opened(OPENED)
        before = terminal.tell()
        draw(progress, [SlotStatus(i, trial=i, steps=9) for i in range(64)])
        drawn = terminal.getvalue()[before:]
    assert "and 47 more slots" in drawn
    assert drawn.count("\n") < 24


def lines_in_a_pipe(events: Iterator[tuple[float, list[SlotStatus]]], paced: float = 0.0) -> list[tuple[float, str]]:
    """The lines that are written to a pipe, and the second at which each is written. From `paced` on, the time left is
    known."""
    stream, clock = io.StringIO(), Clock()
    lines = []
    with PlainProgress(stream, clock, lambda: "12:34:56") as progress:
        for after, slots in events:
            clock.now = 100.0 + after
            draw(progress, slots, eta=130.0 if after >= paced else None)
            lines += [(after, line) for line in stream.getvalue().splitlines()]
            stream.seek(stream.truncate(0))
    return lines


def test_a_line_in_a_pipe_has_the_time_steps_evaluations_the_best_and_the_time_left() -> None:
    first, second = SlotStatus(0, 7, 63, 189, rate=206.4, evaluated=2, evaluations=6), SlotStatus(1)
    third = SlotStatus(1, 8, 32, 189, evaluated=1, evaluations=6)
    assert lines_in_a_pipe(iter([(20.0, [first, second]), (80.0, [first, third])])) == [
        (
            20.0,
            "12:34:56 5 of 12 trials done · best macro-F1 0.812 (trial 3) · 2m10s left"
            " · 1 running · step 63 of 189, evaluation 2 of 6 · 206 samples/s",
        ),
        (
            80.0,
            "12:34:56 5 of 12 trials done · best macro-F1 0.812 (trial 3) · 2m10s left"
            " · 2 running · 95 of 378 steps, 3 of 12 evaluations · 206 samples/s",
        ),
    ]


@pytest.mark.parametrize(("best", "text"), [(0.8, "0.800 (trial 3)"), (0.7, "0.730 (trial 7, running)")])
def test_the_best_so_far_may_be_a_trial_that_still_runs(best: float, text: str) -> None:
    running = WorkerStatus(0, None, "cpu", [SlotStatus(0, 7, 63, 189, best=0.73), SlotStatus(1, 8, 3, 189)])
    status = SweepStatus([running], done=5, total=12, best=(3, best), eta=None)
    assert f"5 of 12 trials done · best macro-F1 {text} · 2 running" == sweep_lines.summary(status, "macro_f1")


def test_a_pipe_gets_lines_at_evaluations_and_at_most_once_a_minute() -> None:
    def slots(step: int, evaluated: int) -> list[SlotStatus]:
        return [SlotStatus(0, 7, step, 10_000, evaluated=evaluated, evaluations=6)]

    often = [after for after, _ in lines_in_a_pipe(((float(s), slots(s, s // 25)) for s in range(1, 1001)), paced=45)]
    assert often[:5] == [1, 25, 50, 110, 170]  # training has begun; evaluations, soon a minute apart
    seldom = [after for after, _ in lines_in_a_pipe((float(s), slots(s, s // 300)) for s in range(1, 1001))]
    assert seldom == [1, 300, 600, 900]
    quiet = [after for after, _ in lines_in_a_pipe((float(s), slots(s, 0)) for s in range(1, 2000))]
    assert quiet == [1, 601, 1201, 1801]


def test_a_pipe_gets_a_last_line_when_all_trials_are_done() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock)
    for clock.now, done in [(100.0, 0), (110.0, 1), (120.0, 2), (130.0, 12), (131.0, 12)]:
        progress.step(SweepStatus([], done, 12, None, eta=130.0))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["0", "12"]  # the last one does not wait for its minute


def test_a_pipe_gets_lines_when_trials_end_by_their_first_evaluation() -> None:
    """A trial that has one evaluation, or is pruned at its first, never shows it in a slot."""
    stream, clock = io.StringIO(), Clock()
    progress, running = PlainProgress(stream, clock), SlotStatus(0, 7, 3, 9, evaluations=1)
    for clock.now in map(float, range(100, 300)):
        done = int(clock.now - 100) // 25
        progress.step(SweepStatus([WorkerStatus(0, None, "cpu", [running])], done, 12, None, eta=130.0))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["0", "2", "4", "7"]


def test_a_trial_that_ends_has_the_time_of_day_in_a_pipe() -> None:
    stream = io.StringIO()
    trial = EndedTrial(8, "pruned", 0.4123, "pruned at step 63 of 189", {}, 14.2)
    PlainProgress(stream, hour=lambda: "12:34:56").ended(trial)
    assert stream.getvalue() == "12:34:56 trial 8 pruned · its best macro-F1 0.412 · at step 63 of 189 · 14s\n"
    PlainProgress(stream).ended(trial)
    assert re.match(r"[0-2]\d:[0-5]\d:[0-5]\d trial 8", stream.getvalue().splitlines()[1])


def test_a_terminal_gets_the_table_and_everything_else_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(for_stream(terminal), LiveProgress)
    assert isinstance(for_stream(io.StringIO()), PlainProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(for_stream(terminal), PlainProgress)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert isinstance(for_stream(terminal), PlainProgress)


SCORES = {"macro_f1": 0.8116, "micro_f1": 0.81, "accuracy": 0.79, "loss": 0.52}


def row(study: str, fingerprint: str = "f1", **more: Any) -> Best:
    """A row of `best`."""
    found: dict[str, Any] = {
        "study": study,
        "data": "tweets · single-label",
        "fingerprint": fingerprint,
        "validation_fingerprint": fingerprint,
        "overall": False,
        "configurations": None,
        "objective": "macro_f1",
        "test": None,
        "tested": None,
        "tied": [],
        "labels": ["anger", "joy"],
    }
    found |= {"model": "owner/base", "method": "lora", "trial": 7, "params": PARAMS | {"epochs": 3}}
    found |= {"scores": SCORES, "step": 10}
    found |= {"sampled": list(PARAMS), "adapter": f"/{'long/' * 20}{study}/adapter", "mlflow_run_id": None}
    return Best(**found | more)


def shown(rows: list[Best]) -> list[str]:
    stream = Terminal()
    best_table(rows, stream)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"labels": ["joy", "anger"]}, "the same labels in another order; list data.labels in the same order"),
        ({"labels": ["anger", "fear", "love"]}, "other labels (only two has fear, love, only one has joy)"),
        ({}, "other validation rows (another file, filter, split or seed of the split)"),
        ({"data": "other · single-label", "labels": ["a", "b"]}, None),
    ],
)
def test_similar_studies_that_are_not_compared_say_why(more: dict[str, Any], why: str | None) -> None:
    lines = [line for line in shown([row("one"), row("two", "f2", **more)]) if "not compared" in line]
    assert lines == ([] if why is None else [f"two is not compared with one: {why}"])


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_the_best_of_each_study_can_be_read_and_copied_on_any_screen(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    there = tmp_path / "long" / "adapter"
    there.mkdir(parents=True)
    lines = shown([row("qlora-e5-mistral", overall=True, adapter=str(there)), row("lora")])
    assert "*  qlora-e5-mistral  lora    7      0.812     0.810     0.790     0.520" in lines
    assert f"  {there}" in lines
    assert f"  /{'long/' * 20}lora/adapter (not there)" in lines
    assert lines.count("  lr 3.1e-4 rank 16 dropout 0.05 cosine") == 2
    assert not any("tweets" in line for line in lines)


def test_studies_on_other_data_have_their_own_tables(terminal: Terminal) -> None:
    lines = shown([row("a", overall=True), row("b", "f2", data="news · multi-label", overall=True), row("c")])
    assert [line.split()[:2] for line in lines[:8] if line] == [
        *(["tweets", "·"], ["study", "method"], ["*", "a"], ["c", "lora"]),
        *(["news", "·"], ["study", "method"], ["*", "b"]),
    ]


def test_other_data_of_the_same_name_is_reported_separately(terminal: Terminal) -> None:
    lines = shown([row("a", "f1e5"), row("b", "02ac")])
    assert {"tweets · single-label · f1e5", "tweets · single-label · 02ac"} <= set(lines)


def test_silence_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with Silent() as progress:
        progress.opened(OPENED)
        progress.note("a")
        progress.warn("b")
        draw(progress)
        progress.ended(EndedTrial(1, "complete", 0.5, "", {}, 1.0))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (200, "3m20s"), (3599.7, "1h00m"), (3725, "1h02m")],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-4, "1e-4"), (3.14e-5, "3.1e-5"), (0.00999, "0.00999"), (0.1234, "0.123"), (32.0, "32")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert formats.number(value) == text


def test_amounts_have_a_unit() -> None:
    assert [formats.amount(n) for n in (980, 73_728, 22_713_216, 1_235_814_400)] == [
        "980",
        "73.7 k",
        "22.7 M",
        "1.24 B",
    ]


def test_an_unknown_time_left_is_not_shown() -> None:
    for eta in (None, math.inf):
        assert sweep_lines.summary(SweepStatus([], 0, 12, None, eta), "macro_f1") == "0 of 12 trials done · 0 running"


def test_lists_of_modules_read_as_one_word() -> None:
    assert formats.hyperparameters({"target_modules": ["q_proj", "v_proj"], "batch_size": 8}) == (
        "target modules q_proj,v_proj batch 8"
    )


def test_a_study_ends_with_its_counts_and_its_best(tmp_path: Path) -> None:
    counts, adapter = {"complete": 8, "pruned": 4, "failed": 0}, tmp_path / "trial-0007" / "adapter"
    best = "demo: 8 complete, 4 pruned · best macro-F1 0.812 (trial 7)"
    assert sweep_result("demo", counts, (7, 0.8123), str(adapter), "macro_f1") == f"{best} · its adapter is not there"
    adapter.mkdir(parents=True)
    assert sweep_result("demo", counts, (7, 0.8123), str(adapter), "macro_f1") == f"{best} · {adapter}"
    assert sweep_result("demo", {}, None, None, "macro_f1") == "demo: no trials"
    assert next_step("demo", str(tmp_path)) == "next: peftsweep best, or peftsweep export --study demo DEST"
    assert next_step("demo", str(tmp_path / "gone")) == next_step("demo", None) == "next: peftsweep best"


def test_the_report_says_what_the_time_was_spent_on() -> None:
    seconds = {"training": 90.0, "evaluation": 8.0, "checkpoints": 0.5, "source": 1.0, "other": 0.5}
    assert time_spent(120.0, (8.0, 117.0), seconds) == (
        "time: 2m00s in this run · starting 6.7% · training 75.0% · evaluation 6.7% · checkpoints 0.4% · ending 2.5%"
        " · everything else 8.7%"
    )
    assert time_spent(120.0, (8.0, 117.0), {"training": 270.0}, 3).startswith(
        "time: 2m00s in this run, of 3 workers the mean · starting 6.7% · training 75.0%"
    )
    rounded_up = {"training": 99.82, "evaluation": 0.06, "checkpoints": 0.06}
    assert time_spent(100.0, (0.06, 100.0), rounded_up).endswith(" · everything else 0.0%")


def test_tuned_scores_are_shown_beside_the_others_if_there_are_any() -> None:
    assert "tuned" not in shown([row("a")])[0]
    first, second = shown([row("a", scores=SCORES | {"macro_f1_tuned": 0.8466}), row("b")])[:2]
    assert first.split()[3:6] == ["macro-F1", "tuned", "macro-F1"] and "0.847" in second


def test_a_tuned_score_is_called_so_wherever_it_is_the_objective(
    kind: Callable[..., Progress], terminal: Terminal
) -> None:
    with kind(terminal) as progress:
        progress.opened(replace(OPENED, objective="macro_f1_tuned"))
        progress.ended(EndedTrial(8, "complete", 0.6123, "all 189 steps", {}, 1.0))
        line = sweep_lines.summary(
            SweepStatus([WorkerStatus(0, None, "cpu", SLOTS)], 5, 12, (3, 0.8116), None), "macro_f1_tuned"
        )
        draw(progress)
    lines = [line, *terminal.getvalue().splitlines()]
    lines += [sweep_result("a", {"complete": 1}, (7, 0.8), None, "macro_f1_tuned")]
    lines += [result_lines.test_score(7, {"macro_f1": 0.1, "macro_f1_tuned": 0.2}, "macro_f1_tuned")]
    table = io.StringIO()
    counts = dict.fromkeys(("complete", "pruned", "failed", "running", "stopped", "waiting"), 0)
    counts |= {"retrain": None, "state": None, "process": None, "done": 0, "total": None}
    for objectives in (["macro_f1_tuned"], ["macro_f1_tuned", "macro_f1"]):
        status_table([counts | {"study": o, "objective": o, "best": 0.7, "seconds": 1} for o in objectives], table)
    lines += table.getvalue().splitlines()
    scores = [line for line in lines if "macro-F1" in line]
    assert len(scores) >= 6 and all("tuned macro-F1" in line for line in scores), scores
    both = [line.split() for line in table.getvalue().splitlines()][-5:-2]
    assert both[0][5:9] == ["tuned", "macro-F1", "macro-F1", "time"]
    assert both[1][-2:] == both[2][-2:] == ["0.700", "1s"]


def test_a_bar_counts_on_a_terminal_and_disappears_at_the_end(terminal: Terminal) -> None:
    with bar(terminal, "texts", 1200) as done:
        done(700)
        done(500)
    assert "texts" in terminal.getvalue() and "1200/1200" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the bar's line is cleared


def test_a_bar_writes_nothing_to_a_pipe_or_a_file() -> None:
    pipe = io.StringIO()
    with bar(pipe, "texts", 2) as done:
        done(2)
    assert pipe.getvalue() == ""
