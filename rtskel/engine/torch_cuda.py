"""safetensors weights in PyTorch on an NVIDIA GPU: compiled, one CUDA graph a run, rings on the GPU beside it.

PyTorch works here on a stream and on tensors that are not its own: those of `CudaEngine`, whose graphs hold upload,
network and download, or those of a `DeviceRing`, whose graphs hold its kernels as well. What it needs in between comes
from a pool of memory of its own, which nothing else may use while graphs write to it.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rtskel.engine import device_ring
from rtskel.engine.cuda_engine import ExecutionSlot
from rtskel.engine.device_ring import RingEngine
from rtskel.engine.network_kernels import Around, NetworkKernels, columns, fits
from rtskel.engine.pytorch import load_model
from rtskel.errors import EngineError

log = logging.getLogger("rtskel.engine")

PRECISIONS = ("bf16", "fp32")
FIRST_POSITIONS = 2
"""Positions of a window that the server's own lookahead asks for: what is prepared first is used."""

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable of PyTorch's that says where compiled kernels are kept between starts."""


class TorchCuda:
    """PyTorch on one GPU, on a stream and on memory that others have made.

    Args:
        path: the file of weights; errors name it.

    Raises:
        EngineError: this PyTorch was built without CUDA.
    """

    def __init__(self, torch: Any, path: str | Path, device: int) -> None:
        self._torch, self._path = torch, path
        if torch.version.cuda is None:
            raise EngineError(f"{path}: this PyTorch ({torch.__version__}) was built without CUDA; install one with it")
        self.device = torch.device("cuda", device)
        self.builder = f"torch {torch.__version__} with CUDA {torch.version.cuda}"
        self._pool: Any = None

    def compiled(self, network: Any) -> Any:
        """A function of tensors, compiled once for each shape that it meets."""
        # In /tmp, where PyTorch keeps them, they would be gone after the next boot.
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(os.environ.setdefault(CACHE, str(home / "rtskel" / "torch")))
        if not (folder.is_dir() and any(folder.iterdir())):
            log.warning(
                "%s: first start on this GPU: compiling for about half a minute for each of some batch sizes; what is "
                "compiled is kept in %s",
                *(self._path, folder),
            )
        return self._torch.compile(network, dynamic=False, fullgraph=True)

    def tensor(self, address: int, shape: tuple[int, ...], kind: str) -> Any:
        """A tensor that shows memory of the GPU; `kind` is a type as numpy writes it, such as "<f4", or "bf16"."""
        typestr = "<i2" if kind == "bf16" else kind
        shown = {"shape": shape, "typestr": typestr, "data": (address, False), "version": 3}
        tensor = self._torch.as_tensor(SimpleNamespace(__cuda_array_interface__=shown), device=self.device)
        return tensor.view(self._torch.bfloat16) if kind == "bf16" else tensor

    def fuse_attention(self, model: Any) -> None:
        """Has every layer attend in one kernel, if it can and PyTorch's compiler of kernels (Triton) is there."""
        width = model.config.d_model // model.config.heads
        if width < 16 or width & (width - 1):
            return
        try:
            attend = importlib.import_module("rtskel.engine.attention").attend
        except ModuleNotFoundError:
            return
        for layer in model.trunk.layers:
            layer.kernel = attend

    def widened(self, trunk: Any, columns: int) -> Any:
        """A copy of a trunk that takes so many inputs; those that it did not have before do not matter."""
        wide, more = copy.deepcopy(trunk), columns - trunk.embed.in_features
        wide.embed.weight = self._torch.nn.Parameter(self._torch.nn.functional.pad(wide.embed.weight, (0, more)))
        return wide

    def enqueue(self, stream: Any, work: Callable[[], None]) -> None:
        """Puts what `work` does on a stream."""
        torch = self._torch
        if self._pool is None:
            self._pool = torch.cuda.MemPool()
        ours = torch.cuda.ExternalStream(int(stream), device=self.device)
        # Each batch size is compiled by itself; PyTorch gives up compiling after eight unless told otherwise.
        limit = torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1024)
        with torch.cuda.stream(ours), torch.cuda.use_mem_pool(self._pool), torch.inference_mode(), limit:
            work()


