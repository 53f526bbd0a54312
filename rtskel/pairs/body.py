"""Bodies of many builds by the parametric model `anny`, whose joints are known exactly; posing and skinning in numpy.

`anny` (Apache-2.0) computes the body at rest. What moves it is here: linear blend skinning of its mesh.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.pairs.needs import INSTALL
from rtskel.pairs.retarget import SIDES, Rig, bone_heads, turns, unit

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

CELL = 0.025
"""Metres: the grid on which the trunk's front is known."""

TRUNK = ("spine", "pelvis", "clavicle", "neck", "head", "breast", "root", "upperleg01")

GAP = 0.025
"""Metres between hands and trunk."""


@dataclass(frozen=True)
class Build:
    """What a person looks like, in the model's units: each 0 to 1 (age: 1/3 a child, 2/3 a young adult, 1 old)."""

    gender: float
    age: float
    muscle: float
    weight: float
    height: float
    proportions: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Build:
        """A random adult or adolescent."""
        ranges = ((0, 1), (0.55, 0.95), (0.15, 0.9), (0.15, 0.9), (0.1, 0.9), (0.2, 0.9))
        return cls(*(float(random.uniform(low, high)) for low, high in ranges))


class Posed(NamedTuple):
    """A body in motion.

    Attributes:
        vertices, normals: float32 [N, V, 3], in the body's axes, metres.
        joints: [N, 50, 3], the truth.
    """

    vertices: F32
    normals: F32
    joints: F64


@dataclass(frozen=True, eq=False)
class Body:
    """A person at rest.

    Attributes:
        rig: the bones.
        vertices: [V, 3] of the skin in metres.
        faces: int32 [F, 3], vertices of each triangle.
        bones, weights: [V, K] bones that move each vertex, and their shares.
        tips: vertices at the ends of the five fingers, thumb first, of each side in `SIDES`.
        nose: vertex at the nose's tip.
    """

    rig: Rig
    vertices: F64
    faces: NDArray[np.int32]
    bones: NDArray[np.int64]
    weights: F64
    tips: tuple[tuple[int, ...], ...]
    nose: int

    def share_of(self, bones: list[int]) -> F64:
        """Which share [V] of each vertex these bones move."""
        share: F64 = (np.isin(self.bones, bones) * self.weights).sum(axis=1)
        return share

    @cached_property
    def normals(self) -> F32:
        """[V, 3] at rest."""
        corner = self.vertices[self.faces]
        across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        total = np.zeros_like(self.vertices)
        for k in range(3):
            np.add.at(total, self.faces[:, k], across)
        return unit(total).astype(np.float32)

    def posed(self, xyz: F64) -> Posed:
        """The body does what a motion [N, 50, 3] does (`retarget`), with forearms and hands outside of its trunk."""
        turn, heads, joints = self._moved(xyz)
        vertices, normals = self._skinned(turn, heads)
        return Posed(vertices, normals, joints)

    def moved(self, xyz: F64) -> F64:
        """The joints [N, 50, 3] of `posed`, in a tenth of the time."""
        return self._moved(xyz)[2]

    def _moved(self, xyz: F64) -> tuple[F64, F64, F64]:
        """Turns [N, B, 3, 3] and heads [N, B, 3] of the bones, and the joints [N, 50, 3]."""
        xyz = xyz.copy()
        for attempt in range(4):
            turn = turns(xyz, self.rig)
            heads = bone_heads(turn, self.rig)
            joints = self.joints(turn, heads)
            if attempt == 3 or not self._push_out(xyz, joints):
                break
        return turn, heads, joints

    def joints(self, turn: F64, heads: F64) -> F64:
        """The 50 joints [N, 50, 3] of a body whose bones are turned [N, B, 3, 3] and begin at [N, B, 3]."""
        joints = np.empty((len(heads), 50, 3))
        ends = self._at([self.nose, *(tip for tips in self.tips for tip in tips)], turn, heads)
        joints[:, 0] = ends[:, 0]
        for number, side in enumerate(SIDES):
            s, shoulder, root = side
            for joint, bone in enumerate(("upperarm01", "lowerarm01", "wrist"), shoulder):
                joints[:, joint] = heads[:, self.rig[f"{bone}.{s}"]]
            joints[:, root] = joints[:, shoulder + 2]
            for finger in range(5):
                for segment in range(3):
                    bone = f"finger{finger + 1}-{segment + 1}.{s}"
                    joints[:, root + 1 + 4 * finger + segment] = heads[:, self.rig[bone]]
                joints[:, root + 4 + 4 * finger] = ends[:, 1 + 5 * number + finger]
        joints[:, 1] = (joints[:, 2] + joints[:, 5]) / 2
        return joints

    def _at(self, vertices: list[int], turn: F64, heads: F64) -> F64:
        """Where some vertices are [N, len(vertices), 3]."""
        at = np.empty((len(turn), len(vertices), 3))
        for k, vertex in enumerate(vertices):
            bones, weight = self.bones[vertex], self.weights[vertex]
            moved = turn[:, bones] @ (self.vertices[vertex] - self.rig.heads[bones])[..., None]
            at[:, k] = weight @ (moved[..., 0] + heads[:, bones])
        return at

    @cached_property
    def _sparse(self) -> Any:
        """The weights [V, B]."""
        sparse = importlib.import_module("scipy.sparse")
        vertices, most = self.bones.shape
        where = (np.repeat(np.arange(vertices), most), self.bones.ravel())
        return sparse.csr_matrix((self.weights.ravel().astype(np.float32), where), (vertices, len(self.rig.labels)))

    def _skinned(self, turn: F64, heads: F64) -> tuple[F32, F32]:
        """Vertices and normals [N, V, 3]."""
        shift = heads - np.einsum("nbij,bj->nbi", turn, self.rig.heads)
        of_bones = np.concatenate([turn, shift[..., None]], axis=-1).astype(np.float32)
        rest = self.vertices.astype(np.float32)
        vertices, normals = (np.empty((len(turn), *rest.shape), np.float32) for _ in range(2))
        for frame, of_bone in enumerate(of_bones):
            blended = (self._sparse @ of_bone.reshape(-1, 12)).reshape(-1, 3, 4)
            vertices[frame] = np.einsum("vij,vj->vi", blended[..., :3], rest) + blended[..., 3]
            normals[frame] = np.einsum("vij,vj->vi", blended[..., :3], self.normals)
        return vertices, normals

    @cached_property
    def _front(self) -> F64:
        """How far forward (-y) trunk and head reach over cells of x and z; -9 where they do not."""
        v = self.vertices[self.share_of(self.rig.named(TRUNK)) > 0.6]
        grid = np.full((120, 120), -9.0)
        np.maximum.at(grid, _cells(v), -v[:, 1])
        around = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        widest: F64 = np.stack([np.roll(grid, by, (0, 1)) for by in around]).max(axis=0)
        return widest

    def _push_out(self, xyz: F64, joints: F64) -> bool:
        """Moves forearms and hands of the motion forward where the body's are in its trunk or head: were any?"""
        ndimage = importlib.import_module("scipy.ndimage")
        moved = False
        for _, shoulder, root in SIDES:
            elbow, wrist, hand = shoulder + 1, shoulder + 2, slice(root, root + 21)
            fore = joints[:, [elbow]] * 0.35 + joints[:, [wrist]] * 0.65
            points = np.concatenate([joints[:, hand], fore], axis=1)
            front = self._front[_cells(points)]
            deep = np.where(front > -8, front + GAP + points[..., 1], 0).clip(0, 0.35).max(axis=1)
            if deep.max() < 0.01:
                continue
            moved = True
            deep = ndimage.gaussian_filter1d(ndimage.maximum_filter1d(deep, 7), 2.5)
            scale = _length(xyz[:, wrist] - xyz[:, elbow]) / _length(joints[:, wrist] - joints[:, elbow])
            there = np.abs(xyz[:, hand]).sum(axis=-1) > 0
            xyz[:, elbow, 2] += 0.35 * deep * scale
            xyz[:, wrist, 2] += 1.2 * deep * scale
            xyz[:, hand, 2] += 1.2 * (deep * scale)[:, None] * there
        return moved


