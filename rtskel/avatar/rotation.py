"""Rotations as matrices [..., 3, 3], which turn column vectors, and as quaternions [..., 4] in the order x, y, z, w."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def swing(start: F64, end: F64) -> F64:
    """The smallest rotations [..., 3, 3] that turn unit vectors start into end, both [..., 3] (Rodrigues)."""
    start = np.broadcast_to(start, end.shape)
    turned = skew(np.cross(start, end))
    cosine = (start * end).sum(axis=-1)
    opposite = cosine < -1 + 1e-9
    factor = 1 / np.where(opposite, 1.0, 1 + cosine)
    turn: F64 = np.eye(3) + turned + turned @ turned * factor[..., None, None]
    if opposite.any():  # half a turn about any axis across
        across = np.cross(start, np.eye(3)[np.argmin(np.abs(start), axis=-1)])
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        half = 2 * across[..., :, None] * across[..., None, :] - np.eye(3)
        turn = np.where(opposite[..., None, None], half, turn)
    return turn


def about(axis: F64, angle: F64) -> F64:
    """Rotations [..., 3, 3] by angles [...] in radians about unit vectors [..., 3] (Rodrigues)."""
    turned, angle = skew(axis), angle[..., None, None]
    turn: F64 = np.eye(3) + np.sin(angle) * turned + (1 - np.cos(angle)) * (turned @ turned)
    return turn


def skew(vector: F64) -> F64:
    """Matrices [..., 3, 3] whose product with a vector is the cross product of vectors [..., 3] with it."""
    matrix = np.zeros((*vector.shape, 3))
    matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2] = -vector[..., 2], vector[..., 1], -vector[..., 0]
    matrix -= np.swapaxes(matrix, -1, -2)
    return matrix


def twist(rotation: F64, axis: F64) -> F64:
    """Angles [...] in -pi..pi by which rotations [..., 3, 3] turn about unit vectors [..., 3]: the twist that is left
    of each once the smallest rotation that moves the axis to where it goes (its swing) is taken away.
    """
    quaternion = quaternions(rotation)
    along = (quaternion[..., :3] * axis).sum(axis=-1)
    angle: F64 = (2 * np.arctan2(along, quaternion[..., 3]) + np.pi) % (2 * np.pi) - np.pi
    return angle


def apply(rotation: F64, vector: F64) -> F64:
    """Vectors [..., 3] turned by rotations [..., 3, 3]."""
    turned: F64 = (rotation @ vector[..., None])[..., 0]
    return turned


def closest(rest: F64, directions: F64) -> F64:
    """The rotations [..., 3, 3] that bring rest directions [..., B, 3] closest to directions [..., B, 3] (Kabsch)."""
    u, _, vt = np.linalg.svd(np.swapaxes(directions, -1, -2) @ rest)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotation: F64 = u @ vt
    return rotation


def quaternions(rotation: F64) -> F64:
    """Quaternions [..., 4] (x, y, z, w), with w >= 0, of rotations [..., 3, 3]."""
    m = rotation
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Four times the square of each part; the largest is divided by (Shepperd's method).
    squares = np.stack([1 + d0 - d1 - d2, 1 - d0 + d1 - d2, 1 - d0 - d1 + d2, 1 + d0 + d1 + d2], axis=-1)
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    rows = np.stack(
        [
            np.stack([squares[..., 0], xy, xz, wx], axis=-1),
            np.stack([xy, squares[..., 1], yz, wy], axis=-1),
            np.stack([xz, yz, squares[..., 2], wz], axis=-1),
            np.stack([wx, wy, wz, squares[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(squares, axis=-1)[..., None, None]
    quaternion = np.take_along_axis(rows, best, axis=-2)[..., 0, :]
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    positive: F64 = quaternion * np.where(quaternion[..., 3:] < 0, -1.0, 1.0)
    return positive


def matrices(quaternion: F64) -> F64:
    """Rotations [..., 3, 3] of unit quaternions [..., 4] (x, y, z, w)."""
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
