"""The fuzzer's command line: see the docstring of `tests.fuzz`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tests.conftest  # noqa: F401  no network, one thread
from peftsweep.cli import quiet
from tests.fuzz.kinds import KINDS, made
from tests.fuzz.running import Failure, shares, tried

SHOWN = 3  # how many failures of one cause are printed in full


def main() -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Give damaged inputs to the program.")
    reader.add_argument("--inputs", type=int, default=2000, help="how many, of all kinds together")
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--only", choices=KINDS, action="append", help="this kind of inputs alone; repeatable")
    reader.add_argument("--index", type=int, help="one input alone; its files stay")
    reader.add_argument("--keep", type=Path, help="where inputs that failed stay; a new folder otherwise")
    given = reader.parse_args()
    quiet()
    keep = given.keep or Path(tempfile.mkdtemp(prefix="peftsweep-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    fast = "/dev/shm" if Path("/dev/shm").is_dir() else None
    home = Path(tempfile.mkdtemp(prefix="peftsweep-fuzz-", dir=fast))
    try:
        kinds = made(home, given.only or list(KINDS))
        causes: Counter[str] = Counter()
        for kind in kinds:
            began, found = time.process_time(), 0
            count = shares(kinds, given.inputs)[kind.name]
            for index in range(count) if given.index is None else [given.index]:
                failure = tried(kind, given.seed, index, home / "inputs")
                if failure is not None:
                    found += 1
                    causes[failure.where] += 1
                    _report(failure, causes[failure.where], keep)
            took = time.process_time() - began
            print(f"{kind.name}: {count:,} inputs, {found:,} failed, {took:.1f} s of CPU", flush=True)
        for cause, times in causes.most_common():
            print(f"{times:6,} × {cause}")
        return 1 if causes else 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _report(failure: Failure, times: int, keep: Path) -> None:
    if times <= SHOWN:
        kept = keep / failure.kept.name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(failure.kept, kept)
        print(str(failure).replace(str(failure.kept), str(kept)), flush=True)
    else:
        shutil.rmtree(failure.kept)


sys.exit(main())
