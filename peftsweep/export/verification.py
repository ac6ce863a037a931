"""Does the exported model give the logits of the training, in our batches and with the model card's code?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.errors import ExportError
from peftsweep.export.manifest import Manifest
from peftsweep.export.prediction import Text, logits
from peftsweep.models import default_device, silence_libraries
from peftsweep.safe_text.quoting import shortened
from peftsweep.task import Logits

# Largest relative root mean square difference that rounding explains: in fp32 (True), and in bf16 or 4 bits (False).
TOLERANCE = {True: 2e-3, False: 5e-2}
WORST = 8  # texts that are run alone, to find out why they differ
SAMPLE, BATCH = 64, 16  # texts for the card's code: in all, and in one batch


def check_logits(before: Logits, after: Logits, model: Any, texts: Sequence[Text], *, exact: bool) -> None:
    """Compare the exported model's logits with those of the training.

    Args:
        before, after: [n, C], in training and now.
        texts: token ids of the n texts.

    Raises:
        ExportError: they differ; the message gives the likely reason.
    """
    if (difference := _relative_difference(before, after)) <= TOLERANCE[exact]:
        return
    scale = np.sqrt(np.mean(before**2))
    off = np.flatnonzero(~(np.abs(after - before).max(axis=1) <= TOLERANCE[exact] * scale))
    worst = off[np.argsort(-np.abs(after - before).max(axis=1)[off])][:WORST]
    alone = np.concatenate([logits(model, [texts[int(i)]]) for i in worst])
    pad = int(model.config.pad_token_id)
    if _relative_difference(before[worst], alone) <= TOLERANCE[exact]:
        why = "run alone they give the same logits, so the base reads a text differently beside longer ones"
    elif all((texts[int(i)] == pad).any() for i in off):
        why = "each contains the padding token, which versions before 0.2 treated differently in training; train again"
    elif len(off) < len(texts):
        why = f"the others agree; the first that differs is validation row {off[0] + 1}"
    else:
        why = "the adapter's files or the base's code have changed since"
    raise ExportError(
        f"the exported model does not give the logits of the training, so it is not kept. {len(off):,} of "
        f"{len(texts):,} texts differ, in total by {difference:.1%}: {why}. To export another trial: --trial N"
    )


def decoded_sample(tokenizer: Any, texts: Sequence[Text], max_length: int) -> dict[str, Text]:
    """Decode some of the texts, of all lengths; returns the token ids that the tokenizer gives for each decoded text.

    Args:
        tokenizer: the exported one.
        texts: token ids.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    some = order[np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).round().astype(int)]
    words = [tokenizer.decode(texts[i], skip_special_tokens=True) for i in some]
    ids = tokenizer(words, truncation=True, max_length=max_length)["input_ids"]
    return {text: np.array(own) for text, own in zip(words, ids, strict=True) if own}


@torch.inference_mode()
def check_card(code: Sequence[str], texts: Sequence[str], ours: Logits, manifest: Manifest, *, exact: bool) -> None:
    """Run the card's code on texts in padded batches, and compare its results with those of `peftsweep predict`.

    Args:
        code: the card's code for this folder: it loads the model, and predicts labels of `texts`.
        ours: our logits [n, C] of the n texts.

    Raises:
        ExportError: the code fails, or its results differ.
    """
    if not texts:  # no text could be decoded
        return
    names: dict[str, Any] = {}
    theirs, found = [], list[Any]()
    steps = -(-len(texts) // BATCH)
    try:
        with silence_libraries():
            exec(code[0], names)
            if (
                names["model"].device.type == "cpu" and default_device().type != "cpu"
            ):  # a 4-bit model is on the GPU already
                names["model"].to(default_device())
            for start in range(steps):  # mixes short and long texts
                exec(code[1], read := names | {"texts": list(texts[start::steps])})
                theirs.append(read["logits"].cpu().numpy())
                found += read["found"]
    except Exception as error:  # libraries raise anything
        why = shortened(" ".join(str(error).split()), 200)
        raise ExportError(
            f"the code of the model card does not run: {type(error).__name__}: {why}; the exported folder is not kept"
        ) from error
    rows = np.concatenate([np.arange(len(texts))[start::steps] for start in range(steps)])
    logits = np.concatenate(theirs)
    if not (difference := _relative_difference(ours[rows], logits)) <= TOLERANCE[exact]:
        raise ExportError(
            "the code of the model card (stock libraries, padded batches) does not give the logits of "
            f"`peftsweep predict`: they differ by {difference:.1%}. The exported folder is not kept"
        )
    labels = [[name for name, on in zip(manifest.labels, row, strict=True) if on] for row in manifest.on(logits)]
    if [[each] if isinstance(each, str) else each for each in found] != labels:
        raise ExportError(
            "the code of the model card does not give the labels of `peftsweep predict`: the folder is not kept"
        )


def _relative_difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Root mean square of the differences, relative to that of `before`; nan if a number is nan."""
    return float(np.sqrt(np.mean((after - before) ** 2)) / max(1e-12, np.sqrt(np.mean(before**2))))
