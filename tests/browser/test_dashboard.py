"""What does the page of `peftsweep compare` draw, and does it work with mouse, keyboard and phone?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

import peftsweep
from peftsweep import comparison, dashboard
from peftsweep.task import Task
from tests.browser.conftest import STUDIES
from tests.browser.watching import watched
from tests.made_studies import fill, predicted, storage
from tests.studies import Home, home

SECTIONS = ("leaderboard", "cost", "parameters", "classes", "significance", "studies")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def open_page(browser: Browser, swept: Home, **options: Any) -> Iterator[Page]:
    """Open the page that `run` wrote among the artifacts."""
    with watched(browser, **options) as page:
        page.goto((swept.folder / "artifacts" / "comparison.html").as_uri())
        expect(page.locator("html[data-ready]")).to_be_attached()
        yield page


@pytest.fixture(scope="module")
def page(browser: Browser, swept: Home) -> Iterator[Page]:
    """The page for tests that only look at it: to draw all its plots takes seconds."""
    with open_page(browser, swept) as page:
        yield page


def draw(page: Page) -> dict[str, Locator]:
    """All visible plots, by name. Each is drawn when it is scrolled near the screen."""
    plots = {}
    for plot in page.locator("[data-plot]:visible").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".main-svg").first).to_be_visible()
        plots[f"{plot.get_attribute('data-plot')} {plot.get_attribute('data-index')}"] = plot
    return plots


def texts(found: Locator) -> list[str]:
    return [text.strip() for text in found.all_inner_texts()]


def test_every_section_is_drawn(page: Page) -> None:
    for section in SECTIONS:
        expect(page.locator(f"#{section}").get_by_role("heading").first).to_be_visible()
    plots = draw(page)
    for plot in ("cost 0", "parameters 0"):
        expect(plots[plot].locator("path.point")).to_have_count(len(STUDIES))
    expect(plots["significance 0"].locator("path.point")).to_have_count(1)  # the difference of the second from the best
    expect(plots["classes 0"].locator(".heatmaplayer image")).to_have_count(1)
    expect(plots["classes 0"].locator(".xtick")).to_have_text(["anger", "joy", "sadness"])


ERRORS = "plot => plot.data.map((trace) => ['x', 'y'].map((axis) => [trace[axis], trace[`error_${axis}`]]))"


def test_marks_and_their_intervals_are_where_the_rows_say(page: Page, swept: Home) -> None:
    rows = comparison.compare(swept.storage)
    (pair,), score = rows.groups[0].pairs, {row.study: row for row in rows.leaders}
    plots = draw(page)
    (trace,) = plots["significance 0"].evaluate(ERRORS)
    (x,), bars = trace[0]
    assert x == pytest.approx(-pair.difference) and x <= 0  # the difference of the second from the best
    assert (x - bars["arrayminus"][0], x + bars["array"][0]) == pytest.approx((-pair.high, -pair.low))
    for plot in ("cost 0", "parameters 0"):
        found = [mark for _, (y, bars) in plots[plot].evaluate(ERRORS) if bars for mark in marks(y, bars)]
        wanted = [(row.macro_f1, *row.interval) for row in score.values() if row.interval is not None]
        assert sorted(found) == [pytest.approx(mark) for mark in sorted(wanted)]


def marks(values: list[float], bars: dict[str, list[float]]) -> list[tuple[float, float, float]]:
    """Each value with the bounds of its interval."""
    return [
        (value, value - minus, value + plus)
        for value, minus, plus in zip(values, bars["arrayminus"], bars["array"], strict=True)
    ]


def test_the_leaderboard_has_the_scores_of_the_best_trials(page: Page, swept: Home) -> None:
    best = {row.study: row for row in peftsweep.best(swept.storage)}
    for study, row in best.items():
        line = page.locator("#leaderboard tbody tr").filter(has=page.get_by_role("link", name=study))
        shown = texts(line.get_by_role("cell"))
        assert {f"{score:.3f}" for score in (row.macro_f1, row.micro_f1, row.accuracy, row.loss)} <= set(shown)
    (won,) = (name for name, row in best.items() if row.overall)
    expect(page.locator("#leaderboard tbody tr").first).to_contain_text(won)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_a_mark_for_each_of_its_trials(page: Page, swept: Home, name: str) -> None:
    study = optuna.load_study(study_name=name, storage=swept.storage)
    details = page.locator("details.study").filter(has=page.locator("summary", has_text=name))
    if details.get_attribute("open") is None:
        details.locator("summary").first.click()
    index = (details.get_attribute("id") or "").removeprefix("study-")
    plots = draw(page)
    expect(plots[f"trials {index}"].locator("path.point")).to_have_count(len(study.trials))
    evaluations = sum(len(trial.intermediate_values) for trial in study.trials)
    expect(plots[f"curves {index}"].locator("path.point")).to_have_count(evaluations)
    for place in range(2):  # two hyperparameters
        expect(plots[f"slice {index}.{place}"].locator("path.point")).to_have_count(len(study.trials))
    expect(plots[f"parallel {index}"].locator(".parcoords .y-axis")).to_have_count(3)  # both and the score
    complete = [trial.value for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    if len(complete) >= 4 and len(set(complete)) > 1:
        expect(plots[f"importance {index}"].locator(".bars path")).to_have_count(2)
    else:
        assert f"importance {index}" not in plots
        why = "do not differ" if len(complete) >= 4 else "importance is worth a look from 4 on"
        expect(details.get_by_text(why)).to_be_visible()


def test_a_header_sorts_by_mouse_and_by_keyboard(browser: Browser, swept: Home) -> None:
    with open_page(browser, swept) as page:
        table = page.locator("#leaderboard table")
        header = table.get_by_role("columnheader", name="Macro-F1").first
        scores = texts(table.locator("tbody tr").locator("td[data-sort] strong"))
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "descending")
        assert texts(table.locator("td[data-sort] strong")) == sorted(scores, reverse=True)
        page.keyboard.press("Enter")
        expect(header).to_have_attribute("aria-sort", "ascending")
        assert texts(table.locator("td[data-sort] strong")) == sorted(scores)
        table.get_by_role("columnheader", name="Method").get_by_role("button").press("Space")
        assert texts(table.locator("tbody tr td:nth-child(2)")) == ["ia3", "lora"]
        assert table.locator("[aria-sort]").count() == 1


# Which element has the focus, and whether an outline shows it
FOCUSED = """() => {
    const at = document.activeElement, style = getComputedStyle(at);
    return at === document.body ? null : [at.outerHTML.slice(0, 200), style.outlineStyle !== "none"];
}"""
FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, summary, [tabindex='0']")]
    .filter((one) => one.checkVisibility()).map((one) => one.outerHTML.slice(0, 200))"""


