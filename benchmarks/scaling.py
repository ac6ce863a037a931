"""How the cost of a sweep grows on a GPU: samples per second against the number of trials at once, against their rank
and against the length of their texts, for the shape of Llama 3.2 1B in NF4, beside a plain peft loop of one trial.

    python benchmarks/scaling.py [--curves slots rank length plain] > scaling.jsonl
    python benchmarks/scaling.py --draw scaling.jsonl …   # to benchmarks/scaling.png; needs no GPU

Figures go to stdout, a JSON object a line. One base serves all packs, and its blocks are not compiled, which would take
longer than to measure them; throughput.py has the rates with that. The pack's rates are of the steps in which no pass
was captured, as most of a sweep's are. The number of trials is doubled up to 512, or until one has no room; rank and
length are at the pack's own choice of it, which stands beside the points of the picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import torch
from throughput import Setup, base, machine, matmul_peak, need_gpu, packed, plain, rounded, say, tidy, useful_tflops
from transformers import logging

SETUP = Setup("1b", batch=16, rank=16, mean=27.0, seconds=4.0, warm=4, compiled=False)
SLOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RANKS = (8, 16, 32, 64, 128)
MEANS = (16, 27, 64, 256, 1024)


# What each curve is measured at: what differs from the rest.
CURVES: dict[str, list[dict[str, Any]]] = {
    "slots": [{"slots": slots} for slots in SLOTS],
    "rank": [{"rank": rank} for rank in RANKS],
    "length": [{"mean": float(mean)} for mean in MEANS],
    "plain": [{"mean": float(mean)} for mean in MEANS],
}


def measure(curves: Collection[str]) -> None:
    """Every curve's points, one after another."""
    print(json.dumps({"peak_tflops": round(matmul_peak()), **machine()}), flush=True)
    frozen: Any = None
    for curve in (curve for curve in CURVES if curve in curves):
        # A plain loop has a base of its own; the packs take turns on one.
        frozen = None if curve == "plain" else frozen or base(SETUP.shape)
        for changed in CURVES[curve]:
            say(f"{curve}: {changed}")
            setup = replace(SETUP, **changed)
            row = {"curve": curve, "slots": setup.slots, "rank": setup.rank, "mean": setup.mean}
            tidy()  # here, and not in `except`: its traceback holds on to the pack
            try:
                row |= figures(setup, plain(setup) if frozen is None else packed(setup, frozen))
            except torch.OutOfMemoryError:
                row |= {"out_of_memory": True}
            print(json.dumps(row), flush=True)
            if curve == "slots" and "out_of_memory" in row:
                break


def figures(setup: Setup, found: dict[str, Any]) -> dict[str, Any]:
    """A side's row; a pack's rates are the steady ones."""
    steady = {name.removeprefix("steady_"): value for name, value in found.items() if name.startswith("steady_")}
    found = {name: value for name, value in found.items() if not name.startswith("steady_")} | steady
    return {**rounded(found), "useful_tflops": round(useful_tflops(setup.shape, found), 1)}


def curves_of(files: Sequence[Path]) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The points of each curve, with their share of the matrix peak in percent, and on which cards they were measured.

    Args:
        files: each of a run of its own, with the peak that was measured in it; a later one's curves replace those of
            an earlier one.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    cards = set()
    for file in files:
        header, *found = (json.loads(line) for line in file.read_text().splitlines())
        cards.add(header["device"])
        of_run: dict[str, list[dict[str, Any]]] = {row["curve"]: [] for row in found}
        for row in (row for row in found if "out_of_memory" not in row):
            of_run[row["curve"]].append(row | {"share": 100 * row["useful_tflops"] / header["peak_tflops"]})
        curves |= of_run
    return curves, ", ".join(sorted(cards))


def drawn(files: Sequence[Path]) -> Any:
    """One picture of three curves: samples per second, and their share of the matrix peak beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    curves, cards = curves_of(files)
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    what = {"slots": "trials at once (K)", "rank": "rank of every trial", "length": "mean length of a text, in tokens"}
    loops = {row["mean"]: row["samples_per_second"] for row in curves.get("plain", [])}
    for axis, (curve, label) in zip(axes, what.items(), strict=True):
        of = sorted(curves.get(curve, []), key=lambda row: float(row[key_of(curve)]))
        if not of:  # not measured
            axis.set_axis_off()
            continue
        x = [row[key_of(curve)] for row in of]
        axis.margins(x=0.1)  # K stands above its point
        axis.plot(x, [row["samples_per_second"] for row in of], "o-", color="C0", label="pack")
        axis.set(xscale="log", xlabel=label)
        if curve == "length":
            axis.set_yscale("log")
            axis.margins(y=0.12)
            axis.yaxis.set_major_formatter(ScalarFormatter())
        else:
            axis.set_ylim(0, 1.15 * max(row["samples_per_second"] for row in of))
        axis.set_ylabel("samples per second", color="C0")
        axis.set_xticks(x, labels=[f"{value:g}" for value in x], fontsize=8)  # 128, 256 and 512 lie side by side
        axis.xaxis.set_minor_locator(NullLocator())
        alone = [loops.get(row["mean"] if row["rank"] == SETUP.rank else None, nan) for row in of]
        axis.plot(x, alone, "^:", color="C2", label="plain loop of one trial")
        if curve != "slots":
            for row in of:
                place = (row[key_of(curve)], row["samples_per_second"])
                axis.annotate(f"K={row['slots']}", place, (0, 7), textcoords="offset points", ha="center", fontsize=8)
        share = axis.twinx()
        share.margins(x=0.1)
        share.plot(x, [row["share"] for row in of], "s--", color="C1")
        share.set_ylim(0, 80)
        share.set_ylabel("% of the matrix peak", color="C1")
    handles, labels = next(axis for axis in axes if axis.lines).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    figure.suptitle(f"Llama 3.2 1B in NF4, batch {SETUP.batch}, rank {SETUP.rank}, tweets, unless said; {cards}")
    return figure


def key_of(curve: str) -> str:
    return {"length": "mean"}.get(curve, curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=" ".join(str(__doc__).split("\n\n")[0].split()))
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES), help="all, if not given")
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help="draw the figures in these files instead")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.draw:
        for file in options.draw:
            if not file.is_file():
                parser.error(f"{file} is not there")
        drawn(options.draw).savefig(Path(__file__).with_name("scaling.png"), dpi=110)
        return
    need_gpu()
    measure(options.curves)


if __name__ == "__main__":
    main()
