"""Whether what is exported still is what was trained: by our own batches, and by the code that the card gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.errors import ExportError
from peftsweep.exported.predicting import Text, logits
from peftsweep.task import Logits

# Logits again, apart by their root mean square: what rounding makes of them, in fp32 and in bf16 or 4 bits.
ALIKE = {True: 2e-3, False: 5e-2}
WORST = 8  # texts that are read alone, to say why they differ
CARD, TOGETHER = 64, 16  # texts that are read by the card's code, and in one batch


def check_logits(before: Logits, after: Logits, model: Any, texts: Sequence[Text], *, exact: bool) -> None:
    """Compare the exported model's logits with those of the training.

    Args:
        before, after: [n, C], in training and now.
        texts: token ids of the n texts.

    Raises:
        ExportError: they differ; it says what can be known of why.
    """
    if (apart := _apart(before, after)) <= ALIKE[exact]:
        return
    scale = np.sqrt(np.mean(before**2))
    off = np.flatnonzero(~(np.abs(after - before).max(axis=1) <= ALIKE[exact] * scale))
    worst = off[np.argsort(-np.abs(after - before).max(axis=1)[off])][:WORST]
    alone = np.concatenate([logits(model, [texts[int(i)]]) for i in worst])
    pad = int(model.config.pad_token_id)
    if _apart(before[worst], alone) <= ALIKE[exact]:
        why = "read alone they give the same, so the base reads a text in another way beside longer ones"
    elif all((texts[int(i)] == pad).any() for i in off):
        why = "each holds the token that pads, which versions before 0.2 counted otherwise in training; train again"
    elif len(off) < len(texts):
        why = f"the others give the same; the first that does not is validation row {off[0] + 1}"
    else:
        why = "the adapter's files were changed since, or the base's code was"
    raise ExportError(
        f"the exported model does not give the logits that it gave in training: it is not kept. {len(off):,} of "
        f"{len(texts):,} texts differ, all in all by {apart:.1%}: {why}. Another trial: --trial N"
    )


@torch.inference_mode()
def check_card(model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int, *, exact: bool) -> None:
    """Compare what stock code makes of texts, as the card has it, with what `peftsweep predict` makes of them.

    Args:
        tokenizer: the exported one.
        texts: token ids, of which some are made texts again.

    Raises:
        ExportError: the logits differ.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    some = order[np.linspace(0, len(texts) - 1, min(CARD, len(texts))).round().astype(int)]
    words = [tokenizer.decode(texts[i], skip_special_tokens=True) for i in some]
    options = {"truncation": True, "max_length": max_length}
    kept = [(text, ids) for text, ids in zip(words, tokenizer(words, **options)["input_ids"], strict=True) if ids]
    device, theirs, ours = next(model.parameters()).device, [], []
    steps = -(-len(kept) // TOGETHER)
    for batch in (kept[start::steps] for start in range(steps)):  # short texts beside long ones
        inputs = tokenizer([text for text, _ in batch], padding=True, return_tensors="pt", **options)
        try:
            theirs.append(model(**inputs.to(device)).logits.float().cpu().numpy())
        except (TypeError, ValueError, IndexError) as error:  # of what the tokenizer gives beside tokens
            raise ExportError(f"stock code cannot read what the base's tokenizer gives: {error}") from error
        ours += [np.array(ids) for _, ids in batch]
    if kept and not (apart := _apart(logits(model, ours), np.concatenate(theirs))) <= ALIKE[exact]:
        raise ExportError(
            "stock code, padding as the base's tokenizer says, does not give the logits of `peftsweep predict` (apart "
            f"by {apart:.1%}): the exported folder is not kept"
        )


def _apart(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The root mean square of the differences, of that of the numbers; nan where one is none."""
    return float(np.sqrt(np.mean((after - before) ** 2)) / max(1e-12, np.sqrt(np.mean(before**2))))
