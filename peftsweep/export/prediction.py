"""How does an exported adapter label texts?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.data import is_valid_unicode
from peftsweep.errors import DataError, ExportError, ModelError, UsageError
from peftsweep.export.broken_files import as_export_error
from peftsweep.export.manifest import Manifest, read
from peftsweep.methods import attached, registered
from peftsweep.models import (
    default_device,
    is_at_revision,
    load_base,
    message_prefix,
    mute_native_output,
    revision_of,
    saved_tokenizer,
)
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.system import names
from peftsweep.task import probabilities

Text = NDArray[np.int64]
# Tokens of a batch, padding included: enough to keep a GPU busy, few enough to stay in a CPU's caches.
TOKENS = {"cuda": 16384, "cpu": 1024}
# A batch's width is a multiple of this. On a GPU each new shape costs some 50 ms once, more than the padding costs.
STEPS = {"cuda": 8, "cpu": 1}
CHUNK = 4096  # texts per call of the tokenizer


@dataclass(frozen=True)
class Prediction:
    """The predicted labels of a text (exactly one for single-label data), and each label's probability."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


class Classifier:
    """An exported folder, loaded.

    Args:
        folder: written by `export`.
        manifest: of that folder, if it was read already.
        trust_remote_code: run the Python code that comes with the base, if the base was trained with it.

    Raises:
        UsageError: the base comes with code, and `trust_remote_code` is false.
        ExportError: the folder does not exist or was changed, or the base has changed.
        ModelError: the base cannot be loaded.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None, *, trust_remote_code: bool = False) -> None:
        self.folder = folder = names.parse_path(folder, "the exported folder", ExportError).absolute()
        self.manifest = found = manifest or read(folder)
        if found.model.trust_remote_code and not trust_remote_code:
            raise UsageError(
                f"{folder}: its base, {word(found.model.id)}, brings code of its own. If you trust it, and the source "
                "of the folder, give --trust-remote-code"
            )
        with as_export_error(folder, "its tokenizer"):
            self.tokenizer = saved_tokenizer(folder, trust_remote_code=found.model.trust_remote_code)
        self.model = self._merged() if found.merged else self._adapted()

    def _merged(self) -> Any:
        found = self.manifest
        own = found.model.model_copy(update={"id": str(self.folder), "revision": None})
        try:
            return load_base(
                own, found.task, four_bit=False, device=default_device(), pad=found.pad, trained_head=True
            ).model
        except ModelError as error:
            why = re.split("[;.] ", str(error).removeprefix(message_prefix(own)).lstrip(": "))[0]  # without its advice
            raise ExportError(f"{self.folder}: its model {why}; export it again") from error

    def _adapted(self) -> Any:
        found = self.manifest
        four_bit = registered(found.method, str(self.folder)).four_bit
        base = load_base(found.model, found.task, four_bit=four_bit, device=default_device(), pad=found.pad)
        if not is_at_revision(base, found.base):
            raise ExportError(
                f"{self.folder}: it was trained on {word(found.model.id)} at {word(found.base)}, which is now "
                f"{revision_of(base)}; its predictions are useless on another base"
            )
        with as_export_error(self.folder, "its adapter"):
            return attached(base.model, self.folder)

    def predict(self, texts: Sequence[str], done: Callable[[int], object] = lambda count: None) -> list[Prediction]:
        """Predict labels and probabilities of each text, in the order of the texts.

        Args:
            done: called with the number of texts in each finished batch.

        Raises:
            UsageError: a text has half a character, which no tokenizer accepts.
            DataError: a text has a token that the base does not have.
            ExportError: the folder's tokenizer or model is damaged or forged, and does not work.
        """
        found = self.manifest
        if not texts:
            return []
        if broken := [text for text in texts if not is_valid_unicode(text)]:
            raise UsageError(
                f"{quoted(broken[0])} is not valid text: it has half a character, or bytes that are not UTF-8"
            )
        with as_export_error(self.folder, "its tokenizer"), mute_native_output():
            tokens = self._tokens(texts)
        with as_export_error(self.folder, "its model"):
            scored = logits(self.model, tokens, done)
        if invalid := int((~np.isfinite(scored)).any(axis=1).sum()):
            raise ExportError(
                f"{self.folder}: its model gives no finite numbers for {invalid:,} of {len(texts):,} texts"
            )
        if found.task.multi_label:
            shares = probabilities(scored)
        else:
            shares = np.exp(scored - scored.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
        return [
            Prediction(
                tuple(label for label, here in zip(found.labels, row, strict=True) if here),
                dict(zip(found.labels, map(float, share), strict=True)),
            )
            for row, share in zip(found.on(scored), shares, strict=True)
        ]

    def _tokens(self, texts: Sequence[str]) -> list[Text]:
        """
        Raises:
            DataError: a text has a token that the base does not have.
        """
        found: list[Text] = []
        known = self.model.get_input_embeddings().weight.shape[0]
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            ids = self.tokenizer(chunk, truncation=True, max_length=self.manifest.max_length)["input_ids"]
            for number, text in enumerate(ids, start + 1):
                if max(text, default=0) >= known:
                    token = self.tokenizer.convert_ids_to_tokens(max(text))
                    raise DataError(f"text {number}: has {quoted(token)}, a token that the base does not have")
                found.append(np.array(text or [self.model.config.pad_token_id], dtype=np.int64))
        return found


@torch.inference_mode()
def logits(
    model: Any, texts: Sequence[Text], done: Callable[[int], object] = lambda count: None
) -> NDArray[np.float32]:
    """Logits [n, C] in fp32 of a stock model, in padded batches of texts of similar length. If memory runs out, batches
    get smaller.

    Args:
        texts: token ids of n texts.
    """
    device, pad = next(model.parameters()).device, int(model.config.pad_token_id)
    tokens, step = TOKENS[device.type], STEPS[device.type]
    # The longest text comes first: if one does not fit, this fails at once.
    order = np.argsort([-len(text) for text in texts], kind="stable")
    ordered = [texts[i] for i in order]
    longest = len(ordered[0])  # the base may have no position beyond it
    found: list[torch.Tensor] = []
    start = 0
    while start < len(ordered):
        width = min(longest, -(-len(ordered[start]) // step) * step)
        batch = ordered[start : start + max(1, tokens // max(1, width))]
        ids = torch.full((len(batch), width), pad)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = torch.from_numpy(text)
            mask[row, : len(text)] = 1
        try:
            found.append(model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float())
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            tokens = len(batch) * width // 2
            continue
        start += len(batch)
        done(len(batch))
    back = np.argsort(order, kind="stable")
    return np.asarray(torch.cat(found).cpu().numpy()[back])