def tab_stops(page: Page) -> Iterator[tuple[str, bool]]:
    """The elements that the tab key reaches, from the top to the end of the page."""
    while True:
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found is None:
            return
        yield tuple(found)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, swept: Home) -> None:
    with open_page(browser, swept) as page:
        reached = list(islice(tab_stops(page), 500))
        assert [element for element, _ in reached] == page.evaluate(FOCUSABLE)
        assert [element for element, seen in reached if not seen] == []


def test_the_keyboard_opens_a_study(browser: Browser, swept: Home) -> None:
    with open_page(browser, swept) as page:
        name = texts(page.locator("#leaderboard tbody a"))[1]
        page.get_by_role("link", name=name).first.press("Enter")
        study = page.locator("details.study[open]")
        expect(study.locator(".title")).to_have_text([name])  # only this study
        expect(study.locator("summary").first).to_be_focused()
        expect(study.locator("[data-plot='trials'] .main-svg").first).to_be_visible()


WIDER = """() => [...document.querySelectorAll("main *")]
    .filter((one) => one.checkVisibility() && !one.closest(".scroll, .wide, svg"))
    .filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML)"""


@pytest.mark.parametrize("options", [PHONE, {}], ids=["phone", "laptop"])
def test_nothing_is_wider_than_the_screen(browser: Browser, swept: Home, options: dict[str, Any]) -> None:
    with open_page(browser, swept, **options) as page:
        draw(page)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) == 0
        assert page.evaluate(WIDER) == []


MODELS = {
    "qlora-mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "lora-gemma-3-270m": "google/gemma-3-270m",
    "ia3-smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
}
COLUMNS = {"Tuned macro-F1", "Retrained, mean ± sd", "Macro-F1, test split", "Complete / pruned / failed"}
LONG = {"parameters": 20_900_000, "adapter_bytes": 123_000_000, "seconds_per_trial": 3599.0, "seconds": 446_340.0}
LONG |= {"complete": 118, "pruned": 882, "failed": 12}

AGAIN = {"params": {}, "sampled": [], "picked": 0.7, "failed": 0, "behind": None, "test": None}


@pytest.fixture
def crowded_page(tmp_path: Path) -> Path:
    """A page whose leaderboard has every possible column, with long names and figures."""
    for seed, (name, model) in enumerate(MODELS.items()):
        study = fill(storage(tmp_path), name, trials=8, rows=60, seed=seed)
        study.set_user_attr("config", study.user_attrs["config"] | {"model": {"id": model}})
        study.set_user_attr("test", {"trial": 4, "scores": {"macro_f1": 0.7}})
        again = {"trial": 4, "seeds": 10, "macro_f1_mean": 0.69, "macro_f1_std": 0.012, "objective": "macro_f1"}
        study.set_user_attr("retrained", [AGAIN | again])
    rows = comparison.compare(storage(tmp_path)).as_dict()
    rows["leaders"] = [row | LONG for row in rows["leaders"]]
    (tmp_path / "page.html").write_text(dashboard.page(rows), encoding="utf-8")
    return tmp_path / "page.html"


