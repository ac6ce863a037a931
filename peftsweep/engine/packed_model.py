"""A base model made ready for a pack: its layers wrapped, its attention and head replaced, and proof that it is still
the same model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from peftsweep.config import TrainConfig
from peftsweep.engine.corpus import Corpus, Pooling, Text
from peftsweep.engine.equivalence import plain_logits, prove
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.text_packing import pack_texts
from peftsweep.errors import MethodError, ModelError
from peftsweep.layers import ForwardContext, LayerSpec, Masks, PackedLayer
from peftsweep.layers.attention import ATTENTION, has_kernel, run_backbone
from peftsweep.layers.head import PooledTexts, StackedLinear
from peftsweep.layers.packed_batch import Attention, PackedBatch
from peftsweep.layers.pooled_last_block import PooledBlockForward
from peftsweep.layers.triton_devices import runs_triton
from peftsweep.methods import Method
from peftsweep.models import (
    check_supported,
    head_names,
    is_4bit,
    nf4_values_and_scales,
    text_backbone,
    unsupported_error,
    unsupported_if_it_fails,
)

SHORT = 128  # mean tokens of a text up to which attention works on tiles of several texts


class PackedModel:
    """The model's backbone, head and stacked adapters, as one function from a packed batch to logits.

    Args:
        samples: a few texts of different lengths, on which the packed model is compared with the plain one.
        texts: token ids of the training texts. Their mean length decides how attention is computed.

    Attributes:
        last: the last block's forward, if that block runs on the pooled tokens only.
        keeps_state: whether a pass changes buffers of the base, so that only one pass can run at a time.

    Raises:
        ModelError: the architecture does not give the same logits packed as it gives text by text.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        candidates: Sequence[TrainConfig],
        slots: int,
        samples: Sequence[Text],
        texts: Sequence[Text],
    ) -> None:
        check_supported(model)
        self.model, self.method = model, method
        self.device = next(model.parameters()).device
        self.pooling = _pooling(model)
        self.before: str = model.config._attn_implementation
        self._check_attention()
        expected = plain_logits(model, samples, self.pooling.pad_token_id)
        fused = runs_triton(self.device)
        may_drop = any(method.may_drop(params) for params in candidates)
        self.context = ForwardContext([0.0] * slots, self.device, fused, may_drop)
        # One kind for all passes of the pack, so that the proof (made before compiling) holds for all of them.
        kernel: Attention = "tiles" if fmean(map(len, texts)) <= SHORT else "varlen"
        self.attention: Attention = kernel if fused and has_kernel(model) else "padded"
        self.heads = head_names(model)
        targets = {path for params in candidates for path in method.targets(params)}
        if unknown := sorted(targets - set(method.linears)):
            raise MethodError(
                f"method {method.name}: targets() names {unknown[0]!r}, which is no linear layer of the base"
            )
        layers: list[PackedLayer] = []
        for path in (path for path in method.linears if path in targets):
            spec = LayerSpec(model.get_submodule(path), path, len(layers), self.context, slots)
            layers.append(method.layer(spec, candidates))
            if fused and is_4bit(layers[-1].inner):
                layers[-1].frozen = nf4_values_and_scales(layers[-1].inner)
        for path in self.heads:
            head = StackedLinear(LayerSpec(model.get_submodule(path), path, len(layers), self.context, slots))
            head.std = float(getattr(model.config.get_text_config(), "initializer_range", StackedLinear.std))
            layers.append(head)
        self.stack = SlotParameters(layers, slots, self.device)  # before the model is changed: it may not fit
        for layer in layers:
            model.set_submodule(layer.name, layer)
        prefix = model.base_model_prefix
        self.backbone: nn.Module = getattr(model, prefix)
        self.reader: nn.Module = model.get_submodule(text_backbone(model))
        self.pooled = PooledTexts(getattr(self.backbone, "pooler", None), self.context)
        if self.pooled.pooler is not None:
            self.backbone.pooler = None
        # The head is the model's own forward without the backbone; the shallow copy leaves `model` intact.
        self.head: nn.Module = copy.copy(model)
        self.head._modules = dict(model._modules)
        setattr(self.head, prefix, self.pooled)
        self.hooks: list[RemovableHandle] = []
        self.last: PooledBlockForward | None = None
        try:
            model.set_attn_implementation(ATTENTION)
            before = _state(model)
            self._settle_last_block(method.widest(candidates), samples, expected)
            self.keeps_state = _state(model) != before
        except BaseException:
            self.release()
            raise

    def _check_attention(self) -> None:
        """Check that the model's attention can be chosen."""
        with unsupported_if_it_fails(self.model, "its attention cannot be chosen"):
            self.model.set_attn_implementation(ATTENTION)
            chosen = self.model.config._attn_implementation == ATTENTION
            self.model.set_attn_implementation(self.before)
        if not chosen:
            raise unsupported_error(
                self.model, "it computes attention in its own way, which would mix the texts of a row"
            )

    def release(self) -> None:
        """Put the base's own layers, pooler and attention back, and drop what was compiled: a process compiles only so
        many variants of a function."""
        if self.pooled.pooler is not None:
            self.backbone.pooler = self.pooled.pooler
        for layer in self.stack.layers:
            self.model.set_submodule(layer.name, layer.spec.inner)
        for block in _blocks(self.reader):
            block._compiled_call_impl = None
        if self.last is not None:
            self.last.remove()
            self.last = None
        for hook in self.hooks:
            hook.remove()
        self.model.set_attn_implementation(self.before)
        if self.device.type == "cuda":
            torch.compiler.reset()

    def corpus(self, texts: Sequence[Text]) -> Corpus:
        return Corpus(texts, self.pooling)

    def pack_texts(
        self,
        slots: Sequence[int],
        parts: Sequence[np.ndarray[Any, np.dtype[np.int64]]],
        corpus: Corpus,
        skipped: Mapping[int, tuple[int, int]] | None = None,
        more: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> PackedBatch:
        tiles_for = len(self.context.dropouts) if self.context.fused else 0
        return pack_texts(slots, parts, corpus, self.device, self.attention, tiles_for, skipped, more)

    def logits(self, rows: PackedBatch, masks: Masks | None) -> Tensor:
        """Logits [k·n, C] in fp32. Without masks there is no dropout."""
        self.context.begin(rows.tokens, rows.texts, masks)
        if self.hooks:
            along = () if rows.spans is None else (rows.spans.begins, rows.spans.stops)
            read = (rows.pooled, rows.reads.tiles)
            _of_any_length((rows.ends, rows.tokens.tiles, *read, *along), dim=0)
            _of_any_length((rows.position_ids,))
        hidden = run_backbone(self.backbone, rows)  # [m, d], or [T, d]
        if self.last is None:
            hidden = hidden[rows.pooled]  # [m, d]
        self.context.use_segments(rows.batch)  # a pooler's linear layers are adapted too
        try:
            self.context.pooled = hidden[rows.spread, None]  # [k·n, 1, d]
            some_token = rows.input_ids[0, rows.pooled[rows.spread], None]  # [k·n, 1]
            logits: Tensor = self.head(input_ids=some_token).logits
        finally:
            self.context.pooled = torch.empty(0)
        return logits.float()

    def compile(self, last: bool = True) -> None:
        """Compile the backbone's blocks, if the adapters run as kernels. Blocks of one kind share their compiled code.

        Args:
            last: the last block, too, where it has code of its own because it runs on the pooled tokens.

        A block's small operations (norms, rotations, activations) become a few kernels. Each kind of block (such as one
        with another window) has a variant for training and one for evaluation, both for rows of any length. The hooks
        below prevent more variants, and more dynamic shapes than the length.
        """
        if self.attention == "padded" or self.hooks:
            return
        blocks = _blocks(self.reader)
        # The first block's input would be the only one without a gradient.
        self.hooks = [self.model.get_input_embeddings().register_forward_hook(_with_gradient)]
        for part in self.reader.children():  # embeddings, rotations
            if not set(part.modules()) & set(blocks):
                self.hooks.append(part.register_forward_hook(_gives_any_length))
        if self.last is not None:
            block = blocks.pop()
            self.hooks.append(block.register_forward_pre_hook(lambda block, args: _of_any_length(args)))
            if last:
                self.last.compile()
        for block in blocks:
            block.compile()

    # Proof ----------------------------------------------------------------------------------------------------------

    def _settle_last_block(self, params: TrainConfig, samples: Sequence[Text], expected: Tensor) -> None:
        """Run the last block on the pooled tokens only, unless that changes the logits or fails (as it does if the
        block runs more than once)."""
        if blocks := _blocks(self.reader):
            self.last = PooledBlockForward(blocks[-1], self.context)
            alike = True
            try:
                self._prove(params, samples, expected)
            except ModelError:  # whatever a base's own code makes of fewer rows
                alike = False
            if not (alike and self.last.called):
                self.last.remove()
                self.last = None
        if self.last is None:
            self._prove(params, samples, expected)

    def _prove(self, params: TrainConfig, samples: Sequence[Text], expected: Tensor) -> None:
        """Compare with adapters on every layer as at the start of a trial, when they change nothing yet."""
        every = frozenset(layer.name for layer in self.stack.layers)
        self.stack.start(0, params, every, torch.Generator().manual_seed(0))
        try:
            own = self.stack.split(0, self.stack.weights[0], params)
            self.method.tensors({key: value.cpu() for key, value in own.items()}, params)  # raises if names collide
            for param in self.stack.param_slices:
                if param.layer.name in self.heads:
                    param.layer.stacked[param.name].data[0].copy_(getattr(param.layer.inner, param.name))
            prove(self.model, samples, expected, self._in_one_row, self.method.name)
        finally:
            self.stack.clear(0)

    def _in_one_row(self, texts: Sequence[Text]) -> Tensor:
        """Logits [n, C] of some texts in the first slot."""
        rows = self.pack_texts([0], [np.arange(len(texts))], self.corpus(texts))
        return self.logits(rows, self.context.no_dropout)[: len(texts)]


def _state(model: nn.Module) -> dict[str, tuple[int, int]]:
    """The model's buffers, and how often each was written to."""
    return {name: (id(buffer), buffer._version) for name, buffer in model.named_buffers()}


def _with_gradient(module: nn.Module, inputs: Any, output: Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()


def _gives_any_length(module: nn.Module, inputs: Any, output: Any) -> None:
    _of_any_length(output if isinstance(output, tuple) else (output,))


def _of_any_length(tensors: Iterable[Any], dim: int = 1) -> None:
    """Tell the compiler that the length of this dimension varies from pass to pass."""
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.dim() > dim:
            torch._dynamo.maybe_mark_dynamic(tensor, dim)


def _blocks(reader: nn.Module) -> list[nn.Module]:
    """The repeated layers of a transformer: its longest list of modules."""
    lists = [list(part) for part in reader.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _pooling(model: Any) -> Pooling:
    pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    shifted = hasattr(embeddings, "create_position_ids_from_input_ids")  # RoBERTa counts from pad_token_id + 1
    return Pooling(last=hasattr(model, "score"), pad_token_id=int(pad), first_position=pad + 1 if shifted else 0)
