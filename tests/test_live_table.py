"""The display of several workers and several studies: who trains what, on any screen, at little cost."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace

import pytest

from peftsweep.engine import SlotStatus
from peftsweep.progress import (
    EndedTrial,
    LiveProgress,
    OneOfSeveral,
    PlainProgress,
    Progress,
    SweepStatus,
    WorkerStatus,
    sweep_lines,
)
from peftsweep.progress.live_table import table
from peftsweep.sweep_state import SweepState
from tests.test_progress import OPENED, Clock, Terminal


def worker(number: int, slots: int, trials: int | None = None, node: str = "a") -> WorkerStatus:
    """A worker whose first `trials` slots have one."""
    trials = slots if trials is None else trials
    running = [SlotStatus(i, 100 * number + i, 63, 189, 0.5012, 0.71, 0.7249, 200.0) for i in range(trials)]
    return WorkerStatus(number, node, "cuda:0", [*running, *(SlotStatus(i) for i in range(trials, slots))])


def status(*workers: WorkerStatus) -> SweepStatus:
    return SweepStatus(workers, done=5, total=12, best=(3, 0.8116), eta=130.0)


def test_a_single_worker_is_not_named_whatever_machine_it_is_on() -> None:
    assert table([status(worker(0, 2, 1))], 24, "macro-F1") == [
        "slot   trial        step    loss   macro-F1    best   samples/s",
        "   0       0   63 of 189   0.501      0.710   0.725         200",
        "   1       -                                                   ",
    ]


def test_several_workers_have_a_line_each_and_their_slots_below() -> None:
    lines = table([status(worker(10, 1, node="b"), worker(2, 2, 1))], 24, "macro-F1")
    assert [line.rstrip() for line in lines] == [
        "slot   trial        step    loss   macro-F1    best   samples/s",
        "worker 2    1 of 2 slots   200 samples/s   cuda:0 of a",
        "   0     200   63 of 189   0.501      0.710   0.725         200",
        "   1       -",
        "worker 10   1 of 1 slots   200 samples/s   cuda:0 of b",
        "   0    1000   63 of 189   0.501      0.710   0.725         200",
    ]


def test_workers_share_the_lines_of_the_screen_and_empty_slots_are_left_out_first() -> None:
    lines = table([status(worker(0, 40, 3), worker(1, 2), worker(2, 40))], 24, "macro-F1")
    assert len(lines) == 1 + 3 + 14 + 1
    counts = [0]
    for line in lines[1:-1]:
        counts += [0] if line.startswith("worker") else []
        counts[-1] += not line.startswith("worker")
    assert counts == [0, 6, 2, 6] and lines[-1] == "and 68 more slots"
    assert [line.split()[1] for line in lines[2:8]] == ["0", "1", "2", "-", "-", "-"]


@pytest.mark.parametrize("height", [3, 10, 12, 24, 60, 500])
@pytest.mark.parametrize("workers", [1, 3, 448])
@pytest.mark.parametrize("studies", [1, 3])
def test_the_table_and_its_summaries_fit_on_every_screen_that_has_room_for_a_worker(
    height: int, workers: int, studies: int
) -> None:
    each = [status(*(worker(number, 8) for number in range(at, workers, studies))) for at in range(studies)]
    lines = table(each, height, "macro-F1")
    assert len(lines) + studies + 3 <= max(height, studies + 7)  # blank lines above, and the cursor's below
    named = sum(line.startswith("worker") for line in lines)
    if workers == 448 and height < 448:
        hidden = workers - named
        assert lines[-1] == f"and {hidden} more workers with {8 * hidden:,} slots"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def of_both(display: Progress) -> tuple[Progress, Progress]:
    """What two studies report to; both are opened."""
    one, two = OneOfSeveral(display, "one"), OneOfSeveral(display, "two")
    one.opened(replace(OPENED, study="one"))
    two.opened(replace(OPENED, study="two", objective="micro_f1"))
    return one, two


def drawn(terminal: Terminal) -> list[str]:
    """The lines since the last call."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    terminal.seek(terminal.truncate(0))
    return [line.strip() for line in text.splitlines()]


