"""`rtskel export` and `rtskel build`: from weights to an engine."""

from __future__ import annotations

import argparse

from rtskel.cli.options import Command, Parser, positive
from rtskel.cli.status import OK

EXPORT_MORE = """\
example:
  rtskel export skeletor.safetensors -o skeletor.onnx --precision bf16"""

BUILD_MORE = """\
examples:
  rtskel build skeletor.onnx -o skeletor.plan
  rtskel build skeletor.onnx -o skeletor.plan --gpu 8.9,12.0 --max-batch 256"""


def _export_options(parser: Parser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="a .safetensors file")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="the .onnx file to write")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")


def _export(args: argparse.Namespace) -> int:
    from rtskel.engine.onnx_export import export_onnx

    export_onnx(args.weights, args.out, precision=args.precision)
    return OK


def _capabilities(text: str) -> tuple[str, ...]:
    """Compute capabilities; 8.9,12.0 and sm89,SM120 mean the same."""
    parts = [part.lower().removeprefix("sm").removeprefix("_") for part in text.split(",")]
    return tuple(part if "." in part else f"{part[:-1]}.{part[-1:]}" for part in parts)


def _build_options(parser: Parser) -> None:
    parser.add_argument("onnx", metavar="ONNX", help="an .onnx file made by rtskel export")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="the .plan file to write")
    parser.add_argument("--gpu", type=_capabilities, metavar="CC,...", help="compute capabilities, such as 8.9,12.0")
    parser.add_argument("--max-batch", type=positive, default=64, metavar="N", help="largest batch (default 64)")
    parser.add_argument("--opt-batch", type=positive, metavar="N", help="batch to tune for (default 8)")
    parser.add_argument("--backend", choices=["auto", "tensorrt", "tensorrt_rtx"], default="auto", help="default auto")


def _build(args: argparse.Namespace) -> int:
    from rtskel.engine.tensorrt_build import build_plan

    info = build_plan(
        args.onnx,
        args.out,
        compute_capabilities=args.gpu,
        max_batch=args.max_batch,
        opt_batch=args.opt_batch,
        backend=args.backend,
    )
    print(f"{args.out}: {info.model_id}, {info.precision}, for {info.extra['compute_capabilities']}")
    return OK


EXPORT = Command("export", "turn weights into an ONNX engine", EXPORT_MORE, _export_options, _export)
BUILD = Command(
    "build",
    "turn an ONNX engine into a TensorRT plan; with TensorRT-RTX, no GPU is needed",
    BUILD_MORE,
    _build_options,
    _build,
)
