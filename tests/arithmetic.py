"""Run the tests of numbers again with simpler CPU instructions: `make numbers`.

Processors with and without AVX512 round differently, and so do different code paths of a library on one processor. The
first of the settings below selects the simplest path on any processor. Its results show whether the setting changed
anything. If they do not differ from those without it, the next setting is tried; if no setting changes a number, the
command fails, because the tests would not run with two sets of instructions.

It runs the tests marked `numbers`: all that compare numbers in less than float64, where rounding is a thousandth of
what is allowed. It leaves out those that train through whole commands: they check the same steps, and take minutes.

    python -m tests.arithmetic [NAME=VALUE …] [pytest's own options]

tries other settings: `ONEDNN_MAX_CPU_ISA=AVX2`, `PEFTSWEEP_TEST_THREADS=2`.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

SETTINGS = (
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
)
COMMANDS = ["docs", "exported", "methods", "retrain", "sweep"]  # their tests run whole commands


def results() -> str:
    """The instruction set that torch uses in this process, and a digest of a few products, sums and activations."""
    import numpy as np
    import torch

    draws = np.random.default_rng(0)
    a, b = (torch.from_numpy(draws.standard_normal(shape)).float() for shape in ((123, 64), (64, 128)))
    half = a.bfloat16() @ b.bfloat16()
    made = (a @ b, a.softmax(-1), a.sum(0), torch.nn.functional.gelu(a), a.double() @ b.double(), half.float())
    digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in made)).hexdigest()
    return f"{torch.backends.cpu.get_cpu_capability()} ({digest[:8]})"


def largest(noted: Path) -> list[str]:
    """The largest deviation of each type and kind among those that tests compared with the promise."""
    found: dict[str, float] = {}
    for line in noted.read_text("utf-8").splitlines() if noted.exists() else []:
        name, _, value = line.rpartition(" ")
        found[name] = max(found.get(name, 0.0), float(value))
    return [f"{name}: {value:.1e}" for name, value in sorted(found.items())]


def other(own: str, results_by: Callable[[Mapping[str, str]], str]) -> tuple[Mapping[str, str], str] | None:
    """The first settings whose results differ from this process's own, and those results; None if there are none."""
    found = ((settings, results_by(settings)) for settings in SETTINGS)
    return next(((settings, results) for settings, results in found if results != own), None)


def _is_setting(word: str) -> bool:
    return re.match("[A-Z_]+=", word) is not None


def _results_by(settings: Mapping[str, str]) -> str:
    words = [sys.executable, "-c", "from tests.arithmetic import results; print(results())"]
    run = subprocess.run(words, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


def main() -> int:
    """Run pytest with these arguments on the tests of numbers, under settings that change the results."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if _is_setting(word))
    own = _results_by({})
    found = (given, _results_by(given)) if given else other(own, _results_by)
    if found is None:
        tried = ", ".join(" ".join(f"{name}={value}" for name, value in each.items()) for each in SETTINGS)
        print(f"not run: no setting of {tried} changes a number on this processor ({own})", file=sys.stderr)
        return 1
    settings, then = found
    env = os.environ | settings
    by = " ".join(f"{name}={value}" for name, value in settings.items())
    print(f"instructions: {then} in place of {own}, by {by}", flush=True)
    files = [  # pytest would import the other files for nothing
        str(file)
        for file in sorted(Path("tests").glob("test_*.py"))
        if "mark.numbers" in file.read_text("utf-8") and file.stem.removeprefix("test_") not in COMMANDS
    ]
    with TemporaryDirectory() as folder:
        noted = Path(folder) / "deviations"
        words = [sys.executable, "-m", "pytest", "-m", "numbers"]
        words += [word for word in sys.argv[1:] if not _is_setting(word)] + files
        done = subprocess.run(words, env=env | {"PEFTSWEEP_DEVIATIONS": str(noted)})
        print("largest deviations:", *largest(noted), sep="\n  ")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
