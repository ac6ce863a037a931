"""Fixtures: a browser, and a sweep to look at (two methods on the same data)."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.programs import free_port, program
from tests.studies import Home, home

expect.set_options(timeout=30_000)  # milliseconds; a busy machine draws slowly

# A decoder, because it learns in seconds; with these learning rates some trials learn and some do not
TRAIN = {"epochs": 8, "evals_per_epoch": 1}
RATE = {"low": 1e-3, "high": 3e-2, "log": True}
STUDIES: dict[str, dict[str, Any]] = {
    "small-lora": {"method": "lora", "space": {"learning_rate": RATE, "rank": [2, 4]}, "search": {"trials": 6}},
    "small-ia3": {
        "method": "ia3",
        "space": {"learning_rate": RATE, "warmup": [0.0, 0.1]},
        "search": {"trials": 6, "pruner": {"reduction": 2, "min_evals": 1}},
    },
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, so that Playwright downloads none."""
    chromium = program("chromium", package="chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def swept(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A swept folder. It asks for the browser first, so that nothing is swept where there is none."""
    place = home(tmp_path_factory.mktemp("browser") / "home", "llama", rows=96)
    for name, study in STUDIES.items():
        place.run(place.study(name, train=TRAIN, **study))
    return place


@pytest.fixture(scope="session")
def ui(swept: Home) -> Iterator[str]:
    """The address that `peftsweep ui` prints."""
    server = swept.start("ui", "--port", str(free_port()))
    assert server.stdout is not None
    try:
        printed = re.search(r"http://\S+", server.stdout.readline())
        assert printed, server.communicate()
        yield printed[0]
    finally:
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (0, "")
