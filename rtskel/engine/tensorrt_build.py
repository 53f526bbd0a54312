"""Builds plans: turns an ONNX file into a plan file, with TensorRT or TensorRT-RTX.

TensorRT-RTX builds without a GPU, for several kinds of GPU at once, in a second or two; it compiles the kernels
when the plan is opened. TensorRT builds for the GPU that is present, and measures which kernels are fastest on it,
which takes minutes. The network is strongly typed: it computes in the precision that `rtskel export` wrote into it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtskel.engine.base import USUAL_POSITIONS
from rtskel.engine.cuda import Cuda
from rtskel.engine.metadata import EngineInfo, PlanHeader, check_onnx, describe, read_metadata, write_plan
from rtskel.engine.tensorrt import EXTRAS, error_logger, load_tensorrt
from rtskel.errors import EngineError

COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""GPUs that a TensorRT-RTX plan is built for by default: NVIDIA's Ampere, Ada and Blackwell generations."""


def build_plan(
    onnx_path: str | Path,
    out_path: str | Path,
    *,
    compute_capabilities: Sequence[str] | None = None,
    max_batch: int = 64,
    opt_batch: int | None = None,
    backend: str = "auto",
) -> EngineInfo:
    """Builds a plan from an ONNX file that `rtskel export` wrote, and writes it whole or not at all.

    Args:
        onnx_path: the ONNX file, in the precision that the plan is to compute in.
        out_path: the plan file, `*.plan`.
        compute_capabilities: GPUs to build for, such as ["8.9", "12.0"]. Default: COMPUTE_CAPABILITIES with
            TensorRT-RTX; TensorRT builds for the GPU that is present and for no other.
        max_batch: largest batch that the plan takes; the smallest is 1.
        opt_batch: the batch to tune for; default: 8, or max_batch if that is less.
        backend: "tensorrt", "tensorrt_rtx", or "auto": TensorRT where it and a GPU are present and no compute
            capabilities are given, else TensorRT-RTX.

    Returns:
        What `describe(out_path)` says.

    Raises:
        EngineError: one line: an unreadable ONNX file, a node that TensorRT cannot parse (named), a compute
            capability that it cannot build for, a file that cannot be written, a module that is not installed.
    """
    onnx_path, out_path = Path(onnx_path), Path(out_path)
    info = describe(onnx_path)
    if info.kind != "onnx":
        raise EngineError(f"{onnx_path}: a plan is built from an .onnx file (make one with `rtskel export`)")
    if out_path.suffix != ".plan":
        raise EngineError(f"{out_path}: a plan file must be named *.plan")
    check_onnx(onnx_path)
    opt_batch = min(8, max_batch) if opt_batch is None else opt_batch
    if not 1 <= opt_batch <= max_batch:
        raise EngineError(f"{out_path}: opt_batch {opt_batch} must lie between 1 and max_batch {max_batch}")
    module, capabilities = _choose(backend, compute_capabilities, str(onnx_path))
    trt = load_tensorrt(module, str(onnx_path))

    logger = error_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        raise EngineError(f"{onnx_path}: {module} cannot parse it ({_parser_errors(parser, logger)})")
    names = {network.get_input(index).name for index in range(network.num_inputs)}
    config = _config(trt, builder, info, names, capabilities if module == "tensorrt_rtx" else (), max_batch, opt_batch)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        reason = logger.errors[0] if logger.errors else "it does not say why"
        raise EngineError(f"{onnx_path}: {module} cannot build a plan for {', '.join(capabilities)} ({reason})")
    plan = bytes(memoryview(serialized))
    write_plan(
        out_path,
        PlanHeader(
            metadata=read_metadata(onnx_path),
            module=module,
            module_version=trt.__version__,
            compute_capabilities=tuple(capabilities),
            max_batch=max_batch,
            opt_batch=opt_batch,
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
        ),
        plan,
    )
    return describe(out_path)


def _choose(backend: str, capabilities: Sequence[str] | None, path: str) -> tuple[str, tuple[str, ...]]:
    """The module to build with and the GPUs to build for."""
    if backend not in ("auto", *EXTRAS):
        raise EngineError(f"unknown backend {backend!r} (known: auto, {', '.join(EXTRAS)})")
    here = ""
    if backend == "tensorrt" or (backend == "auto" and capabilities is None and importlib.util.find_spec("tensorrt")):
        try:
            here = Cuda(path, 0).capability
        except EngineError as error:
            if backend == "tensorrt":
                raise EngineError(f"{error}; tensorrt_rtx builds without a GPU") from None
    if capabilities is not None and not capabilities:
        raise EngineError(f"{path}: no compute capability to build for is given")
    if not here:
        return "tensorrt_rtx", tuple(COMPUTE_CAPABILITIES if capabilities is None else capabilities)
    if capabilities is not None and tuple(capabilities) != (here,):
        wanted = ", ".join(capabilities)
        raise EngineError(
            f"{path}: tensorrt builds for the GPU that is present ({here}), not for {wanted}; use tensorrt_rtx"
        )
    return "tensorrt", (here,)


def _config(
    trt: Any,
    builder: Any,
    info: EngineInfo,
    names: set[str],
    capabilities: Sequence[str],
    max_batch: int,
    opt_batch: int,
) -> Any:
    config = builder.create_builder_config()
    # fp32 means fp32: TF32 rounds products to 10 bits. For speed there are fp16 and bf16.
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # CUDA graphs allow no allocation while running
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            target = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""), None)
            if target is None or not config.set_compute_capability(target, index):
                known = [
                    name[2:-1] + "." + name[-1] for name in trt.ComputeCapability.__members__ if name.startswith("SM")
                ]
                raise EngineError(f"cannot build for compute capability {capability!r} (known: {', '.join(known)})")
    profile = builder.create_optimization_profile()
    for name, shape in (("x", (info.window, info.joints, 3)), ("missing", (info.window, info.joints))):
        profile.set_shape(name, (1, *shape), (opt_batch, *shape), (max_batch, *shape))
    if "positions" in names:  # older files have no such input
        profile.set_shape("positions", (1,), (min(USUAL_POSITIONS, info.window),), (info.window,))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{info.path}: the optimisation profile for batches of 1 to {max_batch} was refused")
    return config


def _parser_errors(parser: Any, logger: Any) -> str:
    """The parser's errors in one line, the offending nodes by name."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [
        f"node {error.node_name()!r} ({error.node_operator()}): {' '.join(error.desc().split())}" for error in errors
    ]
    return "; ".join(lines[:3]) or "; ".join(logger.errors) or "it does not say why"
