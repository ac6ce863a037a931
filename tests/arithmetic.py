"""The tests of numbers once more, by simpler instructions: `make numbers`.

A processor without AVX512 rounds otherwise than one with it, and so do other libraries' paths on the same one. The
settings below take the plainest path there is, whatever the processor; that it is another one shows in its results.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

SIMPLER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}


def results() -> str:
    """Which instructions torch takes in this process, and what a few products, sums and activations come to there."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    a, b = torch.randn(123, 64), torch.randn(64, 128)
    made = (a @ b, a.softmax(-1), a.sum(0), torch.nn.functional.gelu(a), a.double() @ b.double())
    digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in made)).hexdigest()
    return f"{torch.backends.cpu.get_cpu_capability()} ({digest[:8]})"


def main() -> None:
    """Run pytest with these arguments on the tests of numbers, if they come out another way."""
    env = os.environ | SIMPLER
    told = [
        subprocess.run(
            [sys.executable, "-c", "from tests.arithmetic import results; print(results())"],
            env=each,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        for each in (dict(os.environ), env)
    ]
    if told[0] == told[1]:
        print(f"not run again: {' '.join(SIMPLER)} change no number on this processor: {told[0]}")
        return
    print(
        f"instructions: {told[1]} in place of {told[0]}, by {' '.join(f'{k}={v}' for k, v in SIMPLER.items())}",
        flush=True,
    )
    files = [str(file) for file in sorted(Path("tests").glob("test_*.py")) if "mark.numbers" in file.read_text("utf-8")]
    words = ["-m", "pytest", "--no-cov", "-m", "numbers", *sys.argv[1:], *files]  # the others would only be imported
    os.execve(sys.executable, [sys.executable, *words], env)


if __name__ == "__main__":
    main()