def test_a_leaderboard_with_all_columns_fits_on_a_laptop(browser: Browser, crowded_page: Path) -> None:
    with watched(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(crowded_page.as_uri())
        board = page.get_by_role("region", name="Leaderboard, tweets")
        headers = {" ".join(text.split()) for text in texts(board.get_by_role("columnheader"))}
        assert headers >= COLUMNS and len(headers) == 14
        assert board.evaluate("board => board.scrollWidth - board.clientWidth") <= 0


def test_long_names_do_not_push_the_figures_out_of_sight(browser: Browser, tmp_path: Path) -> None:
    task, labels = Task("single-label", ("<b>" * 60, "\u05e9\u05dc\u05d5\u05dd")), np.arange(40) % 2
    for seed, name in enumerate(("s" * 190, "<i>other" * 20)):
        logits = np.random.default_rng(seed).normal(size=(40, 2)) + 2 * np.eye(2)[labels]
        predicted(storage(tmp_path), name, task, logits.astype(np.float32), labels)
    (tmp_path / "page.html").write_text(dashboard.page(comparison.compare(storage(tmp_path)).as_dict()), "utf-8")
    with watched(browser, viewport={"width": 1280, "height": 900}) as page:
        page.goto((tmp_path / "page.html").as_uri())
        for place in ("Pairs of studies", "Leaderboard, rows"):
            table = page.get_by_role("region", name=place)
            assert table.evaluate("table => table.scrollWidth - table.clientWidth") <= 0
        names = draw(page)["parameters 0"].locator(".textpoint text")
        assert all(name.bounding_box()["x"] + name.bounding_box()["width"] < 1280 for name in names.all())  # type: ignore[index]


def test_axe_finds_no_barriers(browser: Browser, swept: Home) -> None:
    """It checks, for example, the contrast of texts, the names of controls and the order of headings."""
    with open_page(browser, swept, color_scheme="light") as page:
        draw(page)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def brightness(place: Locator, of: str) -> float:
    """Mean brightness, from 0 to 255."""
    colour = place.evaluate(f"place => getComputedStyle(place).{of}")
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3


def test_the_page_follows_the_system_s_dark_mode_and_a_button_changes_it(browser: Browser, swept: Home) -> None:
    with open_page(browser, swept, color_scheme="dark") as page:
        body, tick = page.locator("body"), page.locator("#cost .xtick text").first
        page.locator("#cost [data-plot]").scroll_into_view_if_needed()
        assert brightness(body, "backgroundColor") < 60 and brightness(tick, "fill") > 120
        theme = page.locator("#theme")
        expect(theme).to_have_attribute("aria-pressed", "true")
        theme.click()
        expect(theme).to_have_attribute("aria-pressed", "false")
        assert brightness(body, "backgroundColor") > 200
        assert brightness(tick, "fill") < 130
        page.reload()
        expect(theme).to_have_attribute("aria-pressed", "false")  # the choice is remembered


def test_a_plot_that_cannot_be_drawn_says_so_and_does_not_stop_the_others(browser: Browser, tmp_path: Path) -> None:
    fill(storage(tmp_path), "one", trials=6, rows=60)
    page_text = dashboard.page(comparison.compare(storage(tmp_path)).as_dict())
    file = tmp_path / "page.html"
    file.write_text(page_text.replace('"cost 0":', '"lost":'), encoding="utf-8")
    with watched(browser) as page:
        page.goto(file.as_uri())
        expect(page.locator("html[data-ready]")).to_be_attached()
        expect(page.locator("#cost [data-plot]")).to_contain_text("This plot could not be drawn")
        plot = page.locator("[data-plot='parameters']")
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".main-svg").first).to_be_visible()


def test_all_choices_are_shown_as_they_are(browser: Browser, tmp_path: Path) -> None:
    fill(storage(tmp_path), "one", trials=12, rows=60)
    rows = comparison.compare(storage(tmp_path)).as_dict()
    place = next(i for i, axis in enumerate(rows["histories"][0]["axes"]) if axis["scale"] == "choice")
    rows["histories"][0]["axes"][place]["choices"][0] = "a & b"
    file = tmp_path / "page.html"
    file.write_text(dashboard.page(rows), encoding="utf-8")
    with watched(browser, viewport={"width": 1440, "height": 900}) as page:
        page.goto(file.as_uri())
        parallel, one = page.locator("[data-plot='parallel']"), page.locator(f"[data-index='0.{place}']")
        parallel.scroll_into_view_if_needed()
        expect(parallel.locator(".parcoords text", has_text="a & b")).to_have_count(1)
        one.scroll_into_view_if_needed()
        expect(one.locator(".xtick text")).to_have_text(["a & b", "cosine", "constan…h_warmup"])
        assert all(tick.is_visible() for tick in one.locator(".xtick text").all())


def test_a_study_without_a_trial_has_a_page_too(browser: Browser, tmp_path: Path) -> None:
    place = home(tmp_path / "home", rows=24)
    place.run(place.study(), timeout=0.0)
    with open_page(browser, place) as page:
        expect(page.get_by_text("No trial is complete yet").first).to_be_visible()
        expect(page.get_by_text("No trial has begun yet")).to_be_visible()
