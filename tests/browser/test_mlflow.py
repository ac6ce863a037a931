"""What a person sees who runs `peftsweep ui` and opens the address."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Locator, Page, expect

import peftsweep
from peftsweep.study.best_rows import Best
from tests.browser.watching import watched
from tests.studies import Home

PARENTS = ["small-ia3", "small-lora"]


def open_runs(page: Page, ui: str) -> None:
    page.goto(ui)
    expect(page.get_by_role("link", name=re.compile("^small-"))).to_have_text(PARENTS)


def open_run(page: Page, ui: str, best: Best) -> None:
    """Open the best trial's run from the list, as a person does."""
    open_runs(page, ui)
    unfold(page, best.study)
    page.get_by_role("link", name=f"trial-{best.trial:04d}").click()


def unfold(page: Page, study: str) -> None:
    page.get_by_role("row").filter(has=page.get_by_role("link", name=study)).get_by_role("button").click()


def names(page: Page) -> Locator:
    return page.get_by_role("row").get_by_role("link", name=re.compile("^(small|trial)-"))


def best_of(swept: Home, study: str) -> Best:
    (row,) = peftsweep.best(swept.storage, [study])
    return row


def test_the_address_opens_at_the_runs_and_the_trials_are_nested_under_their_study(browser: Browser, ui: str) -> None:
    with watched(browser) as page:
        open_runs(page, ui)
        expect(names(page)).to_have_text(PARENTS)
        unfold(page, "small-lora")  # the last in the list
        expect(names(page)).to_have_count(2 + 6)
        ia3, lora, *trials = names(page).all_inner_texts()
        assert [ia3, lora] == PARENTS and sorted(trials) == [f"trial-{number:04d}" for number in range(6)]
        expect(page.get_by_text("15 matching runs")).to_be_visible()


def test_a_trial_shows_its_scores_and_its_curve(browser: Browser, ui: str, swept: Home) -> None:
    best = best_of(swept, "small-lora")
    with watched(browser) as page:
        open_run(page, ui, best)
        score = str(best.macro_f1).removesuffix(".0")
        expect(page.get_by_role("row", name=f"best_macro_f1 {score}", exact=True)).to_be_visible()
        expect(page.get_by_role("row", name=f"rank {best.params['rank']}", exact=True)).to_be_visible()
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_placeholder("Search metric charts").fill("^macro_f1")
        expect(page.locator(".js-plotly-plot")).to_have_count(1)
        expect(page.locator(".js-plotly-plot path.point")).to_have_count(8)  # one for each evaluation
        expect(page.get_by_text(f"trial-{best.trial:04d} (macro_f1)")).to_be_visible()


def test_a_trial_shows_its_confusion_matrix(browser: Browser, ui: str, swept: Home) -> None:
    with watched(browser) as page:
        open_run(page, ui, best_of(swept, "small-ia3"))
        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("confusion_matrix.png").click()
        picture = page.get_by_role("img", name="confusion_matrix.png")
        picture.wait_for()
        assert picture.evaluate("picture => picture.naturalWidth") > 300


def test_the_dashboard_is_drawn_in_the_artifact_view(browser: Browser, ui: str) -> None:
    with watched(browser) as page:
        open_runs(page, ui)
        page.get_by_role("link", name="comparison").click()
        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("comparison.html").first.click()
        frame = page.frame_locator("iframe[sandbox='allow-scripts']")
        expect(frame.get_by_role("heading", name="Leaderboard")).to_be_visible()
        expect(frame.locator("html[data-ready]")).to_be_attached()
        expect(frame.locator("#leaderboard tbody tr")).to_have_count(2)
        frame.get_by_role("link", name="Cost").click()  # a link in the page opens in the same frame
        expect(frame.locator("#cost path.point")).to_have_count(2)
        frame.get_by_role("button", name="Dark").click()  # the frame may not store the choice
        expect(frame.locator("#theme")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("tab", name="Artifacts")).to_be_visible()
