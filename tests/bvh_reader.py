"""A small reader of .bvh files: joint positions by forward kinematics, to check what was written."""

from pathlib import Path

import numpy as np


def read_bvh(path: Path) -> tuple[dict[str, np.ndarray], float, dict[str, np.ndarray]]:
    """Positions [F, 3] of each joint (a chain's end is called after its parent, with "+"), frame time, offsets."""
    head, motion = path.read_text().split("MOTION\n")
    lines = motion.splitlines()
    assert lines[0].startswith("Frames: ")
    frames = np.array([line.split() for line in lines[2:]], float)
    assert len(frames) == int(lines[0].split()[1])
    names: list[str] = []
    parents: dict[str, str | None] = {}
    offsets: dict[str, np.ndarray] = {}
    channels: dict[str, list[str]] = {}
    stack: list[str] = []
    for line in head.splitlines()[1:]:
        match line.split():
            case ["ROOT" | "JOINT", name]:
                pending = name
            case ["End", "Site"]:
                pending = stack[-1] + "+"
            case ["{"]:
                parents[pending] = stack[-1] if stack else None
                names.append(pending)
                stack.append(pending)
            case ["}"]:
                stack.pop()
            case ["OFFSET", *numbers]:
                offsets[stack[-1]] = np.array(numbers, float)
            case ["CHANNELS", count, *which]:
                assert int(count) == len(which)
                channels[stack[-1]] = which
    assert not stack
    position: dict[str, np.ndarray] = {}
    turn: dict[str, np.ndarray] = {}
    at = 0
    for name in names:
        parent = parents[name]
        if parent is None:
            position[name] = np.tile(offsets[name], (len(frames), 1))
            turn[name] = np.tile(np.eye(3), (len(frames), 1, 1))
        else:
            position[name] = position[parent] + turn[parent] @ offsets[name]
            turn[name] = turn[parent]
        for channel in channels.get(name, []):
            values, axis = frames[:, at], "XYZ".index(channel[0])
            at += 1
            if channel.endswith("position"):
                position[name][:, axis] += values
            else:
                i, j = (axis + 1) % 3, (axis + 2) % 3
                angle = np.radians(values)
                step = np.tile(np.eye(3), (len(frames), 1, 1))
                step[:, i, i] = step[:, j, j] = np.cos(angle)
                step[:, j, i], step[:, i, j] = np.sin(angle), -np.sin(angle)
                turn[name] = turn[name] @ step
    assert at == frames.shape[1]
    return position, float(lines[1].split()[-1]), offsets
