"""The documents say what the code does: commands, options, examples, links."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import typer.main
from transformers import AutoTokenizer

import peftsweep
from peftsweep.cli import app
from peftsweep.config import available, load
from tests.studies import LABELS, Home, home
from tests.test_layers import FLOORS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


OPTIONS = [(name, option) for name, command in COMMANDS.items() for option in command.params]


def examples(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = re.findall(r"^    (\w.*?)(?:  #.*)?$", README, re.MULTILINE)
    assert [command.strip() for command in commands[:2]] == ["make demo", "make test"]


def test_every_command_stands_in_the_readme_and_no_other() -> None:
    table = re.findall(r"^\| `peftsweep (\w+)[A-Z ]*` \|", README, re.MULTILINE)
    assert table == list(COMMANDS)
    assert set(re.findall(r"peftsweep ([a-z]+)\b(?=[` ]|$)", "\n".join(commands_shown()))) <= set(COMMANDS)


def commands_shown() -> list[str]:
    return re.findall(r"^    (peftsweep .*)$", README, re.MULTILINE) + re.findall(r"`(peftsweep [^`]*)`", README)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_has_help_and_stands_in_the_readme(command: str, option: Any) -> None:
    assert option.help, f"{command} {option.opts}"
    shown = f"`peftsweep {command} {option.metavar}`" if option.param_type_name == "argument" else f"`{option.opts[0]}`"
    assert shown in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert len(COMMANDS[command].help.split()) > 3


def test_the_options_shown_exist() -> None:
    known = {name for _, option in OPTIONS for name in option.opts} | {"--help", "--version"}
    shown = re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(commands_shown()))
    assert set(shown) <= known


def test_the_study_of_ones_own_is_ten_lines_and_loads(tmp_path: Path) -> None:
    (text,) = examples("yaml")
    file = tmp_path / "topics.yaml"
    file.write_text(text, encoding="utf-8")
    study = load(file)
    assert len(text.splitlines()) <= 10
    assert study.search.trials == 20
    assert study.space.keys() == {"learning_rate", "rank", "dropout", "scheduler"}


def test_the_studies_shown_exist() -> None:
    shown = set(re.findall(r"--study ([\w-]+)", README))
    assert shown - {"topics"} <= set(available([ROOT / "sweeps"]))
    assert "topics" in shown


PYTHON, ADAPTER, FOUR_BITS = examples("python")


QUICK: dict[str, Any] = {
    "train": {"batch_size": 16, "evals_per_epoch": 1},
    "space": {"learning_rate": {"low": 1e-2, "high": 5e-2, "log": True}},
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A working folder whose `demo` is a small study, and in which the example in Python has run."""
    place = home(tmp_path_factory.mktemp("docs") / "home", rows=24)
    (place.folder / "sweeps").mkdir()
    place.study("sweeps/demo", **QUICK | {"train": QUICK["train"] | {"epochs": 9}})
    with contextlib.chdir(place.folder):
        exec(PYTHON, {})
    return place


def test_the_example_in_python_runs(played: Home) -> None:
    study = optuna.load_study(study_name="demo", storage=played.storage)
    assert len(study.trials) == 12
    assert {trial.user_attrs["params"]["epochs"] for trial in study.trials} == {2}


def loss(snippet: str, adapter: str | None, place: Home) -> float:
    """The loss on the validation rows of the model that the snippet loads, by plain transformers."""
    loaded: dict[str, Any] = {"adapter": adapter}
    exec(snippet, loaded)
    model = loaded["model"].eval()
    tokenizer = AutoTokenizer.from_pretrained(place.folder / "base")
    with (place.folder / "dev.csv").open(newline="") as stream, torch.inference_mode():
        rows = list(csv.DictReader(stream))
        logits = torch.cat([model(**tokenizer(row["text"], return_tensors="pt")).logits for row in rows])
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([LABELS.index(row["label"]) for row in rows])))


def test_the_adapter_is_loaded_as_shown_and_scores_as_reported(played: Home) -> None:
    best, *_ = peftsweep.best(played.storage, ["demo"])
    assert loss(ADAPTER, best.adapter, played) == pytest.approx(best.loss, abs=1e-4)


def test_a_qlora_adapter_is_loaded_as_shown_and_scores_as_reported(played: Home) -> None:
    best = played.run(played.study("four-bits", method="qlora", **QUICK), trials=1).best
    assert best is not None
    assert loss(FOUR_BITS, best.adapter, played) == pytest.approx(best.loss, abs=1e-3)


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_has_the_targets_that_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", documents, re.MULTILINE))
    assert {"demo", "test", "check"} <= named <= targets


def test_coverage_is_asked_of_all_tests_and_not_of_one_file() -> None:
    def command(*words: str) -> str:
        alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TESTS"))}
        make = ["make", "--no-print-directory", "-n", "test", *words]
        return subprocess.check_output(make, cwd=ROOT, env=alone, text=True).splitlines()[-1]

    assert "--cov " in command() and "--no-cov" not in command()
    assert command("TESTS=tests/test_search.py").endswith("--no-cov tests/test_search.py")


def test_contributing_draws_the_house_as_it_is() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = {
        name: int(floor)
        for floor, files in re.findall(r"^\| (\d) \| (.*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)(?:\.py|/)`", files)
    }
    there = {path.name.removesuffix(".py") for path in (ROOT / "peftsweep").iterdir()}
    assert drawn == {name: floor for name, floor in FLOORS.items() if name in there and not name.startswith("__")}


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^### {re.escape(peftsweep.__version__)}$", text, re.MULTILINE)
