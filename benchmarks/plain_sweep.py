"""The rival of a whole sweep: plain-loop processes that share the card, and each take the next of the same trials.

    python benchmarks/plain_sweep.py --study STUDY.yaml --set KEY=VALUE … --trials trials.json [--processes 8]

It is what a careful user would write: stock `peft` and `transformers`, bf16 autocast, padding per batch, fused AdamW,
one base a process, and Optuna with its successive halving over a journal that all processes share. The file has the
trials' hyperparameters, in their order. A JSON object goes to stdout: seconds from the first process's start to the
last one's end, trials by state, and the best macro-F1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from peft import get_peft_model
from transformers import get_scheduler, logging

from peftsweep.config import StudyConfig, TrainConfig, load
from peftsweep.data import Dataset
from peftsweep.data import load as load_data
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer

NAME, PARAMS = "plain", "params"
EVALUATED = 64  # texts of a batch in an evaluation


def plain_sweep(study: Path, overrides: Sequence[str], trials: Path, processes: int) -> dict[str, Any]:
    """Run the trials in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        began = time.perf_counter()
        made = begun(study, overrides, json.loads(trials.read_text(encoding="utf-8")), journal)
        command = [sys.executable, __file__, "--study", str(study), "--trials", str(trials), "--journal", str(journal)]
        command += [part for override in overrides for part in ("--set", override)]
        running = [subprocess.Popen(command, stdout=sys.stderr) for _ in range(processes)]
        statuses = [each.wait() for each in running]
        took = time.perf_counter() - began
        if any(statuses):
            raise RuntimeError(f"a process ended with exit status {max(statuses, key=abs)}")
        found = [trial for trial in made.trials if PARAMS in trial.user_attrs]
    best = max((trial.value for trial in found if trial.value is not None), default=None)
    return {
        "processes": processes,
        "seconds": round(took, 1),
        **Counter(trial.state.name.lower() for trial in found),
        "evaluations": sum(len(trial.intermediate_values) for trial in found),
        "best_macro_f1": None if best is None else round(best, 4),
    }


def begun(study: Path, overrides: Sequence[str], trials: Sequence[dict[str, Any]], journal: Path) -> optuna.Study:
    """A study in which these trials wait."""
    halving = pruner(load(study, overrides))
    made = optuna.create_study(study_name=NAME, storage=stored(journal), pruner=halving, direction="maximize")
    for drawn in trials:
        made.enqueue_trial({}, user_attrs={PARAMS: drawn})
    return made


def stored(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Optuna's successive halving, as the study has it."""
    own = config.search.pruner
    if own is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=own.min_evals, reduction_factor=own.reduction)


def work(study: Path, overrides: Sequence[str], journal: Path) -> None:
    """One process: take the next trial until all have been taken."""
    config = load(study, overrides)
    data = load_data(config.data, load_tokenizer(config.model), note=say, warn=say)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind = METHODS[config.method]
    model = load_base(config.model, data.task, four_bit=kind.four_bit, device=device).model
    method = kind(model, linear_names(model))
    filler = int(getattr(model.config.get_text_config(), "pad_token_id", None) or 0)  # a decoder's head looks for it
    shared = optuna.load_study(study_name=NAME, storage=stored(journal), pruner=pruner(config))

    while PARAMS in (trial := shared.ask()).user_attrs:
        params = config.train.model_copy(update=trial.user_attrs[PARAMS])
        torch.manual_seed(trial.number)
        adapted = get_peft_model(model, method.peft_config(params, task_type="SEQ_CLS"))
        score: float | None = None
        for index, score in enumerate(train(adapted, data, params, trial.number, device, filler), 1):
            trial.report(score, index)
            if trial.should_prune():
                shared.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            shared.tell(trial, score)
        model = adapted.unload()
    shared.tell(trial, state=optuna.trial.TrialState.FAIL)  # one more than there are: all have been taken


def train(
    model: Any, data: Dataset, params: TrainConfig, seed: int, device: torch.device, filler: int
) -> Iterator[float]:
    """Train one trial; yields macro-F1 on the validation rows at each evaluation."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay, fused = params.learning_rate, params.weight_decay, device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=fused)
    per_epoch = -(-len(data.train) // params.batch_size)
    steps = per_epoch * params.epochs
    schedule = get_scheduler(params.scheduler, optimizer, round(params.warmup * steps), steps)
    evaluations = params.evals_per_epoch * params.epochs
    due = {round(steps * index / evaluations) for index in range(1, evaluations + 1)}
    labels, step = torch.from_numpy(np.asarray(data.train.labels)), 0
    for epoch in range(params.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(data.train))
        for start in range(0, len(order), params.batch_size):
            picked = order[start : start + params.batch_size]
            model.train()
            with autocast(device):
                out = model(**padded(data.train.input_ids, picked, device, filler), labels=labels[picked].to(device))
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, params.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step in due:
                yield macro_f1(model, data, device, filler)


@torch.no_grad()
def macro_f1(model: Any, data: Dataset, device: torch.device, filler: int) -> float:
    model.eval()
    texts = data.validation.input_ids
    order = np.argsort([len(text) for text in texts])  # little padding
    parts = []
    for start in range(0, len(order), EVALUATED):
        with autocast(device):
            parts.append(model(**padded(texts, order[start : start + EVALUATED], device, filler)).logits.float())
    logits = torch.cat(parts).cpu().numpy()[np.argsort(order)]
    return data.task.macro_f1(np.asarray(data.validation.labels), data.task.predictions(logits))


def autocast(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def padded(
    texts: Sequence[Any], picked: NDArray[np.integer[Any]], device: torch.device, filler: int
) -> dict[str, torch.Tensor]:
    longest = max(len(texts[i]) for i in picked)
    ids, mask = (torch.full((len(picked), longest), value) for value in (filler, 0))
    for row, i in enumerate(picked):
        ids[row, : len(texts[i])], mask[row, : len(texts[i])] = torch.from_numpy(texts[i]), 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--trials", type=Path, required=True, help="a JSON list of the trials' hyperparameters")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)  # of one of the processes
    options = parser.parse_args()
    for file in (options.study, options.trials):
        if not file.is_file():
            parser.error(f"{file} is not there")
    logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if options.journal is not None:
        work(options.study, options.set, options.journal)
        return
    print(json.dumps(plain_sweep(options.study, options.set, options.trials, options.processes)), flush=True)


if __name__ == "__main__":
    main()
