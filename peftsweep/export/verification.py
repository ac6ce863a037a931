"""Whether what is exported still is what was trained: by our own batches, and by the code that the card gives."""

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


def legible(tokenizer: Any, texts: Sequence[Text], max_length: int) -> dict[str, Text]:
    """Some of the texts, of every length, made words again; with what the tokenizer makes of those.

    Args:
        tokenizer: the exported one.
        texts: token ids.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    some = order[np.linspace(0, len(texts) - 1, min(CARD, len(texts))).round().astype(int)]
    words = [tokenizer.decode(texts[i], skip_special_tokens=True) for i in some]
    ids = tokenizer(words, truncation=True, max_length=max_length)["input_ids"]
    return {text: np.array(own) for text, own in zip(words, ids, strict=True) if own}


@torch.inference_mode()
def check_card(code: Sequence[str], texts: Sequence[str], ours: Logits, manifest: Manifest, *, exact: bool) -> None:
    """Run the card's own code on texts, in padded batches, and compare what it finds with `peftsweep predict`.

    Args:
        code: of the card, for this folder: what loads it, and what makes labels of `texts`.
        ours: logits [n, C] of the n texts.

    Raises:
        ExportError: it fails, or finds something else.
    """
    if not texts:  # none that is left of its tokens is one again
        return
    names: dict[str, Any] = {}
    theirs, found = [], list[Any]()
    steps = -(-len(texts) // TOGETHER)
    try:
        with silence_libraries():
            exec(code[0], names)
            if names["model"].device.type == "cpu" and default_device().type != "cpu":  # whose 4 bits are there already
                names["model"].to(default_device())
            for start in range(steps):  # short texts beside long ones
                exec(code[1], read := names | {"texts": list(texts[start::steps])})
                theirs.append(read["logits"].cpu().numpy())
                found += read["found"]
    except Exception as error:  # of any library, which anything may befall
        why = shortened(" ".join(str(error).split()), 200)
        raise ExportError(
            f"the code of the model card does not run: {type(error).__name__}: {why}; the exported folder is not kept"
        ) from error
    rows = np.concatenate([np.arange(len(texts))[start::steps] for start in range(steps)])
    logits = np.concatenate(theirs)
    if not (apart := _apart(ours[rows], logits)) <= ALIKE[exact]:
        raise ExportError(
            "the code of the model card, by stock libraries and in padded batches, does not give the logits of "
            f"`peftsweep predict` (apart by {apart:.1%}): the exported folder is not kept"
        )
    labels = [[name for name, on in zip(manifest.labels, row, strict=True) if on] for row in manifest.on(logits)]
    if [[each] if isinstance(each, str) else each for each in found] != labels:
        raise ExportError(
            "the code of the model card does not give the labels of `peftsweep predict`: the folder is not kept"
        )


def _apart(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The root mean square of the differences, of that of the numbers; nan where one is none."""
    return float(np.sqrt(np.mean((after - before) ** 2)) / max(1e-12, np.sqrt(np.mean(before**2))))