class TorchEngine(RingEngine):
    """Runs weights that `rtskel train` wrote on an NVIDIA GPU, compiled by PyTorch.

    The first start on a machine compiles for about half a minute for each batch size, and says so; what was compiled is
    kept in ~/.cache/rtskel/torch, or where TORCHINDUCTOR_CACHE_DIR says.

    Args:
        path: the file.
        max_batch: the most windows of one `run`.
        device: index of the GPU.
        precision: "bf16" (default), in which the trunk of the network computes, or "fp32".
        graphs: CUDA graphs, as in `rtskel.engine.tensorrt.PlanEngine`.
        warm_up: prepare every batch size (1, 8, 64, ... max_batch) with the first ring, or the first run that asks for
            so many positions (1, 2, 4, ...). Without it, a size is prepared when it is first used.
        rings: keep the rings of `rtskel.refine` on the GPU too; None (default): if their kernels were compiled.
        kernels: run what is around the network's trunk in rtskel's own kernels; None (default): if they were compiled.
        compiled: have PyTorch compile the network; False: it runs kernel by kernel ("eager").

    Raises:
        EngineError: PyTorch or cuda-python is not installed or has no CUDA, no driver, no GPU, damaged file, not enough
            memory.
    """

    growth = (
        8  # each size takes half a minute to compile and seconds to load; windows more in a batch cost a GPU little
    )

    def __init__(
        self,
        path: str | Path,
        *,
        max_batch: int = 64,
        device: int = 0,
        precision: str | None = None,
        graphs: bool | None = None,
        warm_up: bool = True,
        rings: bool | None = None,
        kernels: bool | None = None,
        compiled: bool = True,
    ) -> None:
        if precision not in (None, *PRECISIONS):
            raise EngineError(f"{path}: precision {precision!r} cannot be had in PyTorch ({' or '.join(PRECISIONS)})")
        info, torch, model = load_model(path)
        self._torch: Any = TorchCuda(torch, path, device)
        info = replace(info, precision=precision or "bf16", builder=self._torch.builder)
        options: Any = {"device": device, "graphs": graphs, "warm_up": warm_up}
        super().__init__(info, max_batch, rings=_kernels_are_there() if rings is None else rings, **options)
        self._config = model.config
        self._around: NetworkKernels | None = None
        self._run_whole: Any = None
        self._run_trunk: Any = None
        try:
            if fits(model.config, 1) and (_kernels_are_there() if kernels is None else kernels):
                self.load_kernels()
                bf16 = info.precision == "bf16"
                self._around = NetworkKernels(self.cuda, self.kernels, self.stream, model, self.hold(), bf16=bf16)
            self._place(model, compiled)
            self.slot(1, min(FIRST_POSITIONS, self.window))  # fails now if it cannot run
        except BaseException:
            self.close()
            raise

    def _place(self, model: Any, compiled: bool) -> None:
        """Puts the network on the GPU: as a whole, and its trunk for `NetworkKernels`."""
        try:
            if self.info.precision == "bf16":
                model.trunk.bfloat16()
                self._torch.fuse_attention(model)
            model = model.to(self._torch.device)
            of_kernels: Any = self._torch.widened(model.trunk, columns(self.joints)) if self._around else None
        except RuntimeError as error:
            raise self._failed(error) from None

        def whole(x: Any, missing: Any, positions: Any, y: Any) -> None:
            y.copy_(model(x, missing, positions))

        def trunk(features: Any, positions: Any, out: Any, early: Any) -> None:
            for to, value in zip((out, early), of_kernels(features, positions), strict=True):
                to.copy_(value)

        self._run_whole, self._run_trunk = (self._torch.compiled(run) if compiled else run for run in (whole, trunk))

    def _prepare(self, slot: ExecutionSlot) -> None:
        show, tensors = self._torch.tensor, {name: (shape, address) for name, shape, address in slot.tensors()}
        batch, answers = slot.y.shape[:2]
        positions = show(tensors["positions"][1], (answers,), "<i8")
        log.info("%s: preparing batches of %d on the GPU; the first time this compiles", self.info.path, batch)
        if self._around is None or not fits(self._config, answers):
            kinds = {"x": "<f4", "missing": "|b1", "y": "<f4"}
            shown = {name: show(tensors[name][1], tensors[name][0] or slot.y.shape, kinds[name]) for name in kinds}
            slot.network = None, lambda: self._run_whole(shown["x"], shown["missing"], positions, shown["y"])
            return
        around = self._around.around(batch, answers, {name: address for name, (_, address) in tensors.items()})
        kinds = {"features": "<f4" if self.info.precision == "fp32" else "bf16", "out": "<f4", "early": "<f4"}
        shown = {name: show(around.address(name), around.shapes[name], kind) for name, kind in kinds.items()}
        slot.network = around, lambda: self._run_trunk(shown["features"], positions, shown["out"], shown["early"])

    def enqueue_network(self, slot: ExecutionSlot) -> None:
        """Puts the network alone on the stream."""
        around: Around | None
        around, network = slot.network
        try:
            if around is not None:
                around.prepare()
            self._torch.enqueue(self.stream, network)
            if around is not None:
                around.finish()
        except RuntimeError as error:  # of PyTorch, its compiler, or CUDA
            raise self._failed(error) from None

    def _failed(self, error: RuntimeError) -> EngineError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return EngineError(f"{self.info.path}: PyTorch failed on the GPU ({reason})")

    def _release_network(self) -> None:
        self._run_whole = self._run_trunk = self._around = self._torch = None


def _kernels_are_there() -> bool:
    try:
        device_ring.compiled()
    except EngineError:
        return False
    return True


def available() -> bool:
    """Whether PyTorch finds a GPU here."""
    try:
        return bool(importlib.import_module("torch").cuda.is_available())
    except ModuleNotFoundError:
        return False
