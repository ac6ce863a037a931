"""How is a trial exported? To a folder that works by itself, and that is scored again before it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from peftsweep import __version__
from peftsweep.config import ModelConfig
from peftsweep.errors import ExportError, UsageError
from peftsweep.export import manifest as manifests
from peftsweep.export.broken_files import as_export_error
from peftsweep.export.destination import check_free, check_outside, destination
from peftsweep.export.manifest import Manifest
from peftsweep.export.model_card import Origin, card, code_blocks
from peftsweep.export.prediction import logits
from peftsweep.export.verification import check_card, check_logits, decoded_sample
from peftsweep.methods import Method, attached, merged, registered
from peftsweep.models import (
    Base,
    default_device,
    head_names,
    is_at_revision,
    load_base,
    load_tokenizer,
    revision_of,
    saved_tokenizer,
    silence_libraries,
    special_tokens,
)
from peftsweep.safe_text.quoting import quoted
from peftsweep.study import results
from peftsweep.study.trial_files import ADAPTER
from peftsweep.system.atomic_files import replaced
from peftsweep.system.default_places import STORAGE
from peftsweep.system.leftovers import tidy
from peftsweep.system.os_errors import FULL
from peftsweep.task import Labels, probabilities, tune_thresholds

DTYPES = ("float32", "bfloat16", "float16", "nf4")
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def export(
    study: str,
    folder: str | Path,
    *,
    trial: int | None = None,
    storage: str = STORAGE,
    force: bool = False,
    merge: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> Manifest:
    """Write a trial's adapter with its head, tokenizer, labels, thresholds and a model card.

    The folder is written under a temporary name, loaded by stock `peft`, and scored on the study's validation rows. It
    gets its name only if the logits are those of the training.

    Args:
        trial: number of the trial; by default the best one.
        force: replace the folder of an earlier export.
        merge: write a plain model instead of an adapter, for LoRA and IA³.
        note: called with a line about each step.

    Raises:
        UsageError: the study or trial does not exist or is not complete, its method is not registered, or the folder
            exists already.
        ExportError: the logits differ, or the folder cannot be written. Nothing is left behind.
        ModelError: the base cannot be loaded.
    """
    to = destination(folder)
    chosen = results.finished(storage, study, trial, note)
    method = _method(chosen)
    if merge and method.four_bit:
        raise UsageError(
            f"study {study!r} uses {method.name}: its base is quantised to 4 bits, so nothing can be merged into it; "
            "export the adapter, without --merge"
        )
    check_outside(to, chosen.folder.parent)
    tidy(to)  # what a killed export left here
    check_free(to, force=force)
    rows = _stored_predictions(chosen)
    made = [parent for parent in to.parents if not parent.exists()]  # the innermost first
    try:
        with replaced(to) as aside:
            aside.mkdir(parents=True)
            written = _write(chosen, rows, aside, to.name, merge=merge, note=note)
            check_free(to, force=force)  # again: minutes have passed
        return written
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{to}: {_reason(error)}; nothing is left there") from error
    finally:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _method(chosen: results.Finished) -> type[Method]:
    return registered(chosen.study_record.config.method, f"study {chosen.study!r}")


def _stored_predictions(chosen: results.Finished) -> tuple[NDArray[np.float32], Labels, list[NDArray[np.int64]]]:
    """Logits [n, C], labels and token ids of the validation rows, as the sweep stored them.

    Raises:
        ExportError: they are missing, or an older version stored them in another form.
    """
    try:
        return *chosen.predictions(), chosen.texts()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ExportError(
            f"trial {chosen.number} of study {chosen.study!r} cannot be scored again: what its sweep stored of it is "
            f"missing, or was stored by an older version: {getattr(error, 'filename', None) or error}"
        ) from error


def _write(
    chosen: results.Finished,
    rows: tuple[NDArray[np.float32], Labels, list[NDArray[np.int64]]],
    aside: Path,
    name: str,
    *,
    merge: bool,
    note: Callable[[str], object],
) -> Manifest:
    config, task, tested = chosen.study_record.config, chosen.task, chosen.study_record.test
    before, labels, texts = rows
    origin, some, ours, exact = _write_model(chosen, before, texts, aside, merge=merge, note=note)
    thresholds = tune_thresholds(before, labels) if task.multi_label else None
    described = Manifest(
        version=__version__,
        study=chosen.study,
        trial=chosen.number,
        method=config.method,
        model=config.model,
        base=str(chosen.study_record.base),
        kind=task.kind,
        labels=task.labels,
        thresholds=None if thresholds is None else tuple(map(float, probabilities(thresholds))),
        cuts=None if thresholds is None else tuple(map(float, thresholds)),
        pad=origin.pad,
        text=config.data.text,
        max_length=config.data.max_length,
        fingerprint=chosen.study_record.fingerprint,
        scores=chosen.record.scores,
        test=_numbers(tested.scores) if tested and tested.trial == chosen.number else None,
        merged=merge,
        files=manifests.digests(aside),
    )
    params = chosen.record.params
    sampled = sorted(config.space.keys() & params.keys())
    shown, run = (card(described, origin, folder=of, params=params, sampled=sampled) for of in (name, str(aside)))
    note("export: running the model card's code on some texts")
    check_card(code_blocks(run), some, ours, described, exact=exact)
    (aside / manifests.CARD).write_text(shown, encoding="utf-8")
    described = described.model_copy(update={"card": manifests.digest_of(aside / manifests.CARD)})
    described.write(aside)
    return described


def _write_model(
    chosen: results.Finished,
    before: NDArray[np.float32],
    texts: list[NDArray[np.int64]],
    aside: Path,
    *,
    merge: bool,
    note: Callable[[str], object],
) -> tuple[Origin, list[str], NDArray[np.float32], bool]:
    """Write the model and its tokenizer, and check that the validation rows get the logits [n, C] of the training.

    Returns:
        what the card says of the base; some texts and their logits, with which the card's code must agree; and whether
        the model computes in fp32. The model is released, because that code loads its own.
    """
    given, task, dtype = chosen.study_record.config.model, chosen.task, _dtype(chosen)
    note(f"export: trial {chosen.number} of {chosen.study}; loading {given.id}")
    adapter = aside / ADAPTER if merge else aside
    _copy(chosen, adapter)
    base = _base(chosen, given, merge=merge)
    origin = _origin(base)
    tokenizer = _save_tokenizer(given, origin.pad, texts, aside)
    with as_export_error(adapter, "the adapter"):
        model = attached(base.model, adapter)
    exact = base.dtype == torch.float32 and not base.four_bit
    if merge:
        origin = replace(origin, dtype=dtype)
        _save_merged(model, getattr(torch, dtype), aside)
        shutil.rmtree(adapter)
        del base, model  # memory has room for one model at a time
        own = ModelConfig.model_validate({"id": str(aside), "dtype": dtype})
        model = load_base(own, task, four_bit=False, device=default_device(), pad=origin.pad).model
    note("export: scoring the validation rows again")
    exact = exact and dtype == "float32"
    check_logits(before, logits(model, texts), model, texts, exact=exact)
    some = decoded_sample(tokenizer, texts, chosen.study_record.config.data.max_length)
    return origin, list(some), logits(model, list(some.values())) if some else before[:0], exact


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if score is not None}


def _dtype(chosen: results.Finished) -> str:
    """The precision in which the trial was trained: a dtype of torch, or nf4."""
    dtype = chosen.study_record.described.get("dtype")
    if dtype not in DTYPES:
        raise ExportError(
            f"study {chosen.study!r}: the storage has no valid precision of the training, but {quoted(dtype)}"
        )
    return str(dtype)


def _origin(base: Base) -> Origin:
    config, dtype = base.model.config, str(base.dtype).removeprefix("torch.")
    return Origin(
        base.source,
        base.hub,
        int(config.pad_token_id),
        head_names(base.model),
        dtype,
        nested=config.get_text_config() is not config,
        own_bits=base.own_bits,
    )


def _copy(chosen: results.Finished, to: Path) -> None:
    """Copy the adapter before anything slow starts.

    Raises:
        ExportError: a running sweep removed the adapter, or a part of it, meanwhile.
    """
    to.mkdir(exist_ok=True)
    gone = ExportError(
        f"the adapter of trial {chosen.number} of study {chosen.study!r} was removed while it was copied, because "
        "better trials ended; export again, or set search.keep_adapters higher"
    )
    try:
        for file in sorted(chosen.adapter.iterdir()):
            shutil.copyfile(file, to / file.name)
    except FileNotFoundError as error:
        raise gone from error
    if not all((chosen.adapter / name).exists() for name in WEIGHTS):  # if it has them, the copy is complete
        raise gone


def _base(chosen: results.Finished, given: ModelConfig, *, merge: bool) -> Base:
    """The base on which the trial was trained; for merging, in fp32 on the CPU.

    Raises:
        ExportError: the base has changed since.
    """
    if merge:
        given = given.model_copy(update={"dtype": "float32"})
    four_bit = _method(chosen).four_bit
    device = torch.device("cpu") if merge else default_device()
    base = load_base(given, chosen.task, four_bit=four_bit, device=device)
    if not is_at_revision(base, chosen.study_record.base):
        raise ExportError(
            f"study {chosen.study!r} was trained on {given.id} at {chosen.study_record.base}, which is now "
            f"{revision_of(base)}; the adapter is useless on another base"
        )
    return base


def _save_merged(model: Any, dtype: torch.dtype, aside: Path) -> None:
    """Save the merged model in this precision."""
    plain = merged(model).to(dtype)
    with silence_libraries():
        plain.save_pretrained(str(aside))
    mode = (aside / "config.json").stat().st_mode & 0o777
    for file in aside.glob("*.safetensors"):  # safetensors makes them readable by the owner only, whatever the umask
        file.chmod(mode)


def _save_tokenizer(given: ModelConfig, pad: int, texts: Sequence[NDArray[np.int64]], aside: Path) -> Any:
    """Save the base's tokenizer so that stock code pads as the base expects; returns the saved one, loaded again.

    Raises:
        ExportError: the saved tokenizer gives other tokens.
    """
    tokenizer = load_tokenizer(given)
    if pad in special_tokens(tokenizer) or tokenizer.pad_token_id is None:  # else a word would be padding
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # the inputs used in training
    tokenizer.chat_template = None  # a classifier needs none; several templates would make a folder
    tokenizer.save_pretrained(str(aside))
    some = [tokenizer.decode(text, skip_special_tokens=skip) for text in texts[:64] for skip in (True, False)]
    saved = saved_tokenizer(aside, trust_remote_code=given.trust_remote_code)
    if tokenizer(some)["input_ids"] != saved(some)["input_ids"]:
        raise ExportError(
            "the base's tokenizer gives other tokens after it is saved and loaded again; it cannot be exported"
        )
    return saved


def _reason(error: BaseException) -> str:
    if getattr(error, "errno", None) in FULL:
        return "the disk is full"
    return f"cannot be written: {getattr(error, 'strerror', None) or error}"