def test_several_studies_have_a_summary_each_and_the_lines_of_each_have_its_name(terminal: Terminal) -> None:
    clock = Clock()
    with LiveProgress(terminal, clock) as display:
        one, two = of_both(display)
        one.step(status(worker(0, 1)))
        drawn(terminal)
        clock.now += 1
        two.step(status(worker(1, 1), worker(2, 1)))
        lines = drawn(terminal)
        two.note("it goes on")
        two.ended(EndedTrial(8, "complete", 0.9, "all 189 steps", {}, 1.0))
        below = drawn(terminal)
    assert "worker 0   1 of 1 slots   200 samples/s   one   cuda:0 of a" in lines
    assert "worker 2   1 of 1 slots   200 samples/s   two   cuda:0 of a" in lines
    assert any(re.match(r"slot   trial .* score ", line) for line in lines)  # studies with different objectives
    best = "5 of 12 trials done · best macro-F1 0.812 (trial 3) · 2m10s left"
    assert f"one: {best} · 1 running · 200 samples/s" in lines
    assert f"two: {best.replace('macro', 'micro')} · 2 running on 2 workers · 400 samples/s" in lines
    assert {"two: it goes on", "two: trial 8 complete · micro-F1 0.900 (best) · all 189 steps · 1s"} <= set(below)


def test_a_worker_that_has_left_for_another_study_is_shown_once(terminal: Terminal) -> None:
    clock = Clock()
    with LiveProgress(terminal, clock) as display:
        one, two = of_both(display)
        one.step(status(worker(0, 1, 0), worker(1, 1)))
        clock.now += 1
        drawn(terminal)
        two.step(status(worker(0, 1)))
        lines = [line for line in drawn(terminal) if line.startswith("worker")]
    assert [(line.split()[1], line.split("samples/s")[1].split()[0]) for line in lines] == [("0", "two"), ("1", "one")]


def test_a_study_whose_sweep_has_ended_leaves_the_table(terminal: Terminal) -> None:
    clock = Clock()
    with LiveProgress(terminal, clock) as display:
        one, two = of_both(display)
        one.step(status(worker(0, 1)))
        clock.now += 1
        two.step(status(worker(1, 1)))
        drawn(terminal)
        one.left(SweepState.STOPPED)
        lines = drawn(terminal)
        two.left(SweepState.DONE)
    assert "one: stopped" in lines and drawn(terminal)[-1] == ""
    assert {line.partition(":")[0] for line in lines if "trials done" in line} == {"two"}


def test_several_studies_redraw_about_once_a_second_and_a_single_one_whenever_it_reports(terminal: Terminal) -> None:
    clock = Clock()
    with LiveProgress(terminal, clock) as display:
        one, two = of_both(display)
        drawn(terminal)
        times = []
        for tick in range(40):
            clock.now = 200 + tick / 10
            (one, two)[tick % 2].step(status(worker(tick % 2, 1)))
            times += [clock.now - 200] if drawn(terminal) else []
    assert len(times) == 5 and all(0.85 < b - a < 1.15 for a, b in itertools.pairwise(times)), times
    with LiveProgress(terminal, clock) as alone:
        alone.opened(OPENED)
        for _ in range(3):
            drawn(terminal)
            alone.step(status(worker(0, 1)))
            assert drawn(terminal)


def test_a_trial_is_the_best_of_its_own_study_only() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, hour=lambda: "12:34:56") as display:
        one, two = of_both(display)
        one.step(status(worker(0, 1)))
        for study, value in ((one, 0.7), (two, 0.7), (two, 0.6), (one, 0.9)):
            study.ended(EndedTrial(1, "complete", value, "", {}, 1.0))
    lines = [line.removeprefix("12:34:56 ") for line in stream.getvalue().splitlines() if " complete " in line]
    assert [line for line in lines if "(best)" in line] == [
        "two: trial 1 complete · micro-F1 0.700 (best) · 1s",
        "one: trial 1 complete · macro-F1 0.900 (best) · 1s",
    ]


def test_in_a_pipe_each_study_gets_its_line_with_the_number_of_its_workers() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock, lambda: "12:34:56") as display:
        one, two = of_both(display)
        clock.now += 6
        one.step(status(worker(0, 4), worker(1, 4), worker(2, 1, 0)))
        two.step(status(worker(3, 4)))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("12:34:56")]
    assert [re.findall(r"\d+ running[^·]*\b", line) for line in lines] == [["8 running on 2 workers"], ["4 running"]]
    assert [line.split()[1] for line in lines] == ["one:", "two:"]


def test_sums_over_thousands_of_slots_are_readable() -> None:
    whole = status(*(worker(number, 32) for number in range(448)))
    assert "14,336 running on 448 workers · 2,867,200 samples/s" in sweep_lines.summary(whole, "macro_f1")
