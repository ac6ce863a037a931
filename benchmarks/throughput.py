"""What a pack is worth on a GPU: samples per second of all trials, beside a plain peft loop and eight of them at once.

    python benchmarks/throughput.py [--base 135m 1b …] [--batch 16 …] [--sides plain pack] [--seconds 20]

Figures go to stdout, a JSON object a line, and a table last; what is under way goes to stderr.

The bases have the true shapes of SmolLM2-135M (bf16), Llama 3.2 1B (NF4 with double quantisation, and bf16) and
Llama 3.1 8B (NF4), and random weights: speed does not ask what they are. Texts are as long as tweets, 27 tokens on
average, the same lengths for all. Every trial: rank 16 on all linear layers of the backbone, AdamW, clipping, a head of
eleven labels. Batches are of 16 texts; of 2, 8 and 64 with Llama 3.2 1B in bf16.

Useful FLOPs are 4·N a token, N being the backbone's parameters without the embedding: a frozen weight takes part in
forward and in the gradient of its input, and has none of its own. What comes after attention in the last block counts
for the token that the head reads alone, on all sides: nothing depends on the others, though a loop computes them too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, logging

from peftsweep.config import TrainConfig
from peftsweep.engine import (
    Examples,
    Limits,
    Pack,
    PackWorker,
    Progressed,
    Report,
    Result,
    Trial,
    capped,
    plan,
)
from peftsweep.engine.cuda_graphs import CudaGraphs
from peftsweep.engine.slot import Slot
from peftsweep.methods import METHODS
from peftsweep.models import default_device, linear_names
from peftsweep.sweep.judge import Judge, drive
from peftsweep.task import Task

EMOTIONS = Task("multi-label", tuple(f"emotion {i}" for i in range(11)))
RANK = 16
MEAN = 27.0  # tokens of a text
WARM = 20  # steps of a plain loop that do not count
STRETCHES = 3  # into which its time is divided
ROWS = 6838  # texts, as many as SemEval-2018 E-c has for training
TRIALS = 256


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    four_bit: bool


SHAPES = {
    "135m": Shape(576, 1536, 30, 9, 3, 49152, four_bit=False),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, four_bit=True),
    "1b-bf16": Shape(2048, 8192, 16, 32, 8, 128256, four_bit=False),
    "8b": Shape(4096, 14336, 32, 32, 8, 128256, four_bit=True),
}
BATCHES = {"135m": (16,), "1b": (16,), "8b": (16,), "1b-bf16": (2, 8, 64)}


class Texts:
    """Random token ids, as long as tweets."""

    def __init__(self, rows: int, vocabulary: int, mean: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths = np.clip(rng.gamma(9.0, mean / 9.0, rows).round().astype(int), 4, int(4 * mean))
        self.input_ids = [rng.integers(10, vocabulary - 10, size) for size in lengths]
        self.labels = (rng.random((rows, len(EMOTIONS.labels))) < 0.2).astype(np.float32)


@dataclass(frozen=True)
class Setup:
    """What is measured, the same for all sides; what comes after `seconds` is for the pack alone."""

    base: str  # of SHAPES
    batch: int = 16
    rank: int = RANK
    mean: float = MEAN
    seconds: float = 20.0  # under the clock
    warm: int = 12  # steps before that
    slots: int | None = None  # K, in place of the pack's own choice
    profiled: int = 0  # steps under torch's profiler, afterwards
    graphs: bool = True
    compiled: bool = True

    @property
    def shape(self) -> Shape:
        return SHAPES[self.base]

    def texts(self, rows: int = ROWS, seed: int = 0) -> Texts:
        return Texts(rows, self.shape.vocabulary, self.mean, seed)


def llama(shape: Shape) -> Any:
    """The config of a classifier of this shape."""
    return AutoConfig.for_model(
        "llama",
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        vocab_size=shape.vocabulary,
        pad_token_id=0,
        num_labels=len(EMOTIONS.labels),
        problem_type="multi_label_classification",
        dtype=torch.bfloat16,
        use_cache=False,
    )


def base(shape: Shape) -> Any:
    """A frozen random base on the GPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = AutoModelForSequenceClassification.from_config(
            llama(shape), dtype=torch.bfloat16, trust_remote_code=False
        )
    model = model.to(torch.bfloat16)
    if shape.four_bit:
        for name in linear_names(model):
            model.set_submodule(name, in_4bit(model.get_submodule(name)))
        torch.cuda.empty_cache()
    return model.requires_grad_(False).eval()


