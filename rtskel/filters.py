"""Classical filters that fill in and smooth poses: what refinement is compared with.

A filter maps xyz [N, J, 3] and missing [N, J] to an estimate [N, J, 3] with some look-ahead: the estimate of frame i
uses frames up to i + lookahead (None: all). Coordinates of missing joints are ignored. `Filter` is a filter by its
name; the functions are its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.skeleton import Skeleton

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Lookahead = int | None


# Filling in


def last_seen(missing: Mask) -> NDArray[np.int64]:
    """[N, J] the newest frame up to each frame that has the joint, -1 if none."""
    return np.maximum.accumulate(np.where(missing, -1, np.arange(len(missing))[:, None]), axis=0)


def next_seen(missing: Mask, lookahead: Lookahead) -> NDArray[np.int64]:
    """[N, J] the first frame from each frame on, within the look-ahead, that has the joint, -1 if none."""
    frames, never = np.arange(len(missing))[:, None], len(missing)
    found = np.minimum.accumulate(np.where(missing, never, frames)[::-1], axis=0)[::-1]
    reach = never - 1 if lookahead is None else np.minimum(frames + lookahead, never - 1)
    return np.where(found <= reach, found, -1)


def fill_in_time(xyz: Array, missing: Mask, lookahead: Lookahead, default: Array) -> Array:
    """Fill missing joints of xyz [N, J, 3]: interpolated, else held, else taken from later, else `default` [J, 3]."""
    before, after = last_seen(missing), next_seen(missing, lookahead)
    rows, joints = np.arange(len(xyz))[:, None], np.arange(xyz.shape[1])
    a, b = np.where(before < 0, after, before), np.where(after < 0, before, after)
    weight = (rows - a) / np.maximum(b - a, 1)
    start, end = xyz[np.maximum(a, 0), joints], xyz[np.maximum(b, 0), joints]
    filled = start + weight[..., None] * (end - start)
    filled = np.where((a < 0)[..., None], default, filled)
    return np.where(missing[..., None], filled, xyz)


def placed_from_parents(xyz: Array, missing: Mask, bone: Array, tree: Skeleton) -> Array:
    """Xyz [N, J, 3] with missing joints at their parents plus `bone` [N, J, 3], from the root outward."""
    placed = xyz.copy()
    for joint in tree.order:
        if tree.parents[joint] >= 0:
            outward = placed[:, tree.parents[joint]] + bone[:, joint]
            placed[:, joint] = np.where(missing[:, joint, None], outward, xyz[:, joint])
    return placed


# Smoothing


def padded(x: Array, past: int, future: int) -> Array:
    """Frames [N, ...] with the first repeated before and the last after."""
    return np.concatenate([np.repeat(x[:1], past, 0), x, np.repeat(x[-1:], future, 0)])


def ahead(lookahead: Lookahead, most: float) -> int:
    """How many frames ahead a window of `most` frames on either side of its centre may reach."""
    return int(most) if lookahead is None else min(lookahead, int(most))


def window(fill: Callable[[Lookahead], Array], lookahead: Lookahead, past: int, whole: bool = False) -> list[Array]:
    """The frames [N, J, 3] from `past` before each frame to as many after it as the look-ahead allows, in order.

    Frames beyond the ends repeat the first or last one. A frame k ahead is filled with k frames of look-ahead less: the
    window must not know more than the frame that it is for.

    Args:
        fill: the filled sequence for a look-ahead.
        whole: nothing is missing, so that one filled sequence is all of them.
    """
    future, frames = ahead(lookahead, past), []
    filled = fill(lookahead)
    count, filled = len(filled), padded(filled, past, future)
    for k in range(-past, future + 1):
        if k > 0 and lookahead is not None and not whole:
            filled = padded(fill(lookahead - k), past, future)
        frames.append(filled[past + k : past + k + count])
    return frames


def weighted(frames: Sequence[Array], taps: Array) -> Array:
    """The sum of the frames, each times its tap."""
    out = np.zeros_like(frames[0])
    for frame, tap in zip(frames, taps, strict=True):
        out += tap * frame
    return out


def normal_taps(sigma: float, past: int, count: int) -> Array:
    """The first `count` weights of a normal curve around frame `past`, sum 1."""
    taps = np.exp(-0.5 * np.square((np.arange(count) - past) / sigma))
    return np.asarray(taps / taps.sum())


def polynomial_taps(count: int, order: int, past: int) -> Array:
    """Weights of `count` frames whose sum is the value at frame `past` of the polynomial fitted to them."""
    powers = np.arange(-past, count - past, dtype=np.float64)[:, None] ** np.arange(order + 1)
    return np.asarray(np.linalg.pinv(powers)[0])


def one_euro(x: Array, least: float, beta: float, speed: float) -> Array:
    """The 1 Euro filter (Casiez, Roussel, Vogel, CHI 2012) along x [N, ...].

    Args:
        least, beta, speed: least cutoff, its growth with speed, the speed's cutoff, in cycles a frame.
    """

    def share(cutoff: Array | float) -> Array | float:
        return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff))

    out = np.empty_like(x)
    out[0], slope, follow = x[0], np.zeros_like(x[0]), share(speed)
    for t in range(1, len(x)):
        slope = slope + follow * (x[t] - out[t - 1] - slope)
        out[t] = out[t - 1] + share(least + beta * np.abs(slope)) * (x[t] - out[t - 1])
    return out


# By name

FILLS = ("hold", "linear", "parents")
SMOOTHERS = {
    "gaussian": ("standard deviation in frames",),
    "savitzky-golay": ("frames on either side", "order"),
    "median": ("frames on either side",),
    "one-euro": ("least cutoff", "its growth with speed", "cutoff of the speed"),
}
"""Filters that smooth, and what their settings are."""

_WHOLE = {"savitzky-golay", "median"}


@dataclass(frozen=True)
class Filter:
    """A filter by its name: what fills in missing joints, and what smooths then.

    Attributes:
        fill: "hold": where a joint was last seen. "linear": interpolated in time. "parents": the bone to a joint is
            interpolated, and placed on its parent: a lost hand moves with its arm. A joint that was not seen yet and
            will not be lies on its parent.
        smoother: a name of `SMOOTHERS`, or "".
        settings: of the smoother.

    Example:
        >>> Filter.parse("linear+savitzky-golay:3,2").apply(xyz, missing, lookahead=4, tree=UPPER_BODY_50)
    """

    fill: str = "parents"
    smoother: str = ""
    settings: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """FILL, SMOOTHER:SETTING,... or FILL+SMOOTHER:SETTING,...; without FILL, "parents".

        Raises:
            RtskelError: names the part that is wrong.
        """
        first, plus, rest = text.partition("+")
        fill, smoothing = (first, rest) if plus else (first, "") if first in FILLS else ("parents", first)
        name, _, numbers = smoothing.partition(":")
        if fill not in FILLS or ((plus or smoothing) and name not in SMOOTHERS):
            unknown = fill if fill not in FILLS else name
            raise RtskelError(f"filter {text!r}: unknown {unknown!r} (known: {', '.join((*FILLS, *SMOOTHERS))})")
        wanted = SMOOTHERS.get(name, ())
        try:
            settings = tuple(float(number) for number in numbers.split(",")) if numbers else ()
        except ValueError:
            settings = (math.nan,)
        if len(settings) != len(wanted) or not all(0 <= value < math.inf for value in settings):
            raise RtskelError(f"filter {text!r}: {name or fill} takes {', '.join(wanted) or 'no settings'}")
        if name in _WHOLE and any(value != int(value) for value in settings):
            raise RtskelError(f"filter {text!r}: whole numbers expected")
        least = {"gaussian": settings[:1], "one-euro": settings[::2], "savitzky-golay": settings[:1]}.get(name, ())
        if any(value <= 0 for value in least) or (name == "savitzky-golay" and settings[1] > settings[0]):
            raise RtskelError(f"filter {text!r}: settings out of range")
        return cls(fill, name, settings)

    def __str__(self) -> str:
        numbers = ",".join(f"{value:g}" for value in self.settings)
        return f"{self.fill}+{self.smoother}:{numbers}" if self.smoother else self.fill

    def apply(self, xyz: NDArray[Any], missing: Mask, lookahead: Lookahead, tree: Skeleton) -> Array:
        """The estimate [N, J, 3] of xyz [N, J, 3] with missing [N, J]."""
        x = xyz.astype(np.float64)

        def filled(lookahead: Lookahead) -> Array:
            return self._filled(x, missing, lookahead, tree)

        if self.smoother == "":
            return filled(lookahead)
        if self.smoother == "one-euro":
            return one_euro(filled(lookahead), *self.settings)
        past = max(1, math.ceil(3 * self.settings[0])) if self.smoother == "gaussian" else int(self.settings[0])
        frames = window(filled, lookahead, past, whole=not missing.any())
        if self.smoother == "median":
            return np.asarray(np.median(np.stack(frames, -1), axis=-1))
        if self.smoother == "gaussian":
            return weighted(frames, normal_taps(self.settings[0], past, len(frames)))
        return weighted(frames, polynomial_taps(len(frames), int(self.settings[1]), past))

    def _filled(self, xyz: Array, missing: Mask, lookahead: Lookahead, tree: Skeleton) -> Array:
        nowhere = np.zeros(xyz.shape[1:])
        if self.fill == "parents":
            up = tree.parents_or_self
            bone = fill_in_time(xyz - xyz[:, up], missing | missing[:, up], lookahead, nowhere)
            root = fill_in_time(xyz[:, [tree.root]], missing[:, [tree.root]], lookahead, nowhere[:1])
            kept = xyz.copy()
            kept[:, tree.root] = root[:, 0]
            return placed_from_parents(kept, missing, bone, tree)
        lookahead = 0 if self.fill == "hold" else lookahead
        unknown = (last_seen(missing) < 0) & (next_seen(missing, lookahead) < 0)
        return placed_from_parents(fill_in_time(xyz, missing, lookahead, nowhere), unknown, np.zeros_like(xyz), tree)
