"""The network's parts around its trunk on a GPU, in two kernels of our own.

PyTorch's compiler makes some eighty kernels of the fill, the features, the local fits and the gates of preset
`realtime`, which take longer than the trunk between them. `prepare` and `finish` of engines/native/network.h do the
same in one pass each; `rtskel.model.Skeletor.forward` is their specification.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from rtskel.engine.cuda import SHARED_BYTES, Cuda, Parts, Resources, layout, pinned, views
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, Skeleton, skeleton

THREADS = 512
"""Threads in a block, which has one window."""

MOST_WINDOW, MOST_DEPTH = 64, 16
OPTIONS = (
    *("missing_channel", "bones", "bone_deviation", "fill", "persistence", "gate"),
    *("local_regression", "unmirror", "outlying"),
)
"""Options of the network that the kernels know; they must all be on."""

SIZES = ("window", "joints", "answers", "bf16", "columns", "left_shoulder", "right_shoulder")
TABLES = ("parents", "mirror", "hand", "bone_length", "bone_mean", "bone_scale")


class NetworkArguments(ctypes.Structure):
    """`Network` of engines/native/network.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        ("momentum", ctypes.c_double),
        ("bandwidths", ctypes.c_double * 3),
        *((name, ctypes.c_void_p) for name in TABLES),
    ]


class PassArguments(ctypes.Structure):
    """`Pass` of engines/native/network.h."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("x", "missing", "positions", "path", "side", "features", "out", "early", "y")
    ]


def shared_bytes(window: int, joints: int, answers: int) -> dict[str, int]:
    """Shared memory that a block of each kernel needs."""
    rows = joints * (window + 1)
    return {
        "prepare": 16 * joints + 4 * (7 * rows + 5 * joints),
        "finish": 8 * joints + 4 * (4 * rows + 5 * joints + 3 * window + 3 * answers * joints),
    }


def fits(config: Any, answers: int) -> bool:
    """Whether the kernels compute what a network of this `SkeletorConfig` does, for so many positions."""
    depth = int(skeleton(config.skeleton).chain.sum(1).max())
    return (
        all(getattr(config, option) for option in OPTIONS)
        and config.window <= MOST_WINDOW
        and depth <= MOST_DEPTH
        and max(shared_bytes(config.window, config.joints, answers).values()) <= SHARED_BYTES
    )


def columns(joints: int) -> int:
    """Numbers that the trunk gets of each frame: 13 of each joint, and zeros up to a multiple of 8, which makes its
    first product three times as fast.
    """
    return -(-13 * joints // 8) * 8


def tables_of(model: Any, tree: Skeleton) -> dict[str, Any]:
    """What the kernels know of a skeleton and of a network's bones."""
    hand = np.zeros(tree.joints, np.int64)
    for number, name in enumerate(("left_hand", "right_hand"), 1):
        hand[list(tree.groups.get(name, ()))] = number
    return {
        "parents": tree.parents_or_self,
        "mirror": np.array(tree.mirror),
        "hand": hand,
        "bone_length": np.array(tree.bone_length, np.float32),
        "bone_mean": model.bone_mean.float().cpu().numpy(),
        "bone_scale": model.bone_scale.float().cpu().numpy(),
    }


class NetworkKernels:
    """The two kernels on one GPU, for one network.

    Args:
        kernels: "prepare" and "finish", loaded.
        model: the network; its bone statistics are read.
        memory: accounts for what this holds on the GPU.
        bf16: the trunk's precision is bf16, else float32.
    """

    def __init__(
        self, cuda: Cuda, kernels: dict[str, Any], stream: Any, model: Any, memory: Resources, *, bf16: bool
    ) -> None:
        self._cuda, self._kernels, self._memory = cuda, kernels, memory
        self._stream = cuda.driver.CUstream(int(stream))
        config = self._config = model.config
        tree = skeleton(config.skeleton)
        self._arguments = NetworkArguments(
            *(
                config.window,
                tree.joints,
                0,
                int(bf16),
                columns(tree.joints),
                LEFT_SHOULDER,
                RIGHT_SHOULDER,
                config.momentum,
            ),
            (ctypes.c_double * 3)(*model.regression.BANDWIDTHS),
        )
        self._width = 2 if bf16 else 4
        tables = tables_of(model, tree)
        parts: Parts = {name: (table.shape, table.dtype.type) for name, table in tables.items()}
        places, count = layout(parts)
        block = memory.hold("cudaFree", cuda.call("cudaMalloc", count))
        upload = pinned(cuda, count)
        for name, view in views(upload, parts).items():
            view[:] = tables[name]
            setattr(self._arguments, name, block + places[name])
        cuda.upload(block, upload.ctypes.data, count, stream)
        cuda.call("cudaStreamSynchronize", stream)

    def around(self, batch: int, answers: int, tensors: dict[str, int]) -> Around:
        """The kernels for batches of one size; `tensors` are the addresses of x, missing, positions and y."""
        config = self._config
        window, joints, outputs = config.window, config.joints, 13 * config.joints
        shapes = {
            "path": (batch, joints, 3, window),
            "side": (batch,),
            "features": (batch, window, columns(joints)),
            "out": (batch, answers, outputs),
            "early": (batch, window, joints),
        }
        parts: Parts = {name: (shape, np.float32) for name, shape in shapes.items()}
        if self._width == 2:
            parts["features"] = shapes["features"], np.int16
        places, count = layout(parts)
        block = self._memory.hold("cudaFree", self._cuda.call("cudaMalloc", count))
        addresses = {name: block + place for name, place in places.items()}
        network = NetworkArguments.from_buffer_copy(self._arguments)
        network.answers = answers
        return Around(self, batch, network, PassArguments(**tensors, **addresses), shapes)

    def launch(self, name: str, blocks: int, network: NetworkArguments, step: PassArguments) -> None:
        """Puts a kernel on the stream."""
        shared = shared_bytes(network.window, network.joints, network.answers)[name]
        self._cuda.launch(self._kernels[name], blocks, THREADS, shared, self._stream, network, step)


class Around:
    """The kernels for batches of one size, and the memory between them and the trunk.

    Attributes:
        shapes: of `features`, which the trunk takes, and of `out` and `early`, which it must fill in.
    """

    def __init__(
        self,
        kernels: NetworkKernels,
        batch: int,
        network: NetworkArguments,
        step: PassArguments,
        shapes: dict[str, tuple[int, ...]],
    ) -> None:
        self._kernels, self._batch, self._network, self._step = kernels, batch, network, step
        self.shapes = shapes

    def address(self, name: str) -> int:
        """Where a tensor lies on the GPU."""
        return int(getattr(self._step, name))

    def prepare(self) -> None:
        """Puts the features of the windows on the stream."""
        self._kernels.launch("prepare", self._batch, self._network, self._step)

    def finish(self) -> None:
        """Puts the refined poses on the stream."""
        self._kernels.launch("finish", self._batch, self._network, self._step)
