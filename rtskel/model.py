"""Skeletor (Jiang, Camgoz, Bowden, CVPR Workshops 2021), and the options beyond the paper of the released weights.

The paper's network is a BERT-like encoder over a window of W frames, each one token (equations 1 to 5):

    h_t = LayerNorm(ReLU(We x_t + be))            (1)  embedding of the 3 J coordinates of frame t
    h_t = h_t + p_t                               (2)  sinusoidal positions
    a   = LayerNorm(h + MultiHead(h, h, h))       (3, 4)
    h   = LayerNorm(a + FeedForward(a))           (5)  ReLU feed-forward; n layers of (3) to (5)
    y_t = Wo h_t + bo

With every option of `SkeletorConfig` off (preset `paper`) that is the whole network, and missing joints enter as zeros.
Preset `realtime` starts instead from a geometric fill of missing joints and learns to correct it; see the options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtskel.configs import Config
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, skeleton


@dataclass(frozen=True)
class SkeletorConfig(Config, option="model option"):
    """Sizes and options of a Skeletor. The defaults are the preset `paper`; its sizes, except `layers`, are our choice.

    The options below `layers` go beyond the paper. All but `missing_channel`, `fill` and `pre_norm` need `fill`:

    missing_channel: the embedding also sees which joints are missing (J inputs).
    bones: it also sees each joint's bone vector, standardised per joint: fingers span hundredths of a unit
        beside arms of half a unit, and would otherwise hardly be seen (3 J inputs).
    bone_deviation: it also sees how far each bone's length is from its usual length in the window (J inputs).
    fill: the network starts from the window with missing joints filled in relative to their parents (`fill_missing`),
        and its output is a correction of that.
    momentum: how much of its velocity a bone keeps from frame to frame of a gap that is filled, 0 to 1 (`interpolate`).
    persistence: that is measured in each window, for each joint, and `momentum` is what it is taken for where the
        window says little (`velocity_kept`); and a bone that no later frame shows returns to its mean. The network
        corrects that but for the middle of gaps of whole frames (`near_shown`).
    gate: that correction is scaled joint by joint by a gate in 0..1 that is exactly 0 for a joint taken to be good.
    pre_norm: encoder layers normalise the input of each part instead of its sum with the output, and what leaves
        the encoder is normalised once. (With post-norm and a learning rate that ends within an hour, all tokens of
        all windows became one.)
    local_regression: the correction may also draw each joint toward local fits of its own path in time
        (`LocalRegression`), and the embedding sees how far each joint is from its neighbours in time (3 J inputs).
    unmirror: a window in which the left shoulder is at -x is mirrored before, and its prediction mirrored back.
    outlying: the embedding also sees how far each joint is from where the frames beside it put it (`Outlying`): beside
        what is usual for that joint in the window, and what is usual (2 J inputs).
    """

    skeleton: str = "upper-body-50"
    window: int = 64
    d_model: int = 512
    heads: int = 8
    d_ff: int = 2048
    layers: int = 8
    missing_channel: bool = False
    bones: bool = False
    bone_deviation: bool = False
    fill: bool = False
    momentum: float = 0.0
    persistence: bool = False
    gate: bool = False
    local_regression: bool = False
    unmirror: bool = False
    pre_norm: bool = False
    outlying: bool = False

    def __post_init__(self) -> None:
        skeleton(self.skeleton)
        for name in ("window", "d_model", "heads", "d_ff", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} must be even and a multiple of heads ({self.heads})")
        options = [
            *("bones", "bone_deviation", "momentum", "persistence"),
            *("gate", "local_regression", "unmirror", "outlying"),
        ]
        without = [option for option in options if getattr(self, option) and not self.fill]
        if without:
            raise ValueError(f"{', '.join(without)} without fill: these work on the filled window")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")

    @property
    def joints(self) -> int:
        """Number of joints, J."""
        return skeleton(self.skeleton).joints


_REALTIME = SkeletorConfig(
    window=32,
    d_ff=512,
    layers=3,
    missing_channel=True,
    bones=True,
    bone_deviation=True,
    fill=True,
    momentum=0.4,
    persistence=True,
    gate=True,
    local_regression=True,
    unmirror=True,
    pre_norm=True,
    outlying=True,
)

PRESETS: Mapping[str, SkeletorConfig] = MappingProxyType(
    {"paper": SkeletorConfig(), "realtime": _REALTIME, "open": replace(_REALTIME, d_model=448, d_ff=448)}
)


# -- the paper --------------------------------------------------------------------------------------------------------


def at(x: Tensor, positions: Tensor | None, dim: int = 1) -> Tensor:
    """Some positions of x along `dim`; None: all of it."""
    return x if positions is None else x.index_select(dim, positions)


def sinusoids(window: int, d_model: int) -> Tensor:
    """Equation 2: p[t, 2k] = sin(t / 10000^(2k/d)), p[t, 2k+1] = cos(the same): [W, d]."""
    t = torch.arange(window, dtype=torch.float64)[:, None]
    angle = t * torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).float()


class LayerSizes(Protocol):
    """What the config of a network says of its layers."""

    @property
    def d_model(self) -> int:
        """Width of a token."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def d_ff(self) -> int:
        """Width inside the feed-forward."""

    @property
    def pre_norm(self) -> bool:
        """Normalise the input of each part instead of its sum with the output."""


