"""Which libraries does a command load? Each takes up to two seconds, which a person waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
