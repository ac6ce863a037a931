"""The pages of docs/ build strictly, take their tables from the code, are true and fetch nothing from elsewhere."""

from __future__ import annotations

import html
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import Program
from tests.test_docs import BESIDE, COMMANDS, OPTIONS, PAGES, README, ROOT, examples, module, tables

links = module("links")


def build(source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build the pages as `make docs` does, into another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to)]
    alone = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=source, env=alone, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("site")
    built = build(ROOT, to)
    assert built.returncode == 0, built.stderr
    return to


def text_of(page: Path) -> str:
    """The page's text as a reader sees it, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))).split())


def test_every_page_is_built_and_can_be_searched(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    for page in PAGES:
        assert (site / page).with_suffix(".html").is_file()
        assert page.replace(".md", ".html") in index


@pytest.mark.parametrize("broken", ["[a page](nowhere.md)", "[a heading](study-file.md#nowhere)", "![](images/no.png)"])
def test_a_broken_link_fails_the_build(tmp_path: Path, broken: str) -> None:
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{broken}\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert "WARNING -  Doc file 'index.md' contains a link" in built.stderr


# From the code ------------------------------------------------------------------------------------------------------


def test_every_section_of_a_study_file_has_its_table() -> None:
    shown = re.findall(r"^<!-- keys: (\S+) -->$", PAGES["study-file.md"], re.MULTILINE)
    assert sorted(shown) == sorted(tables.sections())


@pytest.mark.parametrize("section", tables.sections())
def test_every_key_has_a_description_and_is_on_its_page(site: Path, section: str) -> None:
    seen = text_of(site / "study-file.html")
    for name, field in tables.sections()[section].model_fields.items():
        assert field.description, f"{section}.{name} has no docstring"
        if name not in tables.NOT_KEYS:
            assert " ".join(field.description.replace("`", "").split()) in seen, f"{section}.{name}"


def test_a_table_shows_the_allowed_values_and_the_default_of_each_key() -> None:
    train, data = tables.keys("train"), tables.keys("data")
    assert "| `warmup` | number, at least 0, less than 1 | `0.06` |" in train
    assert "| `optimizer` | `adamw`, `sgd` | `adamw` |" in train
    assert re.search(r"\| `rank` \| whole number, at least 1 \| `16` \| .* Only for lora and qlora\. \|", train)
    assert "| `labels` | text or list of names or keys and values | must be given |" in data
    assert "| `drop_duplicates` | true or false | `false` |" in data


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_is_on_the_page_of_commands(site: Path, command: str, option: Any) -> None:
    seen = text_of(site / "command-line.html")
    part = seen[seen.index(f"{COMMANDS[command].help} Usage:") :].split("Usage:")[1]
    assert (option.metavar if option.param_type_name == "argument" else option.opts[0]) in part
    assert " ".join(option.help.replace("`", "").split()) in part


# Figures and examples -----------------------------------------------------------------------------------------------


def test_the_measured_figures_of_the_page_on_packs_are_those_of_the_benchmarks() -> None:
    rows = re.findall(r"^\|.*×.*\|$", PAGES["pack.md"], re.MULTILINE)
    assert len(rows) == 3
    assert [row for row in rows if row not in BESIDE["benchmarks/README.md"]] == []
    (rates,) = re.findall(r"^[\d,]+(?:, [\d,]+){9}\.$", PAGES["pack.md"], re.MULTILINE)
    assert f"K of 1 to 512: {rates}" in BESIDE["benchmarks/notes.md"]


def test_the_readme_s_figures_are_those_of_the_benchmarks() -> None:
    measured = BESIDE["benchmarks/README.md"]
    rows = re.findall(r"^\| (.*) \| .* \| ([\d.]+) \| ([\d,]+) \((\d+) trials\) \| ([\d.]+)× \|$", README, re.MULTILINE)
    assert len(rows) == 4
    for base, loop, pack, slots, factor in rows[:3]:
        assert re.search(rf"^\| {base} \| {loop} \| .* \| {pack} \(K={slots}\) \| {factor}×", measured, re.MULTILINE)
    _, loop, pack, slots, factor = rows[3]
    assert slots == "8" and f"| pack of {slots} |" in measured
    row = rf"^\| 0\.0 \| [^|]* \| {loop} \([^|]* \| [^|]* \| [^|]* \| {pack} \([^|]* \| [\d.]+, {factor}, "
    assert re.search(row, measured, re.MULTILINE)


def test_the_benchmarks_headline_has_the_figures_of_their_tables() -> None:
    headline, _, tables_below = BESIDE["benchmarks/README.md"].partition("\n## Training on a GPU")
    measured = set(re.findall(r"[\d.,]*\d", tables_below + BESIDE["benchmarks/notes.md"]))
    rows = [line.split("|") for line in headline.splitlines() if line.endswith("` |")]
    assert len(rows) == 14
    for _, name, *figures, _, _, _ in rows:
        assert set(re.findall(r"[\d.,]*\d", " ".join(figures))) <= measured, name


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which all commands of the page on the first sweep were run, and what they printed."""
    folder, page = tmp_path_factory.mktemp("first") / "home", PAGES["first-sweep.md"]
    (folder / "sweeps").mkdir(parents=True)
    ((data,), (study,)) = examples("python", page), examples("yaml", page)
    commands = [["-c", data]]
    (folder / "sweeps" / "messages.yaml").write_text(study, encoding="utf-8")
    install, *blocks = examples("sh", page)
    assert "pip install -c constraints.txt '.[demo]'" in install
    for line in "".join(blocks).splitlines():
        program, *words = shlex.split(line)
        assert program == "peftsweep"
        commands.append(["-m", "peftsweep", *words])
    said = ""
    for words in commands:
        with Program(words, folder, stderr=subprocess.STDOUT) as running:
            out, _ = running.communicate()
        said += out
        assert running.returncode == 0, said
    return folder, said


