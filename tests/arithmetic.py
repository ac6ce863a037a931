"""The tests of numbers once more, by simpler instructions: `make numbers`.

A processor without AVX512 rounds otherwise than one with it, and so do other libraries' paths on the same one. The
settings below take the plainest path there is, whatever the processor; that it is another one shows in its results.

Run are the tests marked `numbers`: whatever is held in less than float64, where rounding is a thousandth of what is
allowed. Those that train by whole commands are left out: they hold the same steps, and would take minutes.

    python -m tests.arithmetic [NAME=VALUE …] [pytest's own options]

tries other settings: `ONEDNN_MAX_CPU_ISA=AVX2`, `PEFTSWEEP_TEST_THREADS=2`.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SIMPLER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
COMMANDS = ["docs", "exported", "methods", "retrain", "sweep"]  # their tests are of whole commands


def results() -> str:
    """Which instructions torch takes in this process, and what a few products, sums and activations come to there."""
    import numpy as np
    import torch

    draws = np.random.default_rng(0)
    a, b = (torch.from_numpy(draws.standard_normal(shape)).float() for shape in ((123, 64), (64, 128)))
    half = a.bfloat16() @ b.bfloat16()
    made = (a @ b, a.softmax(-1), a.sum(0), torch.nn.functional.gelu(a), a.double() @ b.double(), half.float())
    digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in made)).hexdigest()
    return f"{torch.backends.cpu.get_cpu_capability()} ({digest[:8]})"


def largest(noted: Path) -> list[str]:
    """The largest deviation of each type and kind, of those that were held to the promise."""
    found: dict[str, float] = {}
    for line in noted.read_text("utf-8").splitlines() if noted.exists() else []:
        name, _, value = line.rpartition(" ")
        found[name] = max(found.get(name, 0.0), float(value))
    return [f"{name}: {value:.1e}" for name, value in sorted(found.items())]


def main() -> int:
    """Run pytest with these arguments on the tests of numbers, if they come out another way."""
    given = [word for word in sys.argv[1:] if re.match("[A-Z_]+=", word)]
    settings = dict(word.split("=", 1) for word in given) or SIMPLER
    env = os.environ | settings
    made = [
        subprocess.run(
            [sys.executable, "-c", "from tests.arithmetic import results; print(results())"],
            env=each,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        for each in (dict(os.environ), env)
    ]
    if made[0] == made[1] and not given:
        print(f"not run again: {' '.join(SIMPLER)} change no number on this processor: {made[0]}")
        return 0
    by = " ".join(f"{name}={value}" for name, value in settings.items())
    print(f"instructions: {made[1]} in place of {made[0]}, by {by}", flush=True)
    files = [  # the others would only be imported
        str(file)
        for file in sorted(Path("tests").glob("test_*.py"))
        if "mark.numbers" in file.read_text("utf-8") and file.stem.removeprefix("test_") not in COMMANDS
    ]
    with TemporaryDirectory() as folder:
        noted = Path(folder) / "deviations"
        words = [sys.executable, "-m", "pytest", "--no-cov", "-m", "numbers"]
        words += [word for word in sys.argv[1:] if word not in given] + files
        done = subprocess.run(words, env=env | {"PEFTSWEEP_DEVIATIONS": str(noted)})
        print("largest deviations:", *largest(noted), sep="\n  ")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
