"""Do the kernels agree with plain torch? Slots have any length, some are empty; rows of no slot and dropout included.

Triton's interpreter runs them here in float32, without a GPU. tests/gpu has the same tests with compiled kernels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from peftsweep.config import TrainConfig
from peftsweep.engine import optimizer
from peftsweep.engine.optimizer import EPS, SlotUpdate, columns_of
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.layers import FAR, LayerSpec, Segments, tiled
from peftsweep.layers.context import ForwardContext
from peftsweep.layers.head import StackedLinear
from peftsweep.methods.lora import PackedLora
from tests.numbers import same
from tests.programs import lacking

SLOTS, RANK, WIDE_IN, WIDE_OUT = 4, 6, 80, 200
LENGTHS, REST = (70, 0, 3, 130), 9
KEEP, SEEDS, SALT = (0.7, 1.0, 1.0, 0.5), (123456789, 5, 7, 987654321), 1234567
CPU = torch.device("cpu")
Places = NDArray[np.uint64]

# Whether elements are dropped, and how many rows of each slot's batch earlier passes had.
DROPS = {
    "no dropout": (False, (0, 0, 0, 0)),
    "dropout": (True, (0, 0, 0, 0)),
    "dropout over the rest of a batch": (True, (40, 0, 5, 1000)),
}
# Heads, groups, width of a head, causal or not, window.
HEADS = [(6, 2, 64, True, None), (4, 4, 24, False, None), (4, 2, 128, False, 9)]
WIDE = (4, 1, 256, True, 17)


@pytest.fixture
def interpreted() -> None:
    """Kernels run in the interpreter: conftest.py sets `TRITON_INTERPRET` for the whole process if there is no GPU."""
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled for the GPU here (tests/gpu); set CUDA_VISIBLE_DEVICES= to interpret them")
    if importlib.util.find_spec("triton") is None:
        lacking("triton", "pip install triton, which is for Linux")


@pytest.mark.numbers
@pytest.mark.parametrize("rank", [RANK, 20, 64, 128])
@pytest.mark.parametrize("drops", DROPS)
def test_lora_in_the_interpreter(interpreted: None, drops: str, rank: int) -> None:
    lora_is_that_of_plain_torch(CPU, torch.float32, drops, rank)


@pytest.mark.numbers
def test_lora_of_many_rows_in_the_interpreter(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftsweep.methods import low_rank_kernels

    monkeypatch.setattr(low_rank_kernels, "MANY", 1)  # other sizes of programs
    lora_is_that_of_plain_torch(CPU, torch.float32, "dropout", 64)


@pytest.mark.numbers
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")  # from rows that see nothing
@pytest.mark.parametrize("heads", [*HEADS, WIDE], ids=str)
def test_attention_in_the_interpreter(interpreted: None, heads: tuple[int, int, int, bool, int | None]) -> None:
    attention_in_tiles_is_that_within_each_text(CPU, torch.float32, *heads)


def test_masks_look_random_along_rows_and_columns_and_between_seeds_and_layers() -> None:
    """Shares of kept elements, and how often two places agree, are within five standard deviations of chance."""
    rows, width = 400, 576
    place = np.arange(rows * width, dtype=np.uint64)
    for keep in (0.5, 0.7, 0.9):
        one, *others = (
            (hashed(place, *key) >> np.uint64(8)) < keep * 2**24 for key in ((7, 5), (8, 5), (7, 6), (1007, 5))
        )
        grid = one.reshape(rows, width)
        assert abs(one.mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / one.size)
        for axis, size in ((0, rows), (1, width)):
            z = (grid.mean(axis) - keep) / np.sqrt(keep * (1 - keep) / size)
            assert abs(z.std() - 1) < 0.2 and abs(z).max() < 5.5
        agree, pairs = keep**2 + (1 - keep) ** 2, [(one, other) for other in others]
        pairs += [(one[step:], one[:-step]) for step in (1, 2, 3, 4, 8, 64, 128, 512, width, 2 * width)]
        for a, b in pairs:
            assert abs((a == b).mean() - agree) < 5 * np.sqrt(agree * (1 - agree) / a.size)


@pytest.mark.numbers
def test_an_update_in_the_interpreter(interpreted: None) -> None:
    an_update_is_that_of_a_cpu(CPU)


@pytest.mark.numbers
def test_ia3_in_the_interpreter(interpreted: None) -> None:
    ia3_is_that_of_plain_torch(CPU, torch.float32)


# Shared by both ------------------------------------------------------------------------------------------------------


def stretches() -> list[tuple[int, int]]:
    stops = np.cumsum(LENGTHS).tolist()
    return [(stop - length, stop) for stop, length in zip(stops, LENGTHS, strict=True)]


def layout(device: torch.device, skipped: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles [n, 2] and edges [K, 3] as a pack makes them, with some unused tiles."""
    segments = Segments(tuple(range(SLOTS)), tuple(stretches()), dict(enumerate(skipped)))
    edges, tiles = tiled(segments, SLOTS, sum(LENGTHS) + REST)
    assert tiles[-1, 1] == FAR
    return torch.from_numpy(tiles).to(device), torch.from_numpy(edges).to(device)


