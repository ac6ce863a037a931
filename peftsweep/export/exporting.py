"""From a complete trial to a folder that works by itself; scored again before it counts."""

from __future__ import annotations

import errno
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
from peftsweep.export.broken_files import told
from peftsweep.export.destination import check_free, check_outside, destination
from peftsweep.export.manifest import Manifest
from peftsweep.export.model_card import Origin, blocks, card
from peftsweep.export.prediction import logits
from peftsweep.export.verification import check_card, check_logits, legible
from peftsweep.methods import METHODS, attached, merged
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
from peftsweep.system.leftovers import tidy
from peftsweep.task import Labels, probabilities, tune_thresholds

DTYPES = ("float32", "bfloat16", "float16", "nf4")
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def export(
    study: str,
    folder: str | Path,
    *,
    trial: int | None = None,
    storage: str = results.STORAGE,
    force: bool = False,
    merge: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> Manifest:
    """Write a trial's adapter with its head, tokenizer, labels, thresholds and a model card.

    The folder is written aside, loaded again by stock `peft` and scored on the study's validation rows; only if it
    scores as it did, it takes its place.

    Args:
        trial: the best one, unless it is named.
        force: replace a folder that an earlier export made.
        merge: a plain model in place of an adapter, for LoRA and IA³.
        note: told what is under way, in a line.

    Raises:
        UsageError: no such study or trial, none that is complete, or a folder that is there already.
        ExportError: it does not score as it did, or cannot be written. Nothing is left behind.
        ModelError: the base cannot be loaded.
    """
    to = destination(folder)
    chosen = results.finished(storage, study, trial, note)
    method = chosen.study_record.config.method
    if merge and METHODS[method].four_bit:
        raise UsageError(
            f"study {study!r} is {method}: its base is held in 4 bits, into which nothing can be merged; export the "
            "adapter, without --merge"
        )
    check_outside(to, chosen.folder.parent)
    tidy(to)  # an export that was killed as it replaced this one
    check_free(to, force=force)
    rows = _rows(chosen)
    made = [parent for parent in to.parents if not parent.exists()]  # the innermost first
    try:
        with replaced(to) as aside:
            aside.mkdir(parents=True)
            written = _write(chosen, rows, aside, to.name, merge=merge, note=note)
            check_free(to, force=force)  # minutes later
        return written
    except Exception as error:  # tokenizers has none of its own for a full disk
        if not isinstance(error, OSError | SafetensorError) and "os error" not in str(error):
            raise
        raise ExportError(f"{to}: {_reason(error)}; nothing is left there") from error
    finally:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _rows(chosen: results.Finished) -> tuple[NDArray[np.float32], Labels, list[NDArray[np.int64]]]:
    """Logits, labels and token ids of the validation rows, as the sweep kept them.

    Raises:
        ExportError: it did not, or they are gone.
    """
    try:
        return *chosen.predictions(), chosen.texts()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ExportError(
            f"trial {chosen.number} of study {chosen.study!r} cannot be scored again, for what its sweep kept of it is "
            f"gone, or was kept by an older version: {getattr(error, 'filename', None) or error}"
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
    origin, some, ours, exact = _proven(chosen, before, texts, aside, merge=merge, note=note)
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
    note("export: reading texts by the card's code")
    check_card(blocks(run), some, ours, described, exact=exact)
    (aside / manifests.CARD).write_text(shown, encoding="utf-8")
    described = described.model_copy(update={"card": manifests.digest_of(aside / manifests.CARD)})
    described.write(aside)
    return described


def _proven(
    chosen: results.Finished,
    before: NDArray[np.float32],
    texts: list[NDArray[np.int64]],
    aside: Path,
    *,
    merge: bool,
    note: Callable[[str], object],
) -> tuple[Origin, list[str], NDArray[np.float32], bool]:
    """Write the model and its tokenizer, and score the validation rows again: it must give the logits of the training.

    Returns:
        what the card says of the base; some texts and their logits, to which the card's code is held; and whether it
        computes in fp32. No model stays in memory, for that code loads its own.
    """
    given, task, dtype = chosen.study_record.config.model, chosen.task, _dtype(chosen)
    note(f"export: trial {chosen.number} of {chosen.study}; loading {given.id}")
    adapter = aside / ADAPTER if merge else aside
    _copy(chosen, adapter)
    base = _base(chosen, given, merge=merge)
    origin = _origin(base)
    tokenizer = _save_tokenizer(given, origin.pad, texts, aside)
    with told(adapter, "the adapter"):
        model = attached(base.model, adapter)
    exact = base.dtype == torch.float32 and not base.four_bit
    if merge:
        origin = replace(origin, dtype=dtype)
        _save_merged(model, getattr(torch, dtype), aside)
        shutil.rmtree(adapter)
        del base, model  # there is room for one at a time
        own = ModelConfig.model_validate({"id": str(aside), "dtype": dtype})
        model = load_base(own, task, four_bit=False, device=default_device(), pad=origin.pad).model
    note("export: scoring the validation rows again")
    exact = exact and dtype == "float32"
    check_logits(before, logits(model, texts), model, texts, exact=exact)
    some = legible(tokenizer, texts, chosen.study_record.config.data.max_length)
    return origin, list(some), logits(model, list(some.values())) if some else before[:0], exact


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if score is not None}


def _dtype(chosen: results.Finished) -> str:
    """The precision in which the trial was trained: of torch, or nf4."""
    dtype = chosen.study_record.described.get("dtype")
    if dtype not in DTYPES:
        raise ExportError(
            f"study {chosen.study!r}: the storage does not say in which precision it was trained, but {quoted(dtype)}"
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
    """Copy the adapter, before anything that takes long.

    Raises:
        ExportError: a sweep that goes on has removed it meanwhile, or a part of it.
    """
    to.mkdir(exist_ok=True)
    gone = ExportError(
        f"the adapter of trial {chosen.number} of study {chosen.study!r} was removed while it was copied, as better "
        "trials came; export again, or give the study more search.keep_adapters"
    )
    try:
        for file in sorted(chosen.adapter.iterdir()):
            shutil.copyfile(file, to / file.name)
    except FileNotFoundError as error:
        raise gone from error
    if not all((chosen.adapter / name).exists() for name in WEIGHTS):  # else it was whole until now
        raise gone


def _base(chosen: results.Finished, given: ModelConfig, *, merge: bool) -> Base:
    """The base on which the trial was trained; to be merged, in fp32 on the CPU.

    Raises:
        ExportError: it is another one by now.
    """
    if merge:
        given = given.model_copy(update={"dtype": "float32"})
    four_bit = METHODS[chosen.study_record.config.method].four_bit
    device = torch.device("cpu") if merge else default_device()
    base = load_base(given, chosen.task, four_bit=four_bit, device=device)
    if not is_at_revision(base, chosen.study_record.base):
        raise ExportError(
            f"study {chosen.study!r} was trained on {given.id} at {chosen.study_record.base}, which is now "
            f"{revision_of(base)}; the adapter would mean nothing on it"
        )
    return base


def _save_merged(model: Any, dtype: torch.dtype, aside: Path) -> None:
    """In the precision in which the base computed."""
    plain = merged(model).to(dtype)
    with silence_libraries():
        plain.save_pretrained(str(aside))
    mode = (aside / "config.json").stat().st_mode & 0o777
    for file in aside.glob("*.safetensors"):  # which only their owner can read, whatever the umask
        file.chmod(mode)


def _save_tokenizer(given: ModelConfig, pad: int, texts: Sequence[NDArray[np.int64]], aside: Path) -> Any:
    """The base's tokenizer, saved so that stock code pads as the base expects it; and loaded again.

    Raises:
        ExportError: it makes other tokens of texts once it is saved and loaded.
    """
    tokenizer = load_tokenizer(given)
    if pad in special_tokens(tokenizer) or tokenizer.pad_token_id is None:  # a word would become another token
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # what the base is trained with
    tokenizer.chat_template = None  # nobody chats with a classifier; several templates make a folder of their own
    tokenizer.save_pretrained(str(aside))
    some = [tokenizer.decode(text, skip_special_tokens=skip) for text in texts[:64] for skip in (True, False)]
    saved = saved_tokenizer(aside, trust_remote_code=given.trust_remote_code)
    if tokenizer(some)["input_ids"] != saved(some)["input_ids"]:
        raise ExportError(
            "the base's tokenizer is another one once it is saved and loaded again; it cannot be exported"
        )
    return saved


def _reason(error: BaseException) -> str:
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
        return "the disk is full"
    return f"cannot be written: {getattr(error, 'strerror', None) or error}"
