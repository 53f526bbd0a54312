"""Attention over one window in one kernel, for NVIDIA GPUs: written in Triton, which comes with PyTorch's CUDA builds.

Windows are so short that all of a head fits in registers. PyTorch's own kernels are made for thousands of tokens, and
its compiler makes copies, two products and a softmax instead, each of which goes through the GPU's memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, out, q_row, k_row, v_row, out_row, wanted, window, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, WANTED: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One head of one window. Rows are tokens; WANTED and WINDOW are their numbers, rounded up to powers of 2."""
    window_of_batch = (tl.program_id(0) // HEADS).to(tl.int64)
    columns = (tl.program_id(0) % HEADS) * WIDTH + tl.arange(0, WIDTH)
    asked, seen = tl.arange(0, WANTED), tl.arange(0, WINDOW)
    here, there = (asked < wanted)[:, None], (seen < window)[:, None]
    first = window_of_batch * wanted + asked
    tokens = window_of_batch * window + seen
    queries = tl.load(q + first[:, None] * q_row + columns[None], mask=here, other=0.0)
    keys = tl.load(k + tokens[:, None] * k_row + columns[None], mask=there, other=0.0)
    values = tl.load(v + tokens[:, None] * v_row + columns[None], mask=there, other=0.0)
    score = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
    score = tl.where((seen < window)[None], score, float("-inf"))
    weight = tl.exp(score - tl.max(score, 1)[:, None])
    weight = weight / tl.sum(weight, 1)[:, None]
    answer = tl.dot(weight.to(values.dtype), values, input_precision="ieee")
    tl.store(out + first[:, None] * out_row + columns[None], answer.to(out.dtype.element_ty), mask=here)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d / heads)) v of every head: q [B, P, d], k and v [B, W, d] -> [B, P, d].

    Tokens of a tensor must be evenly spaced in memory, and d / heads a power of 2 of at least 16.
    """
    batch, wanted, d = q.shape
    window = k.shape[1]
    width = d // heads
    out = torch.empty((batch, wanted, d), dtype=q.dtype, device=q.device)
    options: dict[str, Any] = {"HEADS": heads, "WIDTH": width, "num_warps": 2}
    options |= {"WANTED": max(16, triton.next_power_of_2(wanted)), "WINDOW": max(16, triton.next_power_of_2(window))}
    rows = q.stride(1), k.stride(1), v.stride(1), out.stride(1)
    _attend[(batch * heads,)](q, k, v, out, *rows, wanted, window, width**-0.5, **options)
    return out
