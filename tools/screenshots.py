"""Pictures of the dashboard for README and docs: the demo's tweets, swept by LoRA and by IA³, seen in Chromium.

python tools/screenshots.py    (minutes; what is swept already stays in build/screenshots; needs Debian's chromium)
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, Page, sync_playwright

import peftsweep
from peftsweep import progress
from peftsweep.sweep import compare

ROOT = Path(__file__).parents[1]
SWEPT, IMAGES = ROOT / "build" / "screenshots", ROOT / "docs" / "images"
LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
GENTLE = {"search.pruner.reduction": 2}  # half of the trials go on at each rung: more curves to see


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("needs chromium: apt-get install chromium")
    SWEPT.mkdir(parents=True, exist_ok=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(SWEPT):
        for study, trials in ((ROOT / "sweeps" / "demo.yaml", 24), (ia3(), 16)):
            peftsweep.run(study, trials=trials, overrides=GENTLE, progress=progress.for_stream(sys.stderr))
        page = compare().page.absolute()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        photograph(browser, page)
        browser.close()


def ia3() -> Path:
    """The demo's study with the other method, which has no rank, and wants higher rates."""
    study: dict[str, Any] = yaml.safe_load((ROOT / "sweeps" / "demo.yaml").read_text(encoding="utf-8"))
    space = {key: value for key, value in study["space"].items() if key not in ("rank", "dropout")}
    space["learning_rate"] = {"low": 3e-3, "high": 3e-2, "log": True}
    file = Path("demo-ia3.yaml")
    file.write_text(yaml.safe_dump(study | {"method": "ia3", "space": space}), encoding="utf-8")
    return file


def photograph(browser: Browser, dashboard: Path) -> None:
    for scheme in ("light", "dark"):
        page = opened(browser, dashboard, viewport=LAPTOP, color_scheme=scheme)
        page.screenshot(path=IMAGES / f"dashboard-{scheme}.png")
    page = opened(browser, dashboard, viewport=LAPTOP, color_scheme="light")
    page.locator("details.study[open]").evaluate("study => study.scrollIntoView({ behavior: 'instant' })")
    page.screenshot(path=IMAGES / "dashboard-study.png")
    page = opened(browser, dashboard, viewport=PHONE, device_scale_factor=2, color_scheme="light", is_mobile=True)
    page.screenshot(path=IMAGES / "dashboard-phone.png")


def opened(browser: Browser, dashboard: Path, **options: Any) -> Page:
    """The page with all plots drawn, seen from its top."""
    page = browser.new_context(**options).new_page()
    page.goto(dashboard.as_uri())
    for plot in page.locator("[data-plot]:visible").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
    page.wait_for_timeout(500)  # milliseconds: lines fade in
    page.evaluate("scrollTo(0, 0)")
    return page


if __name__ == "__main__":
    main()
