"""Triton kernels of training: what would be a loop of small kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["shortest", "window", "tries"])  # type: ignore[untyped-decorator, unused-ignore]
def _cover(out, wanted, length, u, shortest, window, tries, INSIDE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program covers one row: see `rtskel.training.device.covered`."""
    row = tl.program_id(0)
    time = tl.arange(0, BLOCK)
    taken = tl.zeros([BLOCK], tl.int32)
    goal = tl.load(wanted + row)
    left = goal
    k = tl.full([], 0, tl.int32)
    while (k < tries) & (left > 0):
        n = tl.minimum(tl.load(length + row * tries + k), tl.maximum(left, shortest))
        place = tl.load(u + row * tries + k)
        if INSIDE:
            first = 1 + (place * tl.maximum(window - n, 0).to(tl.float32)).to(tl.int32)
        else:
            first = (place * (window + n - 1).to(tl.float32)).to(tl.int32) - n + 1
        here = (time >= first) & (time < first + n) & (time < window)
        taken = taken | here.to(tl.int32)
        left = goal - tl.sum(taken, 0)
        k += 1
    tl.store(out + row * window + time, taken.to(tl.int8), mask=time < window)


def cover(wanted: Tensor, length: Tensor, u: Tensor, shortest: int, window: int, inside: bool) -> Tensor:
    """`rtskel.training.device.covered_at_once` on a GPU."""
    rows, tries = u.shape
    out = torch.empty(rows, window, dtype=torch.int8, device=u.device)
    block = triton.next_power_of_2(window)
    given = wanted.int().contiguous(), length.int().contiguous(), u.contiguous()
    if rows:
        _cover[(rows,)](out, *given, shortest, window, tries, INSIDE=inside, BLOCK=block, num_warps=1)
    return out.view(torch.bool)
