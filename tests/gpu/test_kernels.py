"""The adapters' kernels against plain torch: slots of any length, some empty, rows of no slot, dropout by its hash."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftsweep.methods import FAR, Segments, tiled
from tests.gpu import MARKS

pytestmark = MARKS
SLOTS, RANK, WIDE_IN, WIDE_OUT = 4, 6, 80, 200
LENGTHS, REST = (70, 0, 3, 130), 9
KEEP, SEEDS, SALT = (0.7, 1.0, 1.0, 0.5), (123456789, 5, 7, 987654321), 1234567


def stretches() -> list[tuple[int, int]]:
    stops = np.cumsum(LENGTHS).tolist()
    return [(stop - length, stop) for stop, length in zip(stops, LENGTHS, strict=True)]


def layout(skipped: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles [n, 2] and edges [K, 3], as a pack makes them: with some tiles too many."""
    segments = Segments(tuple(range(SLOTS)), tuple(stretches()), dict(enumerate(skipped)))
    edges, tiles = tiled(segments, SLOTS, sum(LENGTHS) + REST)
    assert tiles[-1, 1] == FAR
    return torch.from_numpy(tiles).cuda(), torch.from_numpy(edges).cuda()


def mask(slot: int, skipped: int) -> torch.Tensor:
    """The hash by numpy: 1 for an element that is kept."""
    low, place = np.uint64(0xFFFFFFFF), np.arange(LENGTHS[slot] * WIDE_IN, dtype=np.uint64)
    place += np.uint64(skipped * WIDE_IN)
    key = place ^ np.uint64(SEEDS[slot])
    key = ((key ^ (key >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
    key = ((key ^ (key >> np.uint64(15)) ^ np.uint64(SALT)) * np.uint64(0x846CA68B)) & low
    key = key ^ (key >> np.uint64(16))
    kept = (key >> np.uint64(8)).astype(np.float32) < KEEP[slot] * 16777216
    return torch.from_numpy(kept.astype(np.float32)).view(LENGTHS[slot], WIDE_IN).cuda()


def close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    return float((ours.float() - theirs).detach().norm() / theirs.detach().norm()) < (
        1e-5 if dtype == torch.float32 else 1e-2
    )


@pytest.mark.parametrize(
    ("drops", "skipped"),
    [(False, (0, 0, 0, 0)), (True, (0, 0, 0, 0)), (True, (40, 0, 5, 1000))],
    ids=["no dropout", "dropout", "dropout over the rest of a batch"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_is_that_of_plain_torch(dtype: torch.dtype, drops: bool, skipped: tuple[int, ...]) -> None:
    from peftsweep.methods.kernels import linear_lora

    torch.manual_seed(0)
    x = torch.randn(sum(LENGTHS) + REST, WIDE_IN, device="cuda").to(dtype).requires_grad_()
    weight = torch.randn(WIDE_OUT, WIDE_IN, device="cuda").to(dtype)
    bias = torch.randn(WIDE_OUT, device="cuda").to(dtype)
    row = torch.randn(SLOTS, RANK * (WIDE_IN + WIDE_OUT) + 5, device="cuda")  # strided, as in a stack
    a = row[:, : RANK * WIDE_IN].view(SLOTS, RANK, WIDE_IN).detach().requires_grad_()
    b = row[:, RANK * WIDE_IN : -5].view(SLOTS, WIDE_OUT, RANK).detach().requires_grad_()
    factor, keep = torch.tensor([2.0, 1.0, 0.5, 3.0]).cuda(), torch.tensor(KEEP if drops else [1.0] * SLOTS).cuda()
    tiles, bounds = layout(skipped)
    ours, _ = linear_lora(
        x,
        weight,
        None,
        bias,
        a,
        b,
        factor,
        keep,
        torch.tensor(SEEDS, dtype=torch.int32).cuda(),
        torch.tensor([SALT]).cuda(),
        tiles,
        bounds,
        drops,
    )
    added = []
    for slot, (start, stop) in enumerate(stretches()):
        rows = x[start:stop].float() * (mask(slot, skipped[slot]) if drops else 1.0)
        added.append(factor[slot] / keep[slot] * (rows @ a[slot].T) @ b[slot].T)
    plain = x.float() @ weight.float().T + bias.float()
    theirs = plain + torch.cat([*added, torch.zeros(REST, WIDE_OUT, device="cuda")])
    assert close(ours, theirs, dtype)
    grad = torch.randn_like(theirs)
    got, want = (torch.autograd.grad(out, (x, a, b), grad.to(out.dtype)) for out in (ours, theirs))
    assert all(close(mine, plain, dtype) for mine, plain in zip(got, want, strict=True))
    assert not got[1][1].any() and not got[2][1].any()  # the slot without rows


HEADS = [(6, 2, 64, True, None), (4, 4, 24, False, None), (4, 2, 128, False, 9)]
WIDE = (4, 1, 256, True, 17)  # in bf16 alone, as a pack has it: in fp32 tiles so wide are more than shared memory holds


@pytest.mark.parametrize(
    ("dtype", "heads", "groups", "width", "causal", "window"),
    [(dtype, *heads) for dtype in (torch.float32, torch.bfloat16) for heads in HEADS] + [(torch.bfloat16, *WIDE)],
)
def test_attention_in_tiles_is_that_within_each_text(
    dtype: torch.dtype, heads: int, groups: int, width: int, causal: bool, window: int | None
) -> None:
    from peftsweep.engine.kernels import attend_texts

    texts = [[30, 5, 1, 34], [], [3], [100, 30]]  # of the slots in `LENGTHS`; then rows of no slot
    lengths = torch.tensor([*(n for some in texts for n in some), REST])
    ends = lengths.cumsum(0)
    begins, stops = (x.repeat_interleave(lengths).int().cuda() for x in (ends - lengths, ends))
    tiles, edges = layout()
    rows, real = int(ends[-1]), int(ends[-1]) - REST
    torch.manual_seed(0)
    q = torch.randn(heads, rows, width, device="cuda").to(dtype).transpose(0, 1).requires_grad_()
    k, v = (torch.randn(rows, groups, width, device="cuda").to(dtype).requires_grad_() for _ in range(2))
    ours, _ = attend_texts(q, k, v, begins, stops, tiles, edges, 0.2, 1 << 20 if window is None else window, causal)
    place = torch.arange(rows, device="cuda")
    away = place[:, None] - place[None, :]
    seen = (begins[:, None] == begins[None, :]) & (away.abs() <= (rows if window is None else window))
    if causal:
        seen &= away >= 0
    wide = [x.float().transpose(0, 1).repeat_interleave(heads // x.shape[1], 0) for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*(x[None] for x in wide), attn_mask=seen, scale=0.2)
    theirs = theirs[0].transpose(0, 1)
    assert close(ours[:real], theirs[:real], dtype) and not ours[real:].any()
    grad = torch.randn_like(theirs)
    grad[real:] = 0
    got, want = (torch.autograd.grad(out, (q, k, v), grad.to(out.dtype)) for out in (ours, theirs))
    assert all(close(mine, plain, dtype) for mine, plain in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ia3_is_that_of_plain_torch(dtype: torch.dtype) -> None:
    from peftsweep.methods.kernels import scale_rows

    torch.manual_seed(0)
    x = torch.randn(sum(LENGTHS) + REST, WIDE_IN, device="cuda").to(dtype).requires_grad_()
    scale = torch.randn(SLOTS, WIDE_IN, device="cuda").requires_grad_()
    adapts = torch.tensor([1.0, 1.0, 0.0, 1.0]).cuda()
    ours = scale_rows(x, scale, adapts, *layout())
    factors = torch.where(adapts[:, None] > 0, scale, 1.0)
    scaled = [x[start:stop].float() * factors[slot] for slot, (start, stop) in enumerate(stretches())]
    theirs = torch.cat([*scaled, x[-REST:].float()])
    assert close(ours, theirs, dtype)
    grad = torch.randn_like(theirs)
    got, want = (torch.autograd.grad(out, (x, scale), grad.to(out.dtype)) for out in (ours, theirs))
    assert all(close(mine, plain, dtype) for mine, plain in zip(got, want, strict=True))