def _cells(points: F64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells of `Body._front` that points [..., 3] are over."""
    x, z = ((points[..., axis] / CELL + middle).astype(np.int64).clip(0, 119) for axis, middle in ((0, 60), (2, 30)))
    return x, z


def _length(vectors: F64) -> F64:
    length: F64 = np.linalg.norm(vectors, axis=-1)
    return length


class BodyModel:
    """`anny`, loaded. Its first start ever computes a cache, which takes a minute or more."""

    def __init__(self) -> None:
        """Loads it.

        Raises:
            RtskelError: it cannot be loaded.
        """
        try:
            self._torch: Any = importlib.import_module("torch")
            with contextlib.suppress(ImportError):  # anny's, if it is there; it tells of each start
                importlib.import_module("warp").config.log_level = logging.WARNING
            anny: Any = importlib.import_module("anny")
        except ImportError as error:
            raise RtskelError(f"pairs needs anny, which cannot be loaded ({error}): {INSTALL}") from None
        self._torch.set_num_threads(1)
        model = anny.Anny(pose_parameterization="world-orient", phenotypes="default")
        self._model = model.to(dtype=self._torch.float32)
        self._faces: NDArray[np.int32] = self._model.get_triangular_faces().numpy().astype(np.int32)
        self._bones: NDArray[np.int64] = self._model.vertex_bone_indices.numpy().astype(np.int64)
        self._weights: F64 = self._model.vertex_bone_weights.numpy().astype(np.float64)

    def body(self, build: Build) -> Body:
        """A person of that build."""
        torch = self._torch
        still = torch.eye(4)[None, None].repeat(1, self._model.bone_count, 1, 1)
        looks = {name: torch.tensor([value]) for name, value in asdict(build).items()}
        found = self._model(pose_parameters=still, phenotype_kwargs=looks)
        heads = found["rest_bone_poses"][0].detach().numpy()[:, :3, 3].astype(np.float64)
        vertices = found["rest_vertices"][0].detach().numpy().astype(np.float64)
        rig = Rig(tuple(self._model.bone_labels), tuple(self._model.bone_parents), heads)
        return Body(rig, vertices, self._faces, self._bones, self._weights, *self._ends(rig, vertices))

    def _ends(self, rig: Rig, vertices: F64) -> tuple[tuple[tuple[int, ...], ...], int]:
        """Vertices at the finger tips and at the nose."""
        tips = []
        for side in SIDES:
            of_side = []
            for finger in range(1, 6):
                last = f"finger{finger}-3.{side.suffix}"
                own = self._moved_by(rig[last])
                of_side.append(int(own[(vertices[own] @ rig.along(last.replace("-3", "-2"), last)).argmax()]))
            tips.append(tuple(of_side))
        head = self._moved_by(rig["head"])
        middle = head[np.abs(vertices[head, 0]) < 0.012]
        return tuple(tips), int(middle[vertices[middle, 1].argmin()])

    def _moved_by(self, bone: int) -> NDArray[np.int64]:
        """Vertices that one bone moves by more than half."""
        found: NDArray[np.int64] = np.flatnonzero(((self._bones == bone) * self._weights).sum(axis=1) > 0.5)
        return found