def in_4bit(linear: nn.Linear) -> nn.Module:
    bnb: Any = importlib.import_module("bitsandbytes.nn")
    layer: Any = bnb.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = bnb.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=layer).cuda()
    return cast(nn.Module, layer)


def parameters(shape: Shape) -> tuple[int, int]:
    """Of the backbone's linear layers, and of those of them that are behind attention in the last block."""
    head = shape.hidden // shape.heads
    asked = shape.hidden * head * (shape.heads + 2 * shape.groups)  # queries, keys, values
    behind = shape.hidden * head * shape.heads + 3 * shape.hidden * shape.inner
    return shape.layers * (asked + behind), behind


# Rivals -------------------------------------------------------------------------------------------------------------


def plain(setup: Setup, ready: Path | None = None) -> dict[str, float]:
    """One trial by stock peft."""
    adapter = LoraConfig(task_type="SEQ_CLS", r=setup.rank, lora_alpha=2 * setup.rank, target_modules="all-linear")
    # One of eight after another, for before a base is in 4 bits it is in bf16.
    with nullcontext() if ready is None else FileLock(ready.parent / "building.lock"):
        frozen = base(setup.shape)
    return {"slots": 1, **plain_loop(frozen, adapter, setup.texts(), setup.batch, setup.seconds, ready)}


