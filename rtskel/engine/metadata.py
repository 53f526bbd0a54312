"""What engine files say about themselves, read without opening, running or importing a runtime.

Three containers carry the same `rtskel.*` metadata: ONNX (`metadata_props`), safetensors (`__metadata__`) and our
plan files. Reading it costs a few kilobytes of I/O, and finds truncated files as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rtskel.errors import EngineError
from rtskel.skeleton import SKELETONS

FORMAT = "1"
"""Value of `rtskel.format` in the files that this version writes and reads."""

PRECISIONS = ("fp32", "fp16", "bf16")
"""What engine files may compute in."""

SUFFIXES: Mapping[str, str] = {".plan": "plan", ".onnx": "onnx", ".safetensors": "safetensors"}
"""Engine kind by file suffix."""

MAX_HEADER = 16 << 20
"""Bytes of a header: a foreign file must not make us read gigabytes."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is. `describe` reads it from a file, an open engine has it as `info`.

    Attributes:
        kind: "null", "onnx", "safetensors" or "plan".
        model_id: short stable name of the model: "<name>-<first 12 hex digits of weights_hash>".
        window: frames in a window, W.
        joints: joints in a frame, J.
        skeleton_id: which skeleton those joints are.
        preset: model preset ("paper", "realtime", "custom").
        precision: "fp32", "fp16" or "bf16": of the file, or, in an open engine, what it computes in ("int8" as well).
        weights_hash: hexadecimal SHA-256 of the weights, the same in every file made from them.
        builder: what made the file or, in an open engine, what runs it, with its version.
        path: the file, "" if there is none.
        extra: everything else that the file says, by name.
    """

    kind: str
    model_id: str
    window: int
    joints: int
    skeleton_id: str
    preset: str
    precision: str
    weights_hash: str
    builder: str = ""
    path: str = ""
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """What errors call the engine: its file, or its kind."""
        return self.path or self.kind

    @classmethod
    def from_metadata(cls, kind: str, path: str, metadata: Mapping[str, str], **extra: str) -> EngineInfo:
        """Validates the `rtskel.*` metadata of an engine file, as `engine_metadata` writes it.

        Args:
            path: what errors name.
            metadata: as read; unknown keys that start with `rtskel.` go to `extra`.
            extra: what else is known, `builder` among it.

        Raises:
            EngineError: not one of our files, another format version, a value that is missing or makes no sense.
        """
        keys = {key.removeprefix("rtskel."): value for key, value in metadata.items() if key.startswith("rtskel.")}
        if "format" not in keys:
            raise EngineError(f"{path}: not an rtskel engine (it carries no rtskel.format)")
        if (version := keys.pop("format")) != FORMAT:
            raise EngineError(f"{path}: engine format {version} is not supported (this rtskel reads format {FORMAT})")

        def take(key: str) -> str:
            if value := keys.pop(key, ""):
                return value
            raise EngineError(f"{path}: the engine does not say its rtskel.{key}")

        def count(key: str) -> int:
            value = take(key)
            if not (value.isascii() and value.isdigit()) or not 1 <= int(value) <= 1 << 20:
                raise EngineError(f"{path}: rtskel.{key} {value!r} is not a positive number")
            return int(value)

        window, joints, skeleton_id = count("window"), count("joints"), take("skeleton")
        if skeleton_id in SKELETONS and SKELETONS[skeleton_id].joints != joints:
            raise EngineError(f"{path}: {joints} joints, but {skeleton_id} has {SKELETONS[skeleton_id].joints}")
        if (precision := take("precision")) not in PRECISIONS:
            raise EngineError(f"{path}: unknown rtskel.precision {precision!r} (known: {', '.join(PRECISIONS)})")
        weights_hash, name, preset = take("weights_hash"), take("name"), take("preset")
        keys |= extra
        return cls(
            kind=kind,
            model_id=f"{name}-{weights_hash[:12]}",
            window=window,
            joints=joints,
            skeleton_id=skeleton_id,
            preset=preset,
            precision=precision,
            weights_hash=weights_hash,
            builder=keys.pop("builder", ""),
            path=path,
            extra=keys,
        )


def engine_metadata(
    *,
    name: str,
    window: int,
    joints: int,
    skeleton: str,
    preset: str,
    precision: str,
    weights_hash: str,
    **extra: str,
) -> dict[str, str]:
    """The `rtskel.*` metadata of an engine file; see `EngineInfo` for the values, `extra` for others to keep."""
    values = {"format": FORMAT, "name": name, "window": window, "joints": joints, "skeleton": skeleton}
    values |= {"preset": preset, "precision": precision, "weights_hash": weights_hash, **extra}
    return {f"rtskel.{key}": str(value) for key, value in values.items()}


def describe(path: str | Path) -> EngineInfo:
    """What an engine file is, from its metadata alone: no runtime, no GPU and no driver is needed.

    Raises:
        EngineError: unreadable, truncated or foreign file, or metadata that makes no sense; the message names the
            path.
    """
    path = Path(path)
    kind, metadata, details = _read(path)
    return EngineInfo.from_metadata(kind, str(path), metadata, **details)


def read_metadata(path: str | Path) -> dict[str, str]:
    """All metadata of an engine file as stored, not validated; EngineError as `describe` for the file."""
    return dict(_read(Path(path))[1])


def _read(path: Path) -> tuple[str, Mapping[str, str], dict[str, str]]:
    """Kind, metadata and what else is known of the file."""
    kind = SUFFIXES.get(path.suffix.lower(), "")
    if kind == "plan":
        header = read_plan_header(path)
        return kind, header.metadata, header.details()
    if kind == "onnx":
        return kind, _onnx_metadata(path), {}
    if kind == "safetensors":
        return kind, _safetensors_metadata(path), {}
    raise EngineError(f"{path}: unknown kind of engine (known: {', '.join(SUFFIXES)}, and the word null)")


# -- safetensors ---------------------------------------------------------------------------------------------


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _json_header(file, path, "safetensors", size - 8)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        try:
            end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        except (TypeError, KeyError, IndexError, ValueError):
            raise EngineError(f"{path}: not a safetensors file (a tensor has no data_offsets)") from None
        _check_size(path, size, file.tell() + end)
    return _strings(path, header.get("__metadata__", {}))


# -- ONNX ----------------------------------------------------------------------------------------------------

# ModelProto, onnx.proto: metadata_props = 14, each a StringStringEntryProto with key = 1 and value = 2.
METADATA_PROPS, KEY, VALUE = 14, 1, 2


def _onnx_metadata(path: Path) -> dict[str, str]:
    metadata: dict[str, str] = {}
    with _opened(path) as file:
        end = os.fstat(file.fileno()).st_size
        for number, length in _protobuf_fields(file, path, end):
            if number != METADATA_PROPS:
                continue
            start, entry = file.tell(), {KEY: "", VALUE: ""}
            for part, part_length in _protobuf_fields(file, path, start + length):
                if part in entry:
                    entry[part] = file.read(part_length).decode(errors="replace")
            metadata[entry[KEY]] = entry[VALUE]
    return metadata


def _protobuf_fields(file: IO[bytes], path: Path, end: int) -> Iterator[tuple[int, int]]:
    """The fields of the protobuf message that ends at `end`: (number, length), the file at the field's content.

    Content is skipped, not read: an engine's weights are one field of many megabytes.
    """
    while (start := file.tell()) < end:
        tag = _varint(file, path)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            content = file.tell()
            _varint(file, path)
            length = file.tell() - content
            file.seek(content)
        elif wire_type == 2:
            length = _varint(file, path)
        else:
            length = {1: 8, 5: 4}.get(wire_type, -1)
        if number == 0 or length < 0 or (start == 0 and number > 20):
            raise EngineError(f"{path}: not an ONNX file")
        content = file.tell()
        if content + length > end:
            raise EngineError(f"{path}: not an ONNX file, or truncated ({content + length - end} bytes are missing)")
        yield number, length
        file.seek(content + length)


def _varint(file: IO[bytes], path: Path) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EngineError(f"{path}: truncated ONNX file")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EngineError(f"{path}: not an ONNX file")


# -- plan ----------------------------------------------------------------------------------------------------

MAGIC = b"rtsplan1"


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan file.

    A plan file is, with nothing before, between or after:

        8 bytes      "rtsplan1"
        8 bytes      N, unsigned, little-endian
        N bytes      this header as a JSON object in UTF-8, keys as the attributes below
        plan_bytes   the plan, as TensorRT serialised it

    Attributes:
        metadata: the `rtskel.*` metadata of the ONNX file that the plan was built from.
        module: Python module that built the plan and can run it, "tensorrt" or "tensorrt_rtx".
        module_version: its version.
        compute_capabilities: GPUs that the plan was built for, such as ("8.0", "8.9").
        max_batch: largest batch of its optimisation profile; the smallest is 1.
        opt_batch: the batch that the profile is tuned for.
        plan_bytes: length of the plan.
        plan_sha256: its SHA-256, hexadecimal.
    """

    metadata: Mapping[str, str]
    module: str
    module_version: str
    compute_capabilities: tuple[str, ...]
    max_batch: int
    opt_batch: int
    plan_bytes: int
    plan_sha256: str

    @classmethod
    def from_json(cls, path: Path, values: Mapping[str, Any]) -> PlanHeader:
        """The header of these JSON values; EngineError where one is missing or of the wrong type."""
        try:
            return cls(
                metadata=_strings(path, values["metadata"]),
                module=str(values["module"]),
                module_version=str(values["module_version"]),
                compute_capabilities=tuple(map(str, values["compute_capabilities"])),
                max_batch=int(values["max_batch"]),
                opt_batch=int(values["opt_batch"]),
                plan_bytes=int(values["plan_bytes"]),
                plan_sha256=str(values["plan_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{path}: damaged plan file ({error!r} in its header)") from None

    def details(self) -> dict[str, str]:
        """What `EngineInfo` tells of a plan beside its metadata."""
        return {
            "builder": f"{self.module} {self.module_version}",
            "compute_capabilities": ", ".join(self.compute_capabilities),
            "max_batch": str(self.max_batch),
            "opt_batch": str(self.opt_batch),
        }


def read_plan_header(path: Path) -> PlanHeader:
    """The header of a plan file; EngineError if the file is foreign or its length is not what the header says."""
    with _opened(path) as file:
        return _plan_header(file, path)


def read_plan(path: Path) -> tuple[PlanHeader, bytes]:
    """Header and plan of a plan file; EngineError as `read_plan_header`, and if the plan's hash is wrong."""
    with _opened(path) as file:
        header = _plan_header(file, path)
        plan = file.read()
    if hashlib.sha256(plan).hexdigest() != header.plan_sha256:
        raise EngineError(f"{path}: damaged plan file (the plan's SHA-256 is not the one in its header)")
    return header, plan


def write_plan(path: Path, header: PlanHeader, plan: bytes) -> None:
    """Writes a plan file whole or not at all: its name appears once all is on disk. EngineError if it cannot."""
    text = json.dumps(vars(header) | {"metadata": dict(header.metadata)}, sort_keys=True).encode()
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "wb") as file:
            file.write(MAGIC + struct.pack("<Q", len(text)) + text)
            file.write(plan)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written ({error.strerror or error})") from None


def _plan_header(file: IO[bytes], path: Path) -> PlanHeader:
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise EngineError(f"{path}: not an rtskel plan (a plan is made by `rtskel build`)")
    header = PlanHeader.from_json(path, _json_header(file, path, "plan", size - 16))
    _check_size(path, size, file.tell() + header.plan_bytes)
    return header


def _umask() -> int:
    mask = os.umask(0)  # which can only be read by setting it
    os.umask(mask)
    return mask


# -- shared --------------------------------------------------------------------------------------------------


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror or error})") from None


def _json_header(file: IO[bytes], path: Path, kind: str, available: int) -> dict[str, Any]:
    """The JSON object at the file's position, after its length (8 bytes little-endian)."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
    if length > MAX_HEADER:
        raise EngineError(f"{path}: not a {kind} file")
    if length > available:
        raise EngineError(f"{path}: not a {kind} file, or truncated within its header")
    try:
        header = json.loads(file.read(length))
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise EngineError(f"{path}: not a {kind} file (its header is not a JSON object)")
    return header


def _check_size(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise EngineError(f"{path}: truncated ({size} of {expected} bytes)")
    if size > expected:
        raise EngineError(f"{path}: damaged ({size - expected} bytes too long)")


def _strings(path: Path, values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise EngineError(f"{path}: its metadata is not a mapping of text to text")
    return values