def hashed(place: Places, seed: int, salt: int) -> Places:
    """What decides whether the elements at these places are kept: 32 bits each."""
    low, key = np.uint64(0xFFFFFFFF), np.uint64(seed)
    key = ((key ^ (key >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
    key = ((key ^ (key >> np.uint64(15)) ^ np.uint64(salt)) * np.uint64(0x846CA68B)) & low
    mixed = ((place ^ key ^ (key >> np.uint64(16))) * np.uint64(0x9E3779B1)) & low
    return ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(0x846CA68B)) & low


def mask(slot: int, skipped: int) -> torch.Tensor:
    """The dropout mask [rows, width] of a slot, computed by numpy: 1 for kept elements."""
    place = np.arange(LENGTHS[slot] * WIDE_IN, dtype=np.uint64) + np.uint64(skipped * WIDE_IN)
    kept = (hashed(place, SEEDS[slot], SALT) >> np.uint64(8)) < np.ceil(np.float32(KEEP[slot]) * 16777216)
    return torch.from_numpy(kept.astype(np.float32)).view(LENGTHS[slot], WIDE_IN)


def lora_is_that_of_plain_torch(device: torch.device, dtype: torch.dtype, drop: str, rank: int) -> None:
    from peftsweep.methods.low_rank_kernels import linear_low_rank

    drops, skipped = DROPS[drop]
    torch.manual_seed(0)
    x = torch.randn(sum(LENGTHS) + REST, WIDE_IN, device=device).to(dtype).requires_grad_()
    weight = torch.randn(WIDE_OUT, WIDE_IN, device=device).to(dtype)
    bias = torch.randn(WIDE_OUT, device=device).to(dtype)
    ranks = torch.tensor([rank, rank, max(1, rank // 2), rank], dtype=torch.int32)
    row = torch.randn(SLOTS, rank, WIDE_IN + WIDE_OUT, device=device)  # with strides, as in a pack
    row[2, ranks[2] :] = 0
    before = torch.randn_like(row)  # what earlier passes of a step left
    grads = before.clone()
    a, to_a = row[:, :, :WIDE_IN].detach().requires_grad_(), grads[:, :, :WIDE_IN]
    b, to_b = row[:, :, WIDE_IN:].mT.detach().requires_grad_(), grads[:, :, WIDE_IN:].mT
    factor, keep = (
        torch.tensor([2.0, 1.0, 0.5, 3.0]).to(device),
        torch.tensor(KEEP if drops else [1.0] * SLOTS).to(device),
    )
    tiles, bounds = layout(device, skipped)
    ours, _ = linear_low_rank(
        x,
        weight,
        None,
        bias,
        a,
        b,
        to_a,
        to_b,
        ranks.to(device),
        factor,
        keep,
        torch.tensor(SEEDS, dtype=torch.int32).to(device),
        torch.tensor([SALT]).to(device),
        tiles,
        bounds,
        drops,
    )
    added = []
    for slot, (start, stop) in enumerate(stretches()):
        rows = x[start:stop].float() * (mask(slot, skipped[slot]).to(device) if drops else 1.0)
        added.append(factor[slot] / keep[slot] * (rows @ a[slot].T) @ b[slot].T)
    plain = x.float() @ weight.float().T + bias.float()
    theirs = plain + torch.cat([*added, torch.zeros(REST, WIDE_OUT, device=device)])
    same(ours, theirs, dtype)
    grad = torch.randn_like(theirs)
    (to_x,) = torch.autograd.grad(ours, x, grad.to(ours.dtype))
    wanted_x, wanted_a, wanted_b = torch.autograd.grad(theirs, (x, a, b), grad)
    same(to_x, wanted_x, dtype)
    wanted = torch.cat([wanted_a, wanted_b.mT], dim=2)
    wanted[2, ranks[2] :] = 0  # beyond the slot's rank
    same(grads - before, wanted, dtype)
    assert torch.equal(grads[1], before[1])  # the slot without rows


def an_update_is_that_of_a_cpu(device: torch.device) -> None:
    """Trials of other ranks, optimizers and limits; one slot is empty, another takes no part."""
    from peftsweep.engine.optimizer_kernels import clip_and_update

    shared = {"learning_rate": 0.01, "weight_decay": 0.1}
    trials = [
        TrainConfig(rank=4, max_grad_norm=1.0, **shared),
        TrainConfig(rank=1, optimizer="sgd", max_grad_norm=0.0, **shared),
        TrainConfig(rank=2, **shared),
    ]
    ours, theirs = (two_layers(where, trials) for where in (device, CPU))
    updates = [SlotUpdate(slot, 7, 0.01 * (slot + 1), trials[slot]) for slot in (0, 1)]
    values = columns_of(theirs, updates)
    before = ours.weights.clone()
    same(clip_and_update(ours, values, EPS, block=64).cpu(), optimizer.step(theirs, updates))  # a row has ten blocks
    mine, plain = (
        torch.stack([each.weights, *each.moments.values(), each.grads])[:, :2].cpu() for each in (ours, theirs)
    )
    same(mine, plain)
    assert not ours.grads[:2].any() and torch.equal(ours.weights[2:], before[2:]) and ours.grads[2].any()


def two_layers(device: torch.device, trials: Sequence[TrainConfig]) -> SlotParameters:
    """Two layers and a head, with weights, gradients and moments in what each trial uses of its slot."""
    context = ForwardContext([0.0] * 4, device, fused=False)
    linears = nn.Linear(24, 40), nn.Linear(40, 24)
    specs = [LayerSpec(each.requires_grad_(False), f"layer{i}", i, context, 4) for i, each in enumerate(linears)]
    head = StackedLinear(LayerSpec(nn.Linear(24, 3), "head", 2, context, 4))
    stack = SlotParameters([*(PackedLora(spec, 4) for spec in specs), head], 4, device)
    numbers = torch.Generator().manual_seed(0)
    for slot, params in enumerate(trials):
        stack.start(slot, params, frozenset(("layer0", "layer1", "head")), numbers)
        for matrix in (stack.weights, stack.grads, *stack.moments.values()):
            row = torch.zeros(matrix.shape[1])
            for part in stack.split(slot, row, params).values():
                part.copy_(torch.rand(part.shape, generator=numbers) + 0.1)
            matrix[slot].copy_(row)
    return stack


def attention_in_tiles_is_that_within_each_text(
    device: torch.device, dtype: torch.dtype, heads: int, groups: int, width: int, causal: bool, window: int | None
) -> None:
    from peftsweep.layers.attention_kernels import attend_texts

    texts = [
        [30, 5, 1, 34],
        [],
        [3],
        [100, 30],
    ]  # each slot's texts, whose lengths add up to `LENGTHS`; then rows of no slot
    lengths = torch.tensor([*(n for some in texts for n in some), REST])
    ends = lengths.cumsum(0)
    begins, stops = (x.repeat_interleave(lengths).int().to(device) for x in (ends - lengths, ends))
    tiles, edges = layout(device)
    rows, real = int(ends[-1]), int(ends[-1]) - REST
    torch.manual_seed(0)
    q = torch.randn(heads, rows, width, device=device).to(dtype).transpose(0, 1).requires_grad_()
    k, v = (torch.randn(rows, groups, width, device=device).to(dtype).requires_grad_() for _ in range(2))
    ours, _ = attend_texts(q, k, v, begins, stops, tiles, edges, 0.2, 1 << 20 if window is None else window, causal)
    place = torch.arange(rows, device=device)
    away = place[:, None] - place[None, :]
    seen = (begins[:, None] == begins[None, :]) & (away.abs() <= (rows if window is None else window))
    if causal:
        seen &= away >= 0
    wide = [x.float().transpose(0, 1).repeat_interleave(heads // x.shape[1], 0) for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*(x[None] for x in wide), attn_mask=seen, scale=0.2)
    theirs = theirs[0].transpose(0, 1)
    same(ours[:real], theirs[:real], dtype)
    assert not ours[real:].any()
    grad = torch.randn_like(theirs)
    grad[real:] = 0
    got, want = (torch.autograd.grad(out, (q, k, v), grad.to(out.dtype)) for out in (ours, theirs))
    for mine, plain in zip(got, want, strict=True):
        same(mine, plain, dtype)


def ia3_is_that_of_plain_torch(device: torch.device, dtype: torch.dtype) -> None:
    from peftsweep.methods.scaling_kernels import scale_rows

    torch.manual_seed(0)
    x = torch.randn(sum(LENGTHS) + REST, WIDE_IN, device=device).to(dtype).requires_grad_()
    scale = torch.randn(SLOTS, WIDE_IN, device=device).requires_grad_()
    adapts = torch.tensor([1.0, 1.0, 0.0, 1.0]).to(device)
    ours = scale_rows(x, scale, adapts, *layout(device))
    factors = torch.where(adapts[:, None] > 0, scale, 1.0)
    scaled = [x[start:stop].float() * factors[slot] for slot, (start, stop) in enumerate(stretches())]
    theirs = torch.cat([*scaled, x[-REST:].float()])
    same(ours, theirs, dtype)
    grad = torch.randn_like(theirs)
    got, want = (torch.autograd.grad(out, (x, scale), grad.to(out.dtype)) for out in (ours, theirs))
    for mine, plain in zip(got, want, strict=True):
        same(mine, plain, dtype)