def plain_loop(
    frozen: Any,
    adapter: PeftConfig,
    texts: Examples,
    batch: int,
    seconds: float,
    ready: Path | None = None,
    warm: int = WARM,
) -> dict[str, float]:
    """Samples and real tokens per second of one trial by stock peft: bf16 autocast, padding per batch, fused AdamW."""
    model = get_peft_model(frozen, adapter)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    order = np.random.default_rng(0).permutation(len(texts.input_ids))
    labels = torch.from_numpy(np.asarray(texts.labels))

    def step(number: int) -> int:
        picked = order[np.arange(number * batch, (number + 1) * batch) % len(order)]
        longest = max(len(texts.input_ids[i]) for i in picked)
        ids, mask = torch.zeros(batch, longest, dtype=torch.int64), torch.zeros(batch, longest, dtype=torch.int64)
        for row, i in enumerate(picked):
            ids[row, : len(texts.input_ids[i])] = torch.from_numpy(texts.input_ids[i])
            mask[row, : len(texts.input_ids[i])] = 1
        with torch.autocast("cuda", torch.bfloat16):
            out = model(input_ids=ids.cuda(), attention_mask=mask.cuda(), labels=labels[picked].cuda())
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(mask.sum())

    for number in range(warm):
        step(number)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    if ready is not None:  # all processes are to be timed at the same time
        ready.touch()
        while not (ready.parent / "go").exists():
            time.sleep(0.05)
    number, stretches = warm, []
    for _ in range(STRETCHES):
        began, tokens, before = time.perf_counter(), 0, number
        while time.perf_counter() - began < seconds / STRETCHES:
            tokens += step(number)
            number += 1
        torch.cuda.synchronize()
        stretches.append(((number - before) * batch, tokens, time.perf_counter() - began))
    return {
        **of_stretches(stretches),
        "step_ms": 1000 * sum(took for _, _, took in stretches) / (number - warm),
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def of_stretches(stretches: Sequence[tuple[int, int, float]]) -> dict[str, float]:
    """The rates of the fastest stretch, for the loop waits for a processor that others may share; and of all of them.

    Args:
        stretches: samples, tokens and seconds of each.
    """
    samples, tokens, took = max(stretches, key=lambda stretch: stretch[0] / stretch[2])
    whole = [sum(column) for column in zip(*stretches, strict=True)]
    return {
        "samples_per_second": samples / took,
        "tokens_per_second": tokens / took,
        "mean_samples_per_second": whole[0] / whole[2],
        "mean_tokens_per_second": whole[1] / whole[2],
    }


def together(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Processes side by side: their rates and memory add up, over the whole time, for stretches differ."""
    row = {name: sum(each[f"mean_{name}"] for each in found) for name in ("samples_per_second", "tokens_per_second")}
    row |= {name: sum(each[name] for each in found) for name in ("slots", "peak_gb")}
    return row | {"step_ms": max(each["step_ms"] for each in found)}


def processes(setup: Setup, count: int = 8, gpus: int = 1) -> dict[str, float]:
    """So many plain loops at once, each in a process of its own, in turns on each of the GPUs; their rates together."""
    return side_by_side([sys.executable, __file__, "--worker", json.dumps(asdict(setup))], count, gpus)


def side_by_side(command: Sequence[str], count: int, gpus: int = 1) -> dict[str, float]:
    """Processes that wait for each other before they are timed; their rates together.

    Args:
        command: starts a loop. `--ready` and a file are added, which the loop makes when it is ready: see `plain_loop`.
    """
    with tempfile.TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [*command, "--ready", f"{folder}/{i}"],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ if gpus == 1 else os.environ | {"CUDA_VISIBLE_DEVICES": str(i % gpus)},
            )
            for i in range(count)
        ]
        try:
            while len(list(Path(folder).glob("[0-9]*"))) < count:
                if any(process.poll() is not None for process in running):
                    raise RuntimeError("a process ended before it was timed")
                time.sleep(0.05)
            (Path(folder) / "go").touch()
            found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
        finally:
            for process in running:  # if one failed, the others still wait for the word
                process.kill()
    return together(found)


# The pack -----------------------------------------------------------------------------------------------------------


class Timed(Judge):
    """Gives trials without end, and stops the pack when its time is up. The first steps do not count."""

    def __init__(self, params: TrainConfig, folder: Path, seconds: float, warm: int, profiled: int = 0) -> None:
        self.params, self.folder, self.limit, self.warm, self.profiled = params, folder, seconds, warm, profiled
        self.profile: Any = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self.given = self.steps = 0
        self.stopped = False
        self.graphs: CudaGraphs | None = None
        self.captures = 0  # passes that became graphs under the clock
        self.seen = 0  # of those that ever did
        self.steady: dict[int, float] = {}  # seconds of each step under the clock in which none did
        self.began = self.ended = self.last = 0.0
        self.steps_profiled = -1

    def next(self, worker: int) -> Trial:
        self.given += 1
        return Trial(self.given, self.given, self.params, self.folder / str(self.given))

    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        return [True] * len(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        raise AssertionError(f"trial {trial.number} ended: {result.reason}")

    def progressed(self, event: Progressed, worker: int) -> None:
        self.stopped |= not self.goes_on()

    def wants_stop(self) -> bool:
        return self.stopped

    def goes_on(self) -> bool:
        """Take note of a step; False when the time is up."""
        self.steps += not self.ended
        now = time.perf_counter()
        if self.began and not self.ended and self.captured() == self.seen:
            self.steady[self.steps - 1] = now - self.last  # all that lies between two steps, too
        self.seen, self.last = self.captured(), now
        if self.steps == self.warm:
            torch.cuda.synchronize()
            self.captures = -self.captured()
            self.began = time.perf_counter()
        if self.began and not self.ended and self.enough(time.perf_counter() - self.began):
            torch.cuda.synchronize()
            self.ended = time.perf_counter()
            self.captures += self.captured()
        return not self.ended if not self.profiled else self.watched()

    def enough(self, seconds: float) -> bool:
        """Whether the time is up; not while most of it went to captures, but for three times as long at most."""
        return seconds > self.limit and (sum(self.steady.values()) > self.limit / 2 or seconds > 3 * self.limit)

    def captured(self) -> int:
        return 0 if self.graphs is None else self.graphs.captured

    def watched(self) -> bool:
        """A few more steps under torch's profiler, when those that are timed are over."""
        if not self.ended:
            return True
        if self.steps_profiled < 0:
            self.profile.start()
        self.steps_profiled += 1
        if self.steps_profiled == self.profiled:
            torch.cuda.synchronize()
            self.profile.stop()
        return self.steps_profiled < self.profiled


class Unsaved(Pack):
    """A pack that writes no checkpoints: the other sides write none either."""

    def save(self, slots: Iterable[Slot]) -> None: ...


def packed(setup: Setup, model: Any = None) -> dict[str, Any]:
    """The pack at its automatic K, or at the given one: rates over all slots, what was planned, what was used. Those
    that are steady are of the steps in which no pass was captured, as most of a sweep's are.

    Args:
        model: the base, where one stands already.

    Raises:
        torch.OutOfMemoryError: the given slots do not fit, or leave no room for the texts of one of them.
    """
    model = base(setup.shape) if model is None else model
    texts, validation = setup.texts(), setup.texts(rows=32, seed=1)
    params = TrainConfig(epochs=1000, batch_size=setup.batch, rank=setup.rank, dropout=0.0)
    method = METHODS["qlora" if setup.shape.four_bit else "lora"](model, linear_names(model))

    def build(count: int, limits: Limits | None = None) -> Pack:
        limited: dict[str, Any] = {"candidates": [params], "slots": count, "limits": limits}
        return Unsaved(model, method, EMOTIONS, texts, validation, compiled=setup.compiled, **limited)

    with capped(default_device()), tempfile.TemporaryDirectory() as folder:  # as `peftsweep run` has it
        began = time.perf_counter()
        found = plan(build, [params], TRIALS)
        if setup.slots is not None:
            found = found.for_slots(setup.slots)
            if found.slots < setup.slots or found.tokens < setup.batch * setup.mean:
                raise torch.OutOfMemoryError(f"there is no room for {setup.slots} slots and the texts of one of them")
        source = Timed(params, Path(folder), setup.seconds, warm=setup.warm, profiled=setup.profiled)
        pack = build(found.slots, found.limits)
        if not setup.graphs:
            pack.runner.graphs = None
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter() - began
        try:
            source.graphs = pack.runner.graphs
            drive(PackWorker(pack, heartbeat=0.0), source)
            running = [(slot.schedule, slot.trial.seed) for slot in pack.slots.occupied]
        finally:
            pack.release()
    if setup.profiled:
        by_kernel(source.profile, setup.profiled)
    took, steps = source.ended - source.began, range(source.warm, source.steps)

    def rates_of(some: Collection[int], seconds: float) -> dict[str, float]:
        batches = [schedule.batch(step, seed) for schedule, seed in running for step in some]
        return {**rates(batches, pack.batcher.corpus.lengths, seconds), "step_ms": 1000 * seconds / len(some)}

    steady = rates_of(source.steady, sum(source.steady.values())) if source.steady else rates_of(steps, took)
    return {
        "slots": len(pack.slots),
        **rates_of(steps, took),
        **{f"steady_{name}": value for name, value in steady.items()},
        "planned_gb": found.bytes / 1e9,
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9,
        "start_seconds": started,
        "steps": len(steps),
        "graphs": pack.runner.graphs is not None and not pack.runner.graphs.refused,
        "captures": source.captures,
        "warm_seconds": source.began - began - started,
    }


def rates(batches: Sequence[Any], lengths: Any, seconds: float) -> dict[str, float]:
    """Samples and real tokens per second.

    Args:
        batches: rows of a split, those of a slot's step each.
        lengths: of the split's texts, in tokens.
    """
    tokens = sum(int(lengths[batch].sum()) for batch in batches)
    return {"samples_per_second": sum(map(len, batches)) / seconds, "tokens_per_second": tokens / seconds}


def by_kernel(profile: Any, steps: int) -> None:
    """Say which kernels the GPU's time goes to, in a step."""
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows)
    say(f"  GPU busy for {total / steps / 1000:.1f} ms a step, in {sum(row.count for row in rows) // steps} launches")
    for row in rows[:30]:
        spent = row.self_device_time_total / steps / 1000
        say(f"  {spent:8.2f} ms {spent * steps * 1000 / total:6.1%} {row.count // steps:6}x  {row.key[:110]}")


def matmul_peak() -> float:
    """TFLOP/s of an 8192³ product in bf16."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        a @ b
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return 2 * 8192**3 / float(statistics.median(times[3:])) / 1e12


# Figures ------------------------------------------------------------------------------------------------------------


PACK, PROCESSES = "pack", "8 processes"
SIDES: dict[str, Callable[[Setup], dict[str, Any]]] = {"plain": plain, PROCESSES: processes, PACK: packed}
# The batches of 1b-bf16 are there for what a batch's size does to the pack and to one loop; eight processes beside each
# would double the time.
WITH_PROCESSES = ("135m", "1b", "8b")
COLUMNS = {
    "base": ("base", ""),
    "batch": ("batch", ""),
    "side": ("side", ""),
    "slots": ("K", ""),
    "samples_per_second": ("samples/s", ",.1f"),
    "tokens_per_second": ("real tokens/s", ",.0f"),
    "useful_tflops": ("useful TFLOP/s", ".1f"),
    "share_of_peak": ("share of peak", ".1%"),
    "peak_gb": ("peak GB", ".1f"),
    "pack_over_plain": ("pack / plain", ".1f"),
    "pack_over_8_processes": ("pack / 8 processes", ".1f"),
}


def figures(setups: Sequence[Setup], wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The card, then a row for each setup and side, the pack last, for it is compared with the others."""
    peak = matmul_peak()
    tidy()
    yield {"figure": "peak", "tflops": round(peak), **machine()}
    for setup in setups:
        rates: dict[str, float] = {}
        for side in (side for side in SIDES if side in wanted):
            if side == PROCESSES and setup.base not in WITH_PROCESSES:
                continue
            say(f"{setup.base}, batch {setup.batch}: {side}")
            what = {"figure": "throughput", "base": setup.base, "batch": setup.batch, "side": side}
            try:
                found = SIDES[side](setup)
            except Exception as error:  # the others go on
                traceback.print_exc()
                yield {**what, "error": f"{type(error).__name__}: {error}"}
                continue
            finally:
                tidy()
            rates[side] = found["samples_per_second"]
            useful = useful_tflops(setup.shape, found)
            row = {**what, **rounded(found)}
            row |= {"useful_tflops": round(useful, 1), "share_of_peak": round(useful / peak, 3)}
            yield row | (over_rivals(rates) if side == PACK else {})


def machine() -> dict[str, Any]:
    """What the figures were measured on. A plain loop waits for the processor more than for the GPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    return {"device": torch.cuda.get_device_name(), "cpu": next(names, ""), "cores": os.cpu_count(), **versions}


def useful_tflops(shape: Shape, found: Mapping[str, Any]) -> float:
    whole, behind = parameters(shape)
    return float(4 * ((whole - behind) * found["tokens_per_second"] + behind * found["samples_per_second"]) / 1e12)


def over_rivals(rates: Mapping[str, float]) -> dict[str, float]:
    rivals = (side for side in rates if side != PACK)
    return {f"pack_over_{side.replace(' ', '_')}": round(rates[PACK] / rates[side], 1) for side in rivals}


def rounded(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 1) if isinstance(value, float) else value for key, value in found.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows as lines of text, under their headings."""
    lines = [[heading for heading, _ in COLUMNS.values()]]
    for row in rows:
        lines.append([format(row[key], spec) if key in row else "" for key, (_, spec) in COLUMNS.items()])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def tidy() -> None:
    """Forget a side: an unreleased pack hangs in cycles, and torch compiles the same code only so many times."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def need_gpu() -> None:
    """Say in one line that there is none."""
    if not torch.cuda.is_available():
        raise SystemExit(f"error: {Path(sys.argv[0]).name} needs a GPU, and torch finds no CUDA device here")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--base", nargs="+", choices=SHAPES, default=list(BATCHES))
    parser.add_argument("--batch", nargs="+", type=int, help="in place of each base's own: 16, or 2, 8, 64 for 1b-bf16")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--mean", type=float, default=MEAN, help="mean length of a text in tokens")
    parser.add_argument("--slots", type=int, help="K of the pack, in place of its own choice")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which each side is timed")
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="then list the GPU's kernels")
    parser.add_argument("--no-graphs", action="store_true", help="the pack without CUDA graphs")
    parser.add_argument("--no-compile", action="store_true", help="the pack without compiled blocks")
    parser.add_argument("--no-processes", action="store_true", help="without the eight processes")
    parser.add_argument("--worker", metavar="SETUP", help=argparse.SUPPRESS)
    parser.add_argument("--ready", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("rank", "mean", "slots", "seconds"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            parser.error(f"--{name}: expected a number above 0")
    if any(size < 1 for size in options.batch or ()):
        parser.error("--batch: expected whole numbers above 0")
    need_gpu()
    logging.set_verbosity_error()
    if options.worker:
        print(json.dumps(plain(Setup(**json.loads(options.worker)), options.ready)), flush=True)
        return
    setups = [
        Setup(
            base=name,
            batch=batch,
            rank=options.rank,
            mean=options.mean,
            seconds=options.seconds,
            slots=options.slots,
            profiled=options.profile,
            graphs=not options.no_graphs,
            compiled=not options.no_compile,
        )
        for name in options.base
        for batch in options.batch or BATCHES[name]
    ]
    sides = [side for side in options.sides if side != PROCESSES or not options.no_processes]
    rows = []
    for row in figures(setups, sides):
        print(json.dumps(row), flush=True)
        rows.append(row)
    for line in table(rows[1:]):
        print(line)
    raise SystemExit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
