"""A VRM 1.0 model as small as can be: bones in a T pose, with a rod for each, and proportions of its own."""

import json
import struct

import numpy as np

from rtskel.avatar import BONES, Rig
from rtskel.avatar.rig import BONE
from rtskel.avatar.rotation import about

WIDTH = 0.4
"""Metres between the shoulders."""
HIPS = np.array([0.0, 1.0, 0.0])
COLOUR = {"baseColorFactor": [0.85, 0.5, 0.3, 1], "metallicFactor": 0}
LEGS = {"UpperLeg": (0.1, -0.05, 0.0), "LowerLeg": (0.0, -0.45, 0.0), "Foot": (0.0, -0.45, 0.0)}


def rest():
    """Where each bone begins in the T pose, and where those end on which no other hangs: name -> [3], in metres."""
    rig = Rig.standard()
    origins, ends = rig.origins * WIDTH / rig.shoulder_width, rig.offsets * WIDTH / rig.shoulder_width
    places = {}
    for number, bone in enumerate(BONES):
        longer = 1.3 if "LowerArm" in bone.name else 0.8 if "Distal" in bone.name else 1.0  # nobody's proportions
        start = places[BONES[bone.parent].name] + origins[number] * longer if bone.parent >= 0 else HIPS
        places[bone.name] = start
        if all(child.parent != number for child in BONES):
            places[f"{bone.name}End"] = start + ends[bone.drives[0]]
    return places


def parents():
    """The bone that carries each bone, or end of one."""
    found = {bone.name: BONES[bone.parent].name for bone in BONES if bone.parent >= 0}
    return found | {name: name.removesuffix("End") for name in rest() if name.endswith("End")}


def kinematics(rotation):
    """Where `rest()` goes if the bones are turned by [B, 3, 3], each relative to the bone that carries it."""
    start, above = rest(), parents()
    places, world = {}, {}
    for name, at in start.items():
        parent = above.get(name)
        places[name] = at if parent is None else places[parent] + world[parent] @ (at - start[parent])
        own = rotation[BONE[name]] if name in BONE else np.eye(3)
        world[name] = own if parent is None else world[parent] @ own
    return places


def model():
    """The file. Nodes have rest rotations of their own, as those of real models do."""
    random = np.random.default_rng(0)
    above, places = parents(), rest()
    for side, sign in (("left", 1), ("right", -1)):
        for part, step in LEGS.items():
            before = {"UpperLeg": "hips", "LowerLeg": f"{side}UpperLeg", "Foot": f"{side}LowerLeg"}[part]
            places[side + part] = places[before] + np.multiply(step, (sign, 1, 1))
            above[side + part] = before
    names = list(places)
    axes = random.normal(size=(len(names), 3))
    own = dict(
        zip(names, about(axes / np.linalg.norm(axes, axis=1, keepdims=True), np.full(len(names), 0.6)), strict=True)
    )
    nodes = []
    for name in names:
        parent = above.get(name)
        carrier = own[parent] if parent else np.eye(3)
        matrix = np.eye(4)
        matrix[:3, :3] = carrier.T @ own[name]
        matrix[:3, 3] = carrier.T @ (places[name] - places[parent]) if parent else places[name]
        nodes.append({"name": name, "matrix": matrix.T.ravel().tolist(), "children": []})
    for name, parent in above.items():
        rod = np.eye(4)
        rod[:3, :3] = own[parent].T @ _along(places[name] - places[parent])
        rod[:3, 3] = own[parent].T @ (places[name] - places[parent]) / 2
        carrier = nodes[names.index(parent)]
        carrier["children"] += [names.index(name), len(nodes)]
        nodes.append({"mesh": 0, "matrix": rod.T.ravel().tolist()})
    for node in nodes:
        if not node.get("children"):
            node.pop("children", None)
    return _glb(nodes, {name: {"node": names.index(name)} for name in names if not name.endswith("End")})


def _along(bone):
    """Scales and turns a cube into a rod along a bone."""
    length = float(np.linalg.norm(bone)) or 1e-3
    along = bone / length
    across = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    across /= np.linalg.norm(across)
    thick = min(0.05, 0.25 * length)
    return np.stack([length * along, thick * across, thick * np.cross(along, across)], axis=1)


def _glb(nodes, bones):
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], "<f4")
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([(a, b, c) for s in sides for a, b, c in ((s[0], s[1], s[2]), (s[0], s[2], s[3]))], "<u2")
    buffer = corners.tobytes() + faces.tobytes()
    licence = {"name": "rods", "authors": ["rtskel"], "licenseUrl": "https://vrm.dev/licenses/1.0/"}
    document = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["VRMC_vrm"],
        "extensions": {"VRMC_vrm": {"specVersion": "1.0", "meta": licence, "humanoid": {"humanBones": bones}}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{"doubleSided": True, "pbrMetallicRoughness": COLOUR}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 8,
                "type": "VEC3",
                "min": [-0.5] * 3,
                "max": [0.5] * 3,
            },
            {"bufferView": 1, "componentType": 5123, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": corners.nbytes},
            {"buffer": 0, "byteOffset": corners.nbytes, "byteLength": faces.nbytes},
        ],
        "buffers": [{"byteLength": len(buffer)}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    buffer += bytes(-len(buffer) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
