"""A body as simple as can be, with the bones of the real ones: a sheet for a trunk, and a rod for each bone."""

import numpy as np

from rtskel.pairs.body import Body
from rtskel.pairs.retarget import SIDES, Rig

FINGERS = [(f"finger{finger}-{segment}") for finger in range(1, 6) for segment in range(1, 4)]


def puppet() -> Body:
    """Arms hang out sideways and down; the trunk's front is at y = -0.1."""
    bones: list[tuple[str, str | None, tuple[float, float, float]]] = [
        ("root", None, (0, 0, 0.9)),
        ("spine05", "root", (0, 0, 0.95)),
        ("spine04", "spine05", (0, 0, 1.05)),
        ("spine01", "spine04", (0, 0, 1.3)),
        ("neck01", "spine01", (0, 0, 1.45)),
        ("neck02", "neck01", (0, 0, 1.48)),
        ("neck03", "neck02", (0, 0, 1.5)),
        ("head", "neck03", (0, 0, 1.55)),
    ]
    for s, x in (("R", -1), ("L", 1)):
        bones += [
            (f"pelvis.{s}", "root", (x * 0.1, 0, 0.9)),
            (f"upperleg01.{s}", f"pelvis.{s}", (x * 0.1, 0, 0.85)),
            (f"clavicle.{s}", "spine01", (x * 0.03, 0, 1.42)),
            (f"upperarm01.{s}", f"clavicle.{s}", (x * 0.18, 0, 1.4)),
            (f"upperarm02.{s}", f"upperarm01.{s}", (x * 0.25, 0, 1.3)),
            (f"lowerarm01.{s}", f"upperarm02.{s}", (x * 0.33, 0, 1.2)),
            (f"lowerarm02.{s}", f"lowerarm01.{s}", (x * 0.4, -0.01, 1.11)),
            (f"wrist.{s}", f"lowerarm02.{s}", (x * 0.48, -0.02, 1.02)),
        ]
        for finger in range(1, 6):
            spread = 0.02 * (3 - finger)
            parent = f"wrist.{s}"
            if finger > 1:
                bones.append((f"metacarpal{finger - 1}.{s}", parent, (x * 0.49, -0.02 - spread / 2, 1.0)))
                parent = f"metacarpal{finger - 1}.{s}"
            for segment in range(1, 4):
                out = (0.05 if finger == 1 else 0.09) + 0.03 * (segment - 1)
                at = (x * (0.48 + 0.7 * out), -0.02 - spread - (0.02 if finger == 1 else 0), 1.02 - 0.7 * out)
                bones.append((f"finger{finger}-{segment}.{s}", parent, at))
                parent = f"finger{finger}-{segment}.{s}"
    labels = [label for label, _, _ in bones]
    parents = [-1 if parent is None else labels.index(parent) for _, parent, _ in bones]
    rig = Rig(tuple(labels), tuple(parents), np.array([head for _, _, head in bones], float))

    vertices, faces, owner = [], [], []

    def add(points: list[np.ndarray], corners: list[tuple[int, int, int]], bone: str) -> int:
        first = len(vertices)
        vertices.extend(points)
        faces.extend([tuple(first + k for k in corner) for corner in corners])
        owner.extend([labels.index(bone)] * len(points))
        return first

    grid = [np.array([x, -0.1, z]) for z in np.linspace(0.9, 1.45, 23) for x in np.linspace(-0.17, 0.17, 15)]
    quads = [(k, k + 1, k + 15) for k in range(22 * 15) if k % 15 < 14]
    quads += [(k + 16, k + 15, k + 1) for k in range(22 * 15) if k % 15 < 14]
    add(grid, quads, "spine01")
    nose = add([np.array([0, -0.12, 1.62]), np.array([0.05, 0, 1.6]), np.array([-0.05, 0, 1.6])], [(0, 1, 2)], "head")
    tips = []
    for side in SIDES:
        of_side = []
        for finger in range(1, 6):
            head = rig.heads[rig[f"finger{finger}-3.{side.suffix}"]]
            along = rig.along(f"finger{finger}-2.{side.suffix}", f"finger{finger}-3.{side.suffix}")
            rod = [head + 0.8 * along, *(head + 0.004 * np.eye(3)[:2])]
            of_side.append(add(rod, [(0, 1, 2)], f"finger{finger}-3.{side.suffix}"))
        tips.append(tuple(of_side))
        for bone in ("upperarm01", "lowerarm01", "wrist"):
            head = rig.heads[rig[f"{bone}.{side.suffix}"]]
            rod = [head, *(head + 0.02 * np.eye(3)[:2])]
            add(rod, [(0, 1, 2)], f"{bone}.{side.suffix}")
    count = len(vertices)
    bone = np.stack([np.array(owner), np.zeros(count, int)], axis=1)
    weight = np.stack([np.ones(count), np.zeros(count)], axis=1)
    return Body(rig, np.array(vertices), np.array(faces, np.int32), bone, weight, tuple(tips), nose)
