"""Do the documents match the code: commands, options, examples, links?"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import torch
import typer.main
import yaml
from transformers import AutoTokenizer

import peftsweep
from peftsweep.cli import app
from peftsweep.config import available, load
from peftsweep.engine.messages import Command, Event
from tests.fork_server import Program
from tests.numbers import same_values
from tests.stock_training import in_full
from tests.studies import LABELS, Home, home

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
BESIDE = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("docker/README.md", "benchmarks/README.md", "benchmarks/notes.md")
}
DOCUMENTS = {"README.md": README, **PAGES, **BESIDE}
OWN = {"topics", "messages", "NAME"}  # studies that a reader writes
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


OPTIONS = [(name, option) for name, command in COMMANDS.items() for option in command.params]


def module(name: str) -> Any:
    """Import a file of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


tables = module("tables")


def examples(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_starts_with_the_two_commands() -> None:
    commands = re.findall(r"^    (\w.*?)(?:  #.*)?$", README, re.MULTILINE)
    assert [command.strip() for command in commands[:2]] == ["make demo", "make test"]


def test_the_readme_lists_exactly_the_commands() -> None:
    table = re.findall(r"^\| `peftsweep (\w+)[A-Z ]*` \|", README, re.MULTILINE)
    assert table == list(COMMANDS)


def commands_shown(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that a text shows, in a block or in a sentence, with the words after it."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4})?(?:[A-Z_]+=\S+ |docker .* worker )*(peftsweep .*?)(?:  #.*)?$", text, re.MULTILINE)
    for line in blocks + re.findall(r"`(peftsweep [^`]*)`", text):
        words = shlex.split(line)
        if words[1] in ("--help", "--version"):
            continue
        yield words[1], words[2:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_and_options_shown_exist(document: str) -> None:
    for command, words in commands_shown(DOCUMENTS[document]):
        assert command in COMMANDS
        known = {name for option in COMMANDS[command].params for name in option.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, f"peftsweep {command} {' '.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_studies_shown_exist(document: str) -> None:
    known = OWN | set(available([ROOT / "sweeps"]))
    for command, words in commands_shown(DOCUMENTS[document]):
        named = {after for word, after in pairwise(words) if word == "--study"}
        assert named <= known, f"peftsweep {command}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_options_named_in_a_sentence_exist(document: str) -> None:
    known = {name for _, option in OPTIONS for name in option.opts} | {"--help", "--version"}
    assert set(re.findall(r"`(--[a-z][a-z-]*)", DOCUMENTS[document])) <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_keys_named_exist(document: str) -> None:
    text = DOCUMENTS[document]
    for name in re.findall(r"(?:`|--set )((?:model|data|train|space|search)(?:\.[a-z_0-9]+)+)", text):
        if name not in ("train.csv", "train.tsv"):
            assert is_key(name), name


def is_key(name: str) -> bool:
    section, _, key = name.rpartition(".")
    known = tables.sections()
    return name in known or (section in known and key in known[section].model_fields)


@pytest.mark.parametrize("page", ["command-line.md", "study-file.md"])
def test_the_tables_match_the_code(page: str) -> None:
    assert PAGES[page].count(tables.END) == len(re.findall(tables.PLACE, PAGES[page])) > 0
    assert tables.renewed(PAGES[page]) == PAGES[page], "make tables writes them again"


@pytest.mark.parametrize("document", PAGES)
def test_the_study_files_shown_load(document: str, tmp_path: Path) -> None:
    """Fragments are completed with the study file in the README."""
    (whole,) = map(yaml.safe_load, examples("yaml"))
    for number, text in enumerate(examples("yaml", PAGES[document])):
        part = yaml.safe_load(text)
        fixed = {key: value for key, value in whole.get("train", {}).items() if key not in part.get("space", {})}
        file = tmp_path / f"study-{number}.yaml"
        several = part.get("search", {}).get("objective") == "macro_f1_tuned"
        labels = {"data": whole["data"] | {"labels": ["anger", "joy"]}} if several else {}
        file.write_text(yaml.safe_dump(whole | {"train": fixed} | labels | part), encoding="utf-8")
        load(file)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_environment_variables_named_are_read(document: str) -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "peftsweep").rglob("*.py"))
    assert {name for name in re.findall(r"PEFTSWEEP_[A-Z_]+", DOCUMENTS[document]) if name not in code} == set()


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_has_help(command: str, option: Any) -> None:
    """A test of the site looks for this help on the page of commands."""
    assert option.help, f"{command} {option.opts}"


def test_the_readme_s_table_names_the_arguments() -> None:
    for name, command in COMMANDS.items():
        arguments = [option.metavar for option in command.params if option.param_type_name == "argument"]
        assert f"| `{' '.join(['peftsweep', name, *arguments])}` |" in README


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert len(COMMANDS[command].help.split()) > 3


def test_the_example_of_your_own_study_has_ten_lines_and_loads(tmp_path: Path) -> None:
    (text,) = examples("yaml")
    file = tmp_path / "topics.yaml"
    file.write_text(text, encoding="utf-8")
    study = load(file)
    assert len(text.splitlines()) <= 10
    assert study.search.trials == 20
    assert study.space.keys() == {"learning_rate", "rank", "dropout", "scheduler"}


PYTHON, ADAPTER, FOUR_BITS, METHOD, SCRIPT = examples("python", PAGES["python.md"])


PAGE: dict[str, Any] = {}  # what the page's code has defined, from top to bottom
QUICK: dict[str, Any] = {
    "train": {"batch_size": 16, "evals_per_epoch": 1},
    "space": {"learning_rate": {"low": 1e-2, "high": 5e-2, "log": True}},
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A working folder whose `demo` is a small study. The example in Python has run in it."""
    place = home(tmp_path_factory.mktemp("docs") / "home", rows=24)
    (place.folder / "sweeps").mkdir()
    place.study("sweeps/demo", **QUICK | {"train": QUICK["train"] | {"epochs": 9}})
    with contextlib.chdir(place.folder):
        exec(PYTHON, PAGE)
    return place


def test_the_example_in_python_runs(played: Home) -> None:
    study = optuna.load_study(study_name="demo", storage=played.storage)
    assert len(study.trials) == 12
    assert {trial.user_attrs["params"]["epochs"] for trial in study.trials} == {2}


def scores_as_reported(snippet: str, loaded: dict[str, Any], best: Any, place: Home) -> None:
    """Score the model that the snippet loads with plain transformers, and compare its validation loss with the
    reported one."""
    with contextlib.chdir(place.folder):
        exec(snippet, loaded)
    model = in_full(loaded["model"].eval())
    tokenizer = AutoTokenizer.from_pretrained(place.folder / "base")
    with (place.folder / "dev.csv").open(newline="") as stream, torch.inference_mode():
        rows = list(csv.DictReader(stream))
        logits = torch.cat([model(**tokenizer(row["text"], return_tensors="pt")).logits for row in rows])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([LABELS.index(row["label"]) for row in rows]))
    same_values([float(loss)], [best.loss])


@pytest.mark.numbers
def test_the_adapter_is_loaded_as_shown_and_scores_as_reported(played: Home) -> None:
    best, *_ = peftsweep.best(played.storage, ["demo"])
    scores_as_reported(ADAPTER, dict(PAGE), best, played)


@pytest.mark.numbers
def test_a_qlora_adapter_is_loaded_as_shown_and_scores_as_reported(played: Home) -> None:
    best = played.run(played.study("four-bits", method="qlora", **QUICK), trials=1).best
    assert best is not None
    scores_as_reported(FOUR_BITS, {"adapter": best.adapter}, best, played)


def test_the_script_that_registers_a_method_sweeps_it(tmp_path: Path) -> None:
    here = home(tmp_path / "home")
    for name, text in {"lora_plus.py": METHOD, "sweep.py": SCRIPT}.items():
        (here.folder / name).write_text(text)
    here.study(method="lora-plus", space={"rate_ratio": [4.0, 16.0]}, search={"trials": 1})
    with Program(["sweep.py", "run", "--study", "small.yaml"], here.folder) as process:
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    (best,) = peftsweep.best(here.storage)
    assert best.method == "lora-plus" and best.params["rate_ratio"] in (4.0, 16.0)
    refused = here.call("run", "--study", "small.yaml")
    assert refused.returncode == 2 and "method: expected 'lora', 'qlora'" in refused.stderr


def test_link_targets_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *BESIDE):
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert [target for target in targets if not ((ROOT / name).parent / target).exists()] == []


def test_make_has_the_targets_that_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = "".join(DOCUMENTS.values()) + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", documents, re.MULTILINE))
    assert {"demo", "test", "check", "docs", "links"} <= named <= targets


def test_coverage_is_required_of_all_tests_but_not_of_one_file() -> None:
    def command(*words: str) -> str:
        alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TESTS"))}
        make = ["make", "--no-print-directory", "-n", "test", *words]
        return subprocess.check_output(make, cwd=ROOT, env=alone, text=True)

    assert "-m slipcover --json" in command() and "--fail-under 90" in command()
    one = command("TESTS=tests/test_search.py")
    assert "slipcover" not in one and one.rstrip().endswith("-m pytest tests/test_search.py")


@pytest.mark.parametrize(("kind", "messages"), [("event", Event), ("command", Command)])
def test_the_architecture_page_has_every_message(kind: str, messages: Any) -> None:
    (table,) = re.findall(rf"^\| {kind}, from .*\n\|[-|]*\n((?:\|.*\n)+)", PAGES["architecture.md"], re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [message.__name__ for message in get_args(messages)]


def test_the_files_and_names_on_the_architecture_page_exist() -> None:
    page = PAGES["architecture.md"]
    drawn = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    files = set(re.findall(r"`([\w/]+\.py)`", page)) | set(re.findall(r"\w+/\w+\.py", drawn))
    names = {path.name for path in (ROOT / "peftsweep").rglob("*.py")}
    assert set(re.findall(r"\w+\.py", drawn)) <= names
    assert len(files) > 30
    there = {file: path for file in files for path in (ROOT / "peftsweep" / file, ROOT / file) if path.is_file()}
    assert sorted(files - there.keys()) == []
    folders = set(re.findall(r"\b([a-z_]+)/(?![\w/])", drawn)) - {"artifacts"}
    assert sorted(name for name in folders if not (ROOT / "peftsweep" / name).is_dir()) == []
    places = re.findall(r"`([A-Za-z_]+)` in `([\w/]+\.py)`", page)
    assert len(places) > 8
    code = {file: path.read_text(encoding="utf-8") for file, path in there.items()}
    assert [at for at in places if not re.search(rf"^ *(?:class|def) {at[0]}\b", code[at[1]], re.MULTILINE)] == []


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(peftsweep.__version__)}$", text, re.MULTILINE)
