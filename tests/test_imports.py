"""Which libraries does a command load? Each takes up to two seconds, which a person waits for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from peftsweep.progress import Stage

ROOT = Path(__file__).parents[1]
LATE = {"alembic", "datasets", "matplotlib", "mlflow", "peft", "plotly", "sklearn"}
CODE = {
    "the checks before a sweep": "from peftsweep.cli import study_commands; from peftsweep.progress import Silent; "
    "study_commands._configs(['demo'], None, Silent())",
    "a sweep that begins": "import peftsweep.sweep",
    "predict": "import peftsweep.export",
}


def loaded(code: str, folder: Path) -> set[str]:
    """The modules that a new Python has at the end of this code."""
    words = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("what", CODE)
def test_what_is_not_needed_yet_is_not_loaded(tmp_path: Path, what: str) -> None:
    found = loaded(CODE[what], tmp_path)
    assert found & LATE == set()
    assert "pandas" not in found


def test_a_sweep_checks_and_shows_its_first_stages_before_it_imports_torch(tmp_path: Path) -> None:
    """Python reports each import on stderr, between the lines that the command prints there."""
    same = "sqlite:///same.db"  # is refused once torch is imported, so that nothing is trained
    words = [sys.executable, "-X", "importtime", "-m", "peftsweep", "run", "--study", "demo"]
    done = subprocess.run(
        [*words, "--storage", same, "--tracking-uri", same],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = done.stderr.splitlines()
    torch = next(at for at, line in enumerate(lines) if re.match(r"import time:.*\| +torch(\.|$)", line))
    assert done.returncode == 2
    for stage in (Stage.DATA, Stage.LIBRARIES):
        assert any(stage in line for line in lines[:torch] if not line.startswith("import time:"))
