"""The canonical frame of a window: its origin and scale are medians, which single bad frames do not move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, Skeleton

FAR = 100.0
"""A joint more than this many canonical units (300 shoulder widths) from its window's origin counts as missing."""

DISAGREE = 2.0
"""A shoulder width that differs from what the other bones say by more than this factor is not used."""


def canonical_frames(
    xyz: NDArray[np.float32], valid: NDArray[np.bool_], skeleton: Skeleton
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Origin [B, 3], scale [B] and whether anything is known [B] of windows xyz [B, W, J, 3] with valid [B, W, J].

    Canonical positions are (xyz - origin) * scale. The origin is the median of the valid necks, else of the middles
    between valid shoulders, else of all valid joints. The scale brings the median shoulder width to 1/3; where no frame
    has both shoulders, or the width differs by more than `DISAGREE` from what the median of the nose, upper-arm and
    forearm bones says, those bones' typical lengths set the scale, else all bones', else it is 1. Medians are over the
    window, so single bad frames do not move it.
    """
    neck = xyz[:, :, NECK]
    right, left = xyz[:, :, RIGHT_SHOULDER], xyz[:, :, LEFT_SHOULDER]
    pair = valid[:, :, RIGHT_SHOULDER] & valid[:, :, LEFT_SHOULDER]
    origin, known = _median(neck, valid[:, :, NECK])
    for points, mask in (
        (np.float32(0.5) * right + np.float32(0.5) * left, pair),
        (xyz.reshape(len(xyz), -1, 3), valid.reshape(len(xyz), -1)),
    ):
        fallback, found = _median(points, mask)
        origin = np.where(known[:, None], origin, fallback)
        known = known | found

    with np.errstate(over="ignore", invalid="ignore"):
        width = _median_of(np.sqrt(np.square(right - left).sum(axis=-1)), pair) / np.float32(SHOULDER_WIDTH)
        child = np.array([j for j in range(skeleton.joints) if skeleton.parents[j] >= 0])
        parent = np.array([skeleton.parents[j] for j in child])
        length = np.sqrt(np.square(xyz[:, :, child] - xyz[:, :, parent]).sum(axis=-1))
        ratio = length / np.array(skeleton.bone_length, np.float32)[child]
    both = valid[:, :, child] & valid[:, :, parent]
    every_bone = _median_of(ratio.reshape(len(xyz), -1), both.reshape(len(xyz), -1))
    steady = np.isin(child, steady_bones(skeleton))
    some_bones = _median_of(ratio[:, :, steady].reshape(len(xyz), -1), both[:, :, steady].reshape(len(xyz), -1))

    size = np.where(some_bones > 0, some_bones, every_bone)
    agree = (width > 0) & ~((some_bones > 0) & ((width > DISAGREE * some_bones) | (some_bones > DISAGREE * width)))
    size = np.where(agree, width, size)
    scale = np.where((size > 0) & np.isfinite(size), np.float32(1) / np.where(size > 0, size, 1), 1).astype(np.float32)
    return origin.astype(np.float32), scale, known


def steady_bones(skeleton: Skeleton) -> list[int]:
    """Joints whose bones check the shoulder width: those of the body but the shoulders themselves."""
    shoulders = (RIGHT_SHOULDER, LEFT_SHOULDER)
    return [j for j in skeleton.groups["body"] if skeleton.parents[j] >= 0 and j not in shoulders]


def _median(points: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Coordinate-wise median [B, 3] of the masked points [B, N, 3], and whether there was any [B]."""
    middle = np.stack([_median_of(points[..., k], mask) for k in range(3)], axis=-1)
    return middle, np.asarray(mask.any(axis=1))


def _median_of(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Median [B] of the masked values [B, N], 0 where there is none: the mean of the two middle ones if even."""
    count = mask.sum(axis=1)
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    row = np.arange(len(values))
    low, high = ordered[row, (count - 1).clip(0) // 2], ordered[row, count // 2]  # count // 2 < N, for N >= 1
    return np.where(count > 0, np.float32(0.5) * low + np.float32(0.5) * high, 0).astype(np.float32)
