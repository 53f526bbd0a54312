"""Export of weights to ONNX, for OpenVINO, ONNX Runtime and TensorRT alike.

Inputs `x` float32 [B, W, J, 3], `missing` bool [B, W, J] and `positions` int64 [P] in 0..W-1, output `y` float32
[B, P, J, 3]: the refined frames at these positions of each window. B and P are dynamic.
Weights that half precision holds exactly are stored in it and cast to float32 in the graph, which runtimes fold when
they load it: half the file size for the same numbers. With precision fp16 or bf16 the trunk (embedding, encoder,
output) computes in that; geometry stays in float32.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from rtskel.engine.metadata import read_metadata
from rtskel.engine.weights import load_weights, model_metadata, save_weights
from rtskel.errors import EngineError
from rtskel.model import Skeletor

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPSET = 18

HALVED = 256
"""Numbers of the smallest tensor that is worth storing in half precision."""


def export_onnx(weights: str | Path, out: str | Path, precision: str = "fp32") -> None:
    """Exports a weights file with its metadata.

    Args:
        precision: of the trunk: "fp32", "fp16" or "bf16".

    Raises:
        EngineError: unreadable weights, an unknown precision, or a file that cannot be written.
    """
    name = read_metadata(weights)["rtskel.name"]
    export_model(load_weights(weights), out, precision=precision, name=name)


def export_model(model: Skeletor, out: str | Path, *, precision: str = "fp32", name: str = "skeletor") -> None:
    """Exports a model in memory: see `export_onnx`."""
    if precision not in PRECISIONS:
        raise EngineError(f"unknown precision {precision!r} (known: {', '.join(PRECISIONS)})")
    metadata = model_metadata(model, precision, name)
    model = copy.deepcopy(model).cpu().eval()
    model.trunk.to(PRECISIONS[precision])
    config = model.config
    x = torch.zeros(2, config.window, config.joints, 3)
    missing = torch.zeros(2, config.window, config.joints, dtype=torch.bool)
    positions = torch.arange(2)
    batch, wanted = torch.export.Dim("B", min=1, max=4096), torch.export.Dim("P", min=1, max=config.window)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # about the exporter's internals
        program = torch.onnx.export(
            model,
            (x, missing, positions),
            input_names=["x", "missing", "positions"],
            output_names=["y"],
            dynamic_shapes={"x": {0: batch}, "missing": {0: batch}, "positions": {0: wanted}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise EngineError(f"{out}: the ONNX exporter returned nothing")
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of this machine
        node.doc_string = ""
    for value in proto.graph.value_info:
        del value.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    proto.producer_name, proto.producer_version = "rtskel", metadata["rtskel.format"]
    _store_halves(proto)
    del proto.metadata_props[:]
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    try:
        Path(out).write_bytes(proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise EngineError(f"{out}: cannot be written ({error.strerror})") from None


def release(weights: Sequence[str | Path], out: str | Path, name: str) -> None:
    """Writes `out`.safetensors and `out`.onnx from trained weights rounded to half precision: the same numbers in both.

    Args:
        weights: one file, or several of one model trained with different seeds, which are averaged.

    Raises:
        EngineError: unreadable weights, weights of another model among them, or a file that cannot be written.
    """
    models = [load_weights(path) for path in weights]
    model, metadata = models[0], read_metadata(weights[0])
    for path, other in zip(weights, models, strict=True):
        if other.config != model.config:
            raise EngineError(f"{path}: another model than that of {weights[0]}")
    states = [each.state_dict() for each in models]
    model.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    extra = {"corpus": metadata["rtskel.corpus"]} if "rtskel.corpus" in metadata else {}
    path = Path(out).with_suffix(".safetensors")
    save_weights(model, path, dtype=torch.float16, name=name, **extra)
    path.chmod(0o644)
    export_onnx(path, Path(out).with_suffix(".onnx"))


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Lets a logger report errors only."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _store_halves(proto: onnx.ModelProto) -> None:
    """Float32 initialisers of at least `HALVED` numbers that float16 holds exactly become float16 and a Cast."""
    casts = []
    for initializer in proto.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size < HALVED or not np.array_equal(halves.astype(np.float32), values):
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(halves, name + ".fp16"))
        casts.append(helper.make_node("Cast", [name + ".fp16"], [name], name=name + ".cast", to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
