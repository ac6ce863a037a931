"""Proof, before training, that a packed base is still the same model, and that stock code will agree with it.

The unchanged model reads some texts one by one, and in a padded batch as users of an export do; the packed model reads
them in one row. All three must give the same logits, and no text of a row may see another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peftsweep.engine.corpus import Text
from peftsweep.engine.oom import translate_oom
from peftsweep.models import unsupported_error, unsupported_if_it_fails

# By whether the base computes in fp32: the largest difference, relative to the largest logit.
ALIKE = {True: 2e-3, False: 0.1}
FEW = 12  # texts of different lengths
SPECIAL = ("pad", "bos", "eos", "sep", "cls", "mask", "unk")


def samples_of(splits: Iterable[Sequence[Text]], model: Any) -> list[Text]:
    """The texts that prove most, shortest first: texts of all lengths, among them the shortest and the longest, and for
    each special token the text that has it most often."""
    texts = [text for split in splits for text in split]
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(lengths, kind="stable")
    chosen = {int(order[i]) for i in np.linspace(0, len(texts) - 1, FEW).round().astype(int)}
    starts, tokens = np.cumsum(lengths) - lengths, np.concatenate(texts)
    for token in _special(model.config.get_text_config()):
        counts = np.add.reduceat(tokens == token, starts, dtype=np.int64)
        if counts.any():
            chosen.add(int(counts.argmax()))
    return [texts[i] for i in sorted(chosen, key=lambda i: (lengths[i], i))]


def _special(config: Any) -> list[int]:
    found = [getattr(config, f"{name}_token_id", None) for name in SPECIAL]
    return sorted(
        {int(token) for each in found for token in (each if isinstance(each, list) else [each]) if token is not None}
    )


def plain_logits(model: Any, samples: Sequence[Text], pad: int) -> Tensor:
    """Logits [n, C] of the unchanged model, text by text.

    Raises:
        ModelError: it gives no finite logits, or different ones in a padded batch.
    """
    with unsupported_if_it_fails(model, "transformers' own code cannot run it on these texts"), translate_oom():
        alone = torch.cat([_batch_logits(model, [text], pad) for text in samples])
        batch = _batch_logits(model, samples, pad)
    if alone.ndim != 2 or not alone.isfinite().all():
        raise unsupported_error(model, "transformers' own code gives no finite logits for these texts")
    if not (apart := _apart(batch, alone)) <= ALIKE[_exact(model)]:
        raise unsupported_error(
            model, f"transformers' own code gives a text other logits in a padded batch than alone (off by {apart:.2%})"
        )
    return alone


@torch.no_grad()
def _batch_logits(model: Any, texts: Sequence[Text], pad: int) -> Tensor:
    """Logits [n, C] in the model's own padded batch."""
    ids = torch.full((len(texts), max(map(len, texts))), pad)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.from_numpy(text)
        mask[i, : len(text)] = 1
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits.float()


def prove(
    model: Any, samples: Sequence[Text], expected: Tensor, run: Callable[[Sequence[Text]], Tensor], method: str
) -> None:
    """Compare the packed model, with the plain model's head and adapters that change nothing, with the plain model.

    Args:
        expected: logits [n, C] by `plain_logits`.
        run: returns the logits [n, C] of texts in one row, as in training without dropout.
        method: the name of the method whose layers it has, for messages.

    Raises:
        ModelError: they differ, or a text sees another.
    """
    what = f"its own code, with the layers of method {method}, cannot be run with texts in one row"
    with unsupported_if_it_fails(model, what), translate_oom():
        got, leak = _tried(model, samples, run)
    if got.shape != expected.shape:
        raise unsupported_error(
            model,
            f"its head reads the backbone in another way (logits {tuple(got.shape)} for {tuple(expected.shape)})",
        )
    if leak != 0:
        raise unsupported_error(model, "the texts of one row see each other")
    if not (apart := _apart(got, expected)) <= ALIKE[_exact(model)]:
        raise unsupported_error(
            model, f"with texts in one row it gives other logits than text by text (off by {apart:.2%})"
        )


def _tried(model: Any, samples: Sequence[Text], run: Callable[[Sequence[Text]], Tensor]) -> tuple[Tensor, float]:
    """Logits of the texts, and how much those of the middle text depend on the tokens of the others: the gradient must
    be exactly zero, in any precision."""
    embedded: list[Tensor] = []

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        embedded.append(output.requires_grad_())

    hook = model.get_input_embeddings().register_forward_hook(watch)
    try:
        logits = run(samples)
        middle = len(samples) // 2
        (grad,) = torch.autograd.grad(logits[middle].sum(), embedded[0])  # [1, T, d]
    finally:
        hook.remove()
    start, stop = (sum(map(len, samples[:count])) for count in (middle, middle + 1))
    others = torch.cat([grad[0, :start], grad[0, stop:]])  # fillers included
    return logits.detach(), float(others.abs().max()) if others.numel() else 0.0


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def _exact(model: nn.Module) -> bool:
    return next(model.parameters()).dtype == torch.float32
