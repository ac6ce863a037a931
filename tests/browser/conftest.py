"""A browser, and a sweep to look at: two methods on the same data."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.programs import program
from tests.studies import Home, free_port, home


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: none is downloaded."""
    chromium = program("chromium", package="chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def swept(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """After the browser: where there is none, nothing is swept."""
    place = home(tmp_path_factory.mktemp("browser") / "home")
    rate = {"low": 1e-3, "high": 2e-2, "log": True}
    spaces = {"lora": {"learning_rate": rate, "rank": [2, 4]}, "ia3": {"learning_rate": rate, "warmup": [0.0, 0.1]}}
    for method, space in spaces.items():
        place.run(place.study(f"small-{method}", method=method, space=space, search={"trials": 4}))
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
