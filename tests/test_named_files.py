"""Every file and folder that docstrings, comments and documents name exists."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"(?<![\w/.<>*-])((?:[\w.-]+/)*(?:\w[\w-]*\.py|[a-z][\w-]*/))(?![\w<*{])")
ELSEWHERE = {
    *("lora_plus.py", "sweep.py", "code.py"),  # a user's
    *("coverage.py", "mlflow.py"),  # other programs'
    *("artifacts/", "mlartifacts/", "studies-artifacts/", "artifacts/topics/retrain/", "site/"),  # made by commands
    *("trial-0007/checkpoint-000042-01/", "α/"),
}


def prose(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said.append(node.value.value)
    return "\n".join(said)


def missing(text: str, there: set[str]) -> set[str]:
    """A name may start at any folder on its path: `engine/pack.py`, or `pack.py` from a file beside it."""
    named = {name for name in NAMED.findall(text) if name not in ELSEWHERE}
    return {name for name in named if not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in there)}


@pytest.mark.parametrize("folder", ["peftsweep", "tests", "benchmarks", "docs", "."])
def test_every_file_that_is_named_exists(folder: str) -> None:
    there = {
        str(path.relative_to(ROOT))
        for top in ROOT.iterdir()
        if top.is_dir() and not top.name.startswith(".")
        for path in [top, *top.rglob("*")]
        if path.suffix == ".py" or path.is_dir()
    }
    files = ROOT.glob("*.md") if folder == "." else [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]
    found = {str(file.relative_to(ROOT)): missing(prose(file), there) for file in files}
    assert {file: names for file, names in found.items() if names} == {}
    assert missing("see `gone.py`, gone/there.py and `gone/`", there) == {"gone.py", "gone/there.py", "gone/"}