@pytest.mark.timeout(900)  # it takes a minute, or more on a busy machine
def test_the_first_sweep_prints_what_its_page_says(swept: tuple[Path, str]) -> None:
    folder, said = swept
    assert "rows:    180 train · 60 validation" in said
    assert "677 k trained per trial" in said  # as the page on packs computes it
    assert "trials:  8 of 10 done" in said
    assert {"adapter_config.json", "adapter_model.safetensors", "peftsweep.json", "README.md", "tokenizer.json"} <= {
        file.name for file in (folder / "best-messages").iterdir()
    }
    labelled = (folder / "labelled.csv").read_text(encoding="utf-8").splitlines()
    assert labelled[0] == "text,label,predicted,probability_negative,probability_neutral,probability_positive"


# Nothing is fetched -------------------------------------------------------------------------------------------------


class Fetched(HTMLParser):
    """The addresses that a browser would fetch by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(at.get("src") or "")
        if tag == "link" and at.get("rel") not in ("prev", "next", "canonical"):
            self.found.append(at.get("href") or "")


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        assert fetched.found
        assert [address for address in fetched.found if re.match(r"(https?:)?//", address)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


# External links -----------------------------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        late = 200 if self.server.asked.count(self.path) > 1 else 502  # type: ignore[attr-defined]
        codes = {"/there": 200, "/gone": 404, "/not-for-programs": 403, "/broken": 500, "/shaken": late}
        self.send_error(codes[self.path])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        found.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=partial(found.serve_forever, poll_interval=0.05)).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_addresses_that_are_gone_or_do_not_answer_are_reported(server: str) -> None:
    assert links.answer(f"{server}/there") is None
    assert links.answer(f"{server}/not-for-programs") is None
    assert links.answer(f"{server}/gone") == "404 Not Found"
    assert links.answer(f"{server}/broken") == "500 Internal Server Error"
    assert links.answer(f"{server}/shaken") is None  # it answers the second request
    assert "refused" in links.answer("http://127.0.0.1:9/")


def test_addresses_are_found_in_the_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "See [it](https://example.invalid/a#b), <https://example.invalid>. Not http://127.0.0.1:5000, http://a.example:1."
    )
    assert links.addresses([page]) == ["https://example.invalid", "https://example.invalid/a#b"]
    assert links.main([page]) == 1
    assert "2 addresses, 2 wrong" in capsys.readouterr().out
    assert set(links.DOCUMENTS) == {
        ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "README.md", *BESIDE)
    } | {ROOT / "docs" / name for name in PAGES}