class Attention(nn.Module):
    """MultiHead (equation 3), with the projections to queries, keys and values in one matrix.

    Attributes:
        kernel: computes all heads' softmax(q k^T / sqrt(d / heads)) v in one pass: q [B, P, d], k and v [B, W, d] and
            the number of heads -> [B, P, d]. None: written out. Engines set it.
    """

    kernel: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.project = nn.Linear(d_model, d_model)

    def attend(self, here: Tensor, h: Tensor, hidden: Tensor | None = None) -> Tensor:
        """MultiHead(here, h, h): [B, P, d], [B, W, d] -> [B, P, d].

        Args:
            hidden: bool [B, 1 or P, W], keys that a query must not see; every query must see one.
        """
        d = h.shape[-1]
        if self.kernel is not None and hidden is None:
            if here is h:
                q, k, v = torch.split(self.qkv(h), d, -1)
            else:
                q = F.linear(here, self.qkv.weight[:d], self.qkv.bias[:d])
                k, v = torch.split(F.linear(h, self.qkv.weight[d:], self.qkv.bias[d:]), d, -1)
            attended: Tensor = self.project(self.kernel(q, k, v, self.heads))
            return attended

        def heads(h: Tensor, third: int) -> Tensor:
            """Queries, keys or values of these tokens: [B * heads, their number, d / heads]."""
            rows = slice(third * d, (third + 1) * d)
            y = F.linear(h, self.qkv.weight[rows], self.qkv.bias[rows])
            return y.view(y.shape[0], -1, self.heads, d // self.heads).transpose(1, 2).flatten(0, 1)

        q, k, v = heads(here, 0), heads(h, 1), heads(h, 2)
        # Written out: for such short windows it trains five times as fast as PyTorch's fused kernel on a CPU.
        score = (q @ k.transpose(1, 2)).float() / math.sqrt(d // self.heads)  # [B * heads, P, W]
        if hidden is not None:
            score = score.masked_fill(hidden.repeat_interleave(self.heads, 0), -math.inf)
        a = score.softmax(-1).to(v.dtype) @ v
        y: Tensor = self.project(a.view(-1, self.heads, *a.shape[1:]).transpose(1, 2).flatten(2))
        return y


class EncoderLayer(Attention):
    """Equations 3 to 5: self-attention and a ReLU feed-forward, each added to its input, then normalised."""

    def __init__(self, sizes: LayerSizes, dropout: float = 0.0) -> None:
        d = sizes.d_model
        super().__init__(d, sizes.heads)
        self.pre_norm = sizes.pre_norm
        self.norm1 = nn.LayerNorm(d)
        self.up = nn.Linear(d, sizes.d_ff)
        self.down = nn.Linear(sizes.d_ff, d)
        self.norm2 = nn.LayerNorm(d)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def feed_forward(self, h: Tensor) -> Tensor:
        """[B, W, d] -> [B, W, d]."""
        y: Tensor = self.down(self.drop(F.relu(self.up(h))))
        return y

    def forward(self, h: Tensor, positions: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """[B, W, d] -> [B, P, d]: the tokens at `positions` [P], or all; `hidden` as in `Attention.attend`."""
        here = at(h, positions)
        if self.pre_norm:
            normed = self.norm1(h)
            here = here + self.drop(self.attend(at(normed, positions), normed, hidden))
            y: Tensor = here + self.drop(self.feed_forward(self.norm2(here)))
            return y
        here = self.norm1(here + self.drop(self.attend(here, h, hidden)))
        y = self.norm2(here + self.drop(self.feed_forward(here)))
        return y


class Trunk(nn.Module):
    """Equations 1 to 5 and the linear output: [B, W, inputs] -> [B, P, outputs], in the dtype of its weights.

    If only the frames at `positions` are wanted, the last layer computes only keys and values for the others. `early`
    outputs are taken before it, because they are needed for every frame.

    With `autocast` set to a dtype, it computes in that dtype and its weights stay as they are (for training).
    """

    sinusoids: Tensor
    autocast: torch.dtype | None = None

    def __init__(self, config: SkeletorConfig, inputs: int, outputs: int, early: int = 0) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.final = nn.LayerNorm(config.d_model) if config.pre_norm else nn.Identity()
        self.out = nn.Linear(config.d_model, outputs)
        self.early = nn.Linear(config.d_model, early) if early else None
        self.register_buffer("sinusoids", sinusoids(config.window, config.d_model), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[B, W, inputs] -> [B, P, outputs], and [B, W, early] or None: float32, whatever dtype the weights have."""
        if self.autocast is None:
            return self.encode(features, positions)
        with torch.autocast(features.device.type, self.autocast):
            return self.encode(features, positions)

    def encode(self, features: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`forward` without `autocast`."""
        h = features.to(self.embed.weight.dtype)
        h = self.norm(F.relu(self.embed(h))) + self.sinusoids
        for layer in self.layers[:-1]:
            h = layer(h)
        last = cast(EncoderLayer, self.layers[-1])
        early = None if self.early is None else self.early(last.norm1(h) if last.pre_norm else h).float()
        y: Tensor = self.out(self.final(last(h, positions)))
        return y.float(), early


# -- beyond the paper: a geometric fill, local regression, gates -----------------------------------------------------


FAINT = 1e-3
"""Weight of a filled-in joint in local regression, and the minimum of any joint."""


PRIOR_STEPS = 3.0
"""Pairs of steps that `momentum` counts for beside those of the window (`velocity_kept`)."""

HOMING = 0.02
"""Share of the way to its mean over the window by which a bone returns in a frame that no later frame follows."""

REACH = 2
"""Frames on either side of those that show something in which the network corrects the fill (`near_shown`)."""


def interpolate(
    values: Tensor, valid: Tensor, default: Tensor, momentum: float = 0.0, *, persistence: bool = False
) -> Tensor:
    """Values [B, J, 3, W] where valid [B, J, W], else in time between the nearest valid frames of the window.

    Before the first and after the last valid frame that one is held; `default` [..., J, 3] where there is none at all.
    With `momentum` in 0..1, the velocity on each side of a gap, where two neighbouring frames say it, goes on into
    the gap, each frame `momentum` times what it was in the frame before, as a first-order autoregressive velocity does
    on average. With `persistence` that is `velocity_kept` instead, and what would be held returns to its mean, `HOMING`
    of the way each frame. Linear motion between valid frames comes back exactly up to rounding.
    """
    window = values.shape[-1]
    time = torch.arange(window, dtype=torch.float32, device=values.device)
    before = _running(torch.where(valid, time, -1.0), forward=True)[:, :, None]  # [B, J, 1, W]; -1: none
    after = _running(torch.where(valid, time, float(window)), forward=False)[:, :, None]  # W: none
    both = (valid[..., 1:] & valid[..., :-1])[:, :, None].float()  # [B, J, 1, W - 1]
    step = (values[..., 1:] - values[..., :-1]) * both
    steps = torch.cat([step, both], 2)  # and whether they are known
    nothing = values.new_zeros((*values.shape[:2], 4, 1))
    # [B, J, 7, W]: place, the velocity that leads there (or away from there), and whether that is known.
    behind = _pick(torch.cat([values, torch.cat([nothing, steps], -1)], 2), before.clamp(min=0.0))
    ahead = _pick(torch.cat([values, torch.cat([steps, nothing], -1)], 2), after.clamp(max=window - 1.0))
    (x0, v0, known0), (x1, v1, known1) = (torch.split(part, [3, 3, 1], 2) for part in (behind, ahead))
    any_before, any_after = before >= 0, after < window
    inside = any_before & any_after
    span = (after - before).clamp(min=1.0)
    chord = torch.where(inside, (x1 - x0) / span, 0.0)
    weight = torch.where(inside, (time - before) / span, any_after.float())  # of what comes after
    between = torch.where(any_before, x0 + (time - before) * chord, x1)
    if momentum or persistence:
        kept = velocity_kept(step, both[:, :, 0], momentum) if persistence else momentum
        onward = _coasted(time - before, kept) * (v0 - known0 * chord)
        back = _coasted(after - time, kept) * (v1 - known1 * chord)
        between = between + (1 - weight) * onward - weight * back
    if persistence:
        there = valid[:, :, None].float()
        mean = (values * there).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1.0)
        held = torch.where(inside, 0.0, torch.where(any_before, time - before, after - time)).clamp(min=0.0)
        between = between + (1 - (held * math.log(1 - HOMING)).exp()) * (mean - between)
    between = torch.where(any_before | any_after, between, default[..., None])
    return torch.where(valid[:, :, None], values, between)


def velocity_kept(step: Tensor, known: Tensor, prior: float) -> Tensor:
    """How much of its velocity each joint keeps from frame to frame: steps [B, J, 3, W - 1], 0 where they are not known
    [B, J, W - 1] -> [B, J, 1, 1] in 0..1.

    The coefficient of a first-order autoregressive velocity by least squares, over the pairs of neighbouring steps of
    the joint and, counted as one more joint, the mean of all joints; as if `PRIOR_STEPS` more pairs had said `prior`.
    Smooth motion keeps 0.9 and more, jitter nothing.
    """
    pair = known[..., 1:] * known[..., :-1]  # [B, J, W - 2]
    square = step.square().sum(2)
    product = (step[..., 1:] * step[..., :-1]).sum((2, 3))  # [B, J]
    energy = ((square[..., 1:] + square[..., :-1]) * pair).sum(-1) / 2
    product = product + product.mean(1, keepdim=True)
    energy = energy + energy.mean(1, keepdim=True)
    believed = PRIOR_STEPS * energy / pair.sum(-1).clamp(min=1.0) + 1e-6
    kept = (product + prior * believed) / (energy + believed)
    return kept.clamp(0.02, 0.95)[..., None, None]


def _coasted(frames: Tensor, kept: Tensor | float) -> Tensor:
    """Distance that a velocity of 1 covers in so many frames, if each keeps that share: kept + kept^2 + ..."""
    rate = math.log(kept) if isinstance(kept, float) else kept.log()
    distance: Tensor = kept / (1 - kept) * (1 - (frames.clamp(min=0.0) * rate).exp())
    return distance


def _running(values: Tensor, forward: bool) -> Tensor:
    """The largest value so far (forward), or the smallest to come, in time [..., W]: by doubling strides."""
    stride = 1
    while stride < values.shape[-1]:
        # Frames without a neighbour at that stride are compared with themselves.
        if forward:
            values = torch.maximum(values, torch.cat([values[..., :stride], values[..., :-stride]], -1))
        else:
            values = torch.minimum(values, torch.cat([values[..., stride:], values[..., -stride:]], -1))
        stride *= 2
    return values


def _pick(values: Tensor, frames: Tensor) -> Tensor:
    """The values [B, J, n, W] of the frames [B, J, 1, W] (whole numbers): [B, J, n, W].

    As torch.gather, written as a selection from one long row, which runtimes execute several times as fast.
    """
    window = values.shape[-1]
    first = torch.arange(values.numel() // window, dtype=torch.int32, device=values.device) * window
    index = first.view(*values.shape[:3], 1) + frames.int()
    return values.flatten().index_select(0, index.flatten()).view(values.shape)


def near_shown(missing: Tensor) -> Tensor:
    """Frames [B, W] within `REACH` frames of one that shows two joints or more; all, if none does; missing [B, W, J].

    Farther from them the fill is better as it is: it knows how the window moves, a network only how people move.
    """
    shown = (~missing).sum(-1) > 1
    near = F.max_pool1d(shown.float()[:, None], 2 * REACH + 1, 1, REACH)[:, 0] > 0
    return near | ~shown.any(1, keepdim=True)


def usual(length: Tensor, present: Tensor) -> Tensor:
    """A robust mean of each bone's length over the frames that have it: [B, J, W], [B, J, W] in {0, 1} -> [B, J, 1].

    Stands in for the median: three reweighted means (Cauchy weights), made of elementwise operations and sums only.
    """
    weight = present
    for _ in range(3):
        total = weight.sum(-1, keepdim=True).clamp(min=1e-6)
        centre = (weight * length).sum(-1, keepdim=True) / total
        off = length - centre
        spread = (weight * off.abs()).sum(-1, keepdim=True) / total
        weight = present / (1.0 + (off / (spread + 1e-4)).square())
    return centre


def facing(x: Tensor, missing: Tensor) -> Tensor:
    """[-1 or 1, 1, 1] for each window [B, 1, 1, 3]: -1 if the left shoulder is on average at -x of the right."""
    both = ~(missing[:, :, LEFT_SHOULDER] | missing[:, :, RIGHT_SHOULDER])
    across = torch.where(both, x[:, :, LEFT_SHOULDER, 0] - x[:, :, RIGHT_SHOULDER, 0], 0.0).sum(1)  # [B]
    sign = torch.where(across < 0, -1.0, 1.0)[:, None, None, None]
    return torch.cat([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)


def open_gate(logits: Tensor, missing: Tensor) -> Tensor:
    """Gate of each joint in 0..1: a sigmoid stretched so that it reaches 0 and 1; a filled-in joint's is
    always open.
    """
    return torch.where(missing, 1.0, (1.1 * torch.sigmoid(logits) - 0.05).clamp(0.0, 1.0))


class LocalRegression(nn.Module):
    """Fits of each joint's path around each frame, weighted by nearness in time and by reliability.

    Cleveland's LOWESS ("Robust Locally Weighted Regression and Smoothing Scatterplots", JASA 1979), with
    reliabilities that a network gives. For each of `BANDWIDTHS` (frames; nearness is exp(-|distance| / bandwidth))
    there is a constant fit and a linear one, whose slope is limited by a ridge: at the ends of a window the first holds
    and the latter extrapolates.
    """

    BANDWIDTHS = (1.0, 2.5, 6.0)
    RIDGE = 0.2
    fits = 2 * len(BANDWIDTHS)
    kernels: Tensor
    widths: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        time = torch.arange(window, dtype=torch.float32)
        tau = time[None] - time[:, None]  # tau[t, s] = s - t
        near = torch.stack([(-tau.abs() / width).exp() for width in self.BANDWIDTHS])  # [n, W, W]
        moments = torch.stack([near, near * tau, near * tau.square()], 1)  # [n, 3, W, W]
        self.register_buffer("kernels", moments, persistent=False)
        self.register_buffer("widths", torch.tensor(self.BANDWIDTHS)[:, None], persistent=False)

    def forward(self, x: Tensor, weight: Tensor, positions: Tensor | None = None) -> Tensor:
        """Paths x [B, J, 3, W] and weights [B, J, W] > 0 -> fits [B, J, 3, fits, P] around the frames at `positions`
        [P] (None: all), constant ones first.
        """
        kernels = at(self.kernels, positions, 2).transpose(0, 1)  # [3, n, P, W]
        n, wanted = kernels.shape[1:3]
        centre = x.mean(-1, keepdim=True)
        weighted = weight[:, :, None] * (x - centre)
        s = (weight @ kernels.flatten(0, 2).T).view(*weight.shape[:2], 1, 3, n, wanted)
        f = (weighted @ kernels[:2].flatten(0, 2).T).view(*x.shape[:3], 2, n, wanted)
        s0, s1, s2, f0, f1 = (*s.unbind(3), *f.unbind(3))
        s2 = s2 + self.RIDGE * self.widths.square() * s0
        fits = torch.cat([f0 / s0, (f0 * s2 - f1 * s1) / (s0 * s2 - s1.square())], 3)
        return fits + centre[..., None]

    def deviation(self, x: Tensor, weight: Tensor) -> Tensor:
        """How far each joint is from the narrowest constant fit of the other frames: [B, J, 3, W]."""
        near = self.kernels[0, 0] - torch.eye(self.kernels.shape[-1], device=x.device)  # symmetric
        return x - (weight[:, :, None] * x) @ near / (weight @ near)[:, :, None]


class Outlying(nn.Module):
    """How far each joint is from where the frames beside it put it.

    Two frames on either side make a cubic; at the ends of a window there are fewer, which make a parabola or a line.
    The distance from there is divided by what white noise of deviation 1 in each frame would make of it.
    """

    STENCILS: tuple[dict[int, float], ...] = (
        {-2: -1 / 6, -1: 4 / 6, 1: 4 / 6, 2: -1 / 6},
        {-2: -1 / 3, -1: 1.0, 1: 1 / 3},
        {2: -1 / 3, 1: 1.0, -1: 1 / 3},
        {-2: -1.0, -1: 2.0},
        {2: -1.0, 1: 2.0},
    )
    """Shares of the frames at these distances in the place of a frame; the first whose frames there are is taken."""

    LEAST = 1e-3
    """Distances are seen in logarithms, and this, a millimetre of a person, is added to all before."""

    residual: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        residual = torch.zeros(window, window)  # [s, t]: share of frame s in the residual of frame t
        for t in range(window):
            for stencil in self.STENCILS:
                if all(0 <= t + near < window for near in stencil):
                    noise = math.sqrt(1.0 + sum(share**2 for share in stencil.values()))
                    residual[t, t] = 1.0 / noise
                    for near, share in stencil.items():
                        residual[t + near, t] = -share / noise
                    break
        self.register_buffer("residual", residual, persistent=False)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Paths x [B, J, 3, W] and which of them count [B, J, W] in {0, 1} -> [B, 2 J, W]: log of each distance beside
        the mean of those that count, then that mean in all frames; both 0 where a joint does not count.
        """
        far = ((x @ self.residual).square().sum(2) + 1e-12).sqrt()
        seen = (far + self.LEAST).log()
        mean = (seen * present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1.0)
        return torch.cat([(seen - mean) * present, (mean - math.log(self.LEAST)) * present], 1)


# -- all together -----------------------------------------------------------------------------------------------------


class Skeletor(nn.Module):
    """The network: `forward(x [B, W, J, 3] canonical float32, missing [B, W, J] bool) -> [B, W, J, 3]`, or of the
    frames at some `positions` of the window only, for the cost of these.

    Inside, paths are [B, J, 3, W], time last: operations run along time, or on whole joints.

    The value of x at a missing joint does not matter, except NaN. With `fill`, `bone_mean` [J, 3] and `bone_scale` [J]
    (canonical units) describe bone vectors of the training corpus; `set_bone_statistics` fills them in before training.
    """

    parents: Tensor
    has_parent: Tensor
    chain: Tensor
    hands: Tensor
    bone_length: Tensor
    mirror: Tensor
    bone_mean: Tensor
    bone_scale: Tensor

    def __init__(self, config: SkeletorConfig) -> None:
        super().__init__()
        self.config = config
        tree = skeleton(config.skeleton)
        joints = tree.joints
        # Parts of the embedding's input and of the output, in this order, [joints, size] each.
        sees = {"pose": 3, "bones": 3 * config.bones, "bone_deviation": int(config.bone_deviation)}
        sees |= {"path_deviation": 3 * config.local_regression, "missing": int(config.missing_channel)}
        sees |= {"outlying": 2 * config.outlying}
        self.sees = {name: size for name, size in sees.items() if size}
        self.inputs = joints * sum(self.sees.values())
        self.parts = {"own": 3, "limb": 3} if config.fill else {"pose": 3}
        if config.gate:
            self.parts["gate"] = 1
        if config.local_regression:
            self.regression = LocalRegression(config.window)
            self.parts["pull"] = self.regression.fits
        if config.outlying:
            self.outlying = Outlying(config.window)
        self.outputs = joints * sum(self.parts.values())
        early = joints if config.local_regression else 0  # each joint's reliability
        self.trunk = Trunk(config, self.inputs, self.outputs, early)

        has_parent = torch.tensor([float(p >= 0) for p in tree.parents])
        self.depth = int(tree.chain.sum(1).max())
        self.register_buffer("parents", torch.tensor(tree.parents_or_self), persistent=False)
        self.register_buffer("has_parent", has_parent[:, None, None], persistent=False)  # [J, 1, 1]
        self.register_buffer("chain", torch.tensor(tree.chain), persistent=False)
        hands = torch.zeros(joints, joints)  # hands[j, k] = 1 where j and k are of the same hand
        for name in ("left_hand", "right_hand"):
            of_hand = torch.zeros(joints)
            of_hand[list(tree.groups.get(name, ()))] = 1.0
            hands += torch.outer(of_hand, of_hand)
        self.register_buffer("hands", hands, persistent=False)
        self.register_buffer("bone_length", torch.tensor(tree.bone_length), persistent=False)
        self.register_buffer("mirror", torch.tensor(tree.mirror), persistent=False)
        if config.fill:
            length = torch.tensor(tree.bone_length).clamp(min=0.05)
            self.register_buffer("bone_mean", torch.zeros(joints, 3))
            self.register_buffer("bone_scale", length / math.sqrt(3))
            nn.init.zeros_(self.trunk.out.weight)  # an untrained network leaves the filled window as it is

    def grow_from(self, other: Skeletor) -> None:
        """Takes over the weights of a model with fewer options, so that at first it computes the same.

        Inputs that only this model has are ignored at first, outputs that only this one has are 0 at first. ValueError
        names other weights that differ.
        """
        joints, state = self.config.joints, other.state_dict()

        def spread(weight: Tensor, names: Mapping[str, int], own: Mapping[str, int], dim: int) -> Tensor:
            pieces = dict(zip(names, torch.split(weight, [joints * size for size in names.values()], dim), strict=True))
            shape = list(weight.shape)
            grown = []
            for name, size in own.items():
                shape[dim] = joints * size
                grown.append(pieces.pop(name, torch.zeros(shape)))
            if pieces:
                raise ValueError(f"{next(iter(pieces))!r} of the other model has no place in this one")
            return torch.cat(grown, dim)

        state["trunk.embed.weight"] = spread(state["trunk.embed.weight"], other.sees, self.sees, 1)
        for name in ("trunk.out.weight", "trunk.out.bias"):
            state[name] = spread(state[name], other.parts, self.parts, 0)
        for name, value in self.state_dict().items():
            if name.startswith("trunk.early"):
                state.setdefault(name, torch.zeros_like(value))
            elif name not in state or state[name].shape != value.shape:
                raise ValueError(f"{name!r} differs")
        self.load_state_dict(state)

    def set_bone_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Sets the mean bone vector [J, 3] of unmirrored poses and the root mean square spread [J] around it."""
        self.bone_mean.copy_(mean)
        self.bone_scale.copy_(scale.clamp(min=1e-3))

    def bone_vectors(self, x: Tensor) -> Tensor:
        """Each joint's position relative to its parent, and the root's own position: [B, J, 3, W] -> [B, J, 3, W]."""
        return x - x.index_select(1, self.parents) * self.has_parent

    def fill_missing(self, x: Tensor, missing: Tensor) -> Tensor:
        """Poses x [B, J, 3, W] with every missing joint [B, J, W] put where its bone would be, from its parent outward.

        The bone is interpolated in time between the nearest frames of the window that have it (`interpolate`), and
        the mean bone where there is none; of a hand that no frame shows, as long as the other hand's, or at full length
        if that is not seen either (a mean of bones that point anywhere is shorter). Joints that are not missing are
        returned bit for bit.
        """
        valid = ~missing
        has_bone = valid & valid.index_select(1, self.parents)
        bones = self.bone_vectors(x)
        frames = has_bone.sum(-1).index_select(1, self.mirror)  # [B, J] that show the other side's bone
        lengths = (bones.square().sum(2).sqrt() * has_bone).sum(-1).index_select(1, self.mirror)
        length = torch.where(frames > 0, lengths / frames.clamp(min=1), self.bone_length)
        rest = F.normalize(self.bone_mean, dim=-1) * length[..., None]
        default = torch.where(self.unseen(missing)[..., None], rest, self.bone_mean)
        bone = interpolate(bones, has_bone, default, self.config.momentum, persistence=self.config.persistence)
        filled = x
        for _ in range(self.depth):  # each round completes one more level of the tree
            filled = torch.where(missing[:, :, None], filled.index_select(1, self.parents) * self.has_parent + bone, x)
        return filled

    def unseen(self, missing: Tensor) -> Tensor:
        """Which joints [B, J] are of a hand that no frame shows; missing [B, J, W]."""
        return (self.hands.diagonal() > 0) & ((~missing).any(-1).float() @ self.hands == 0)

    def keep_lengths(self, y: Tensor, base: Tensor, missing: Tensor) -> Tensor:
        """Refined y [B, P, J, 3] with the bones of a hand that no frame shows as long as in the filled window `base`.

        The network predicts a mean over all poses of such a hand, and a mean of bone vectors is shorter than each.
        """
        within = self.unseen(missing.transpose(1, 2)) & (self.hands[self.parents].diagonal() > 0)  # but for its root
        bone, filled = (v - v.index_select(2, self.parents) for v in (y, base))
        length = filled.square().sum(-1, keepdim=True).sqrt()
        change = torch.where(within[:, None, :, None], F.normalize(bone, dim=-1) * length - bone, 0.0)
        return y + self.chain @ change

    def features(self, x: Tensor, missing: Tensor) -> Tensor:
        """What the embedding sees of the (filled) window: [B, J, 3, W], [B, J, W] -> [B, W, inputs]."""
        config, parts = self.config, [x.flatten(1, 2)]
        if config.bones or config.bone_deviation:
            bone = self.bone_vectors(x)
            if config.bones:
                standard = (bone - self.bone_mean[..., None]) / self.bone_scale[:, None, None]
                parts.append(standard.flatten(1, 2))
            if config.bone_deviation:
                present = (~missing & ~missing.index_select(1, self.parents)).float()  # [B, J, W]
                length = (bone.square().sum(2) + 1e-12).sqrt()
                deviation = (length - usual(length, present)) * present * self.has_parent[..., 0]
                parts.append((deviation / (0.2 * self.bone_scale[:, None])).clamp(-5.0, 5.0))
        if config.local_regression:
            deviation = self.regression.deviation(x, torch.where(missing, FAINT, 1.0))
            parts.append((deviation / self.bone_scale[:, None, None]).clamp(-5.0, 5.0).flatten(1, 2))
        if config.missing_channel:
            parts.append(missing.float())
        if config.outlying:
            parts.append(self.outlying(x, (~missing).float()))
        return torch.cat(parts, 1).transpose(1, 2)

    def _encode(
        self, x: Tensor, missing: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Any, Tensor | None]:
        """The (filled) window [B, J, 3, W], what it lacks [B, J, W], and what the trunk makes of it."""
        missing = missing.transpose(1, 2)
        path = torch.where(missing[:, :, None], 0.0, x.permute(0, 2, 3, 1))
        if self.config.fill:
            path = self.fill_missing(path, missing)
        return path, missing, *self.trunk(self.features(path, missing), positions)

    def propose(
        self, x: Tensor, missing: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The filled window, the correction [B, W, J, 3] before its gate (0 far from what is shown: `near_shown`), and
        the gate's logits [B, W, J] if there is one; with `positions` [P], of the frames there.
        """
        joints = self.config.joints
        path, missing, out, reliability = self._encode(x, missing, positions)
        here = at(path, positions, 3)
        base = here.permute(0, 3, 1, 2)
        if not self.config.fill:
            return base, out.unflatten(-1, (joints, 3)) - base, None
        sizes = [joints * size for size in self.parts.values()]
        part = dict(zip(self.parts, out.split(sizes, -1), strict=True))
        # A joint's noise is its own, a limb's motion is shared by all joints below it: one output for each.
        scale = self.bone_scale[:, None]
        correction = part["own"].unflatten(-1, (joints, 3)) * scale
        correction = correction + self.chain @ (part["limb"].unflatten(-1, (joints, 3)) * scale)
        if reliability is not None:
            weight = torch.where(missing, FAINT, FAINT + torch.sigmoid(reliability.transpose(1, 2)))
            pull = part["pull"].unflatten(-1, (joints, 1, self.regression.fits)).permute(0, 2, 3, 4, 1)
            off = self.regression(path, weight, positions) - here[:, :, :, None]
            correction = correction + (off * pull).sum(3).permute(0, 3, 1, 2)
        if self.config.persistence:
            correction = correction * at(near_shown(missing.transpose(1, 2)), positions)[..., None, None]
        return base, correction, part.get("gate")

    def forward(self, x: Tensor, missing: Tensor, positions: Tensor | None = None) -> Tensor:
        """Refine windows: x [B, W, J, 3] canonical float32, missing [B, W, J] bool -> refined [B, W, J, 3] float32.

        With `positions` [P] int64, which run from 0 to W - 1: those frames only, [B, P, J, 3].
        """
        if not self.config.fill:
            y: Tensor = self._encode(x, missing, positions)[2]
            return y.view(y.shape[0], -1, self.config.joints, 3)
        side = facing(x, missing) if self.config.unmirror else None
        base, correction, logits = self.propose(x if side is None else x * side, missing, positions)
        if logits is not None:
            correction = correction * open_gate(logits, at(missing, positions))[..., None]
        y = self.keep_lengths(base + correction, base, missing)
        return y if side is None else y * side
