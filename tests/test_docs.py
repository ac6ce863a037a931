"""The documents say what the code does: commands, options, examples, links."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import peftsweep
from peftsweep.cli import app
from peftsweep.config import available, load
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
    table = re.findall(r"^\| `peftsweep (\w+)` \|", README, re.MULTILINE)
    assert table == list(COMMANDS)
    assert set(re.findall(r"peftsweep ([a-z]+)\b(?=[` ]|$)", "\n".join(commands_shown()))) <= set(COMMANDS)


def commands_shown() -> list[str]:
    return re.findall(r"^    (peftsweep .*)$", README, re.MULTILINE) + re.findall(r"`(peftsweep [^`]*)`", README)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_has_help_and_stands_in_the_readme(command: str, option: Any) -> None:
    assert option.help, f"{command} {option.opts}"
    assert f"`{option.opts[0]}`" in README


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


def test_python_examples_call_what_exists() -> None:
    for text in examples("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and (name := _of_peftsweep(node.func)):
                function = getattr(peftsweep, name)
                inspect.signature(function).bind(*node.args, **{keyword.arg: 0 for keyword in node.keywords})


def _of_peftsweep(node: ast.expr) -> str | None:
    """`run` of `peftsweep.run`."""
    ours = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "peftsweep"
    return node.attr if ours and isinstance(node, ast.Attribute) else None


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_has_the_targets_that_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", documents, re.MULTILINE))
    assert {"demo", "test", "check"} <= named <= targets


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
    assert f"## {peftsweep.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
