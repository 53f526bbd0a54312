"""What engine files say about themselves, read without opening, running or importing a runtime.

Three containers carry the same `rtskel.*` metadata: ONNX (`metadata_props`), safetensors (`__metadata__`) and our
plan files. Reading it costs a few kilobytes of I/O, and finds truncated files as well.
"""

from __future__ import annotations

import hashlib
import json
import math
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

MAX_TEXT = 128
"""Characters of a name or another value, as on the wire."""

MAX_WINDOW, MAX_JOINTS, MAX_BATCH = 1024, 1024, 1 << 20
"""What a file may claim: the memory for it is taken before its network can show that it is wrong."""


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
            if not (value := keys.pop(key, "")):
                raise EngineError(f"{path}: the engine does not say its rtskel.{key}")
            if len(value) > MAX_TEXT or not value.isprintable():
                raise EngineError(
                    f"{path}: its rtskel.{key} {value[:32]!r} is not up to {MAX_TEXT} printable characters"
                )
            return value

        def count(key: str, largest: int) -> int:
            value = take(key)
            if not (value.isascii() and value.isdigit()) or not 1 <= int(value) <= largest:
                raise EngineError(f"{path}: rtskel.{key} {value!r} is not a positive number up to {largest}")
            return int(value)

        window, joints, skeleton_id = count("window", MAX_WINDOW), count("joints", MAX_JOINTS), take("skeleton")
        if skeleton_id in SKELETONS and SKELETONS[skeleton_id].joints != joints:
            raise EngineError(f"{path}: {joints} joints, but {skeleton_id} has {SKELETONS[skeleton_id].joints}")
        if (precision := take("precision")) not in PRECISIONS:
            raise EngineError(f"{path}: unknown rtskel.precision {precision!r} (known: {', '.join(PRECISIONS)})")
        weights_hash, name, preset = take("weights_hash"), take("name"), take("preset")
        if len(name) > MAX_TEXT - 13:
            raise EngineError(f"{path}: its rtskel.name {name[:32]!r}... is longer than {MAX_TEXT - 13} characters")
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
    raise EngineError(
        f"{path}: unknown kind of engine (known: {', '.join(SUFFIXES)}, and the words realtime, open and null)"
    )


# -- safetensors ---------------------------------------------------------------------------------------------


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _json_header(file, path, "safetensors", size - 8)
        end = max((end for _, end in _tensors(path, header).values()), default=0)
        _check_size(path, size, file.tell() + end)
    return _strings(path, header.get("__metadata__", {}))


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, by name; EngineError as `describe`."""
    path = Path(path)
    with _opened(path) as file:
        header = _json_header(file, path, "safetensors", os.fstat(file.fileno()).st_size - 8)
    return {name: shape for name, (shape, _) in _tensors(path, header).items()}


_ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def _tensors(path: Path, header: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and end of each tensor, whose bytes are as many as its shape says."""
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = entry["data_offsets"]
            shape, size = tuple(entry["shape"]), _ITEM_SIZES[entry["dtype"]]
            whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
        except (TypeError, KeyError, ValueError):
            whole = False
        if not whole or end - begin != size * math.prod(shape):
            raise EngineError(f"{path}: not a safetensors file (tensor {name[:64]!r} is not described right)")
        found[name] = shape, end
    return found


# -- ONNX ----------------------------------------------------------------------------------------------------

# Fields of the messages in onnx.proto.
MODEL = {"graph": 7, "metadata_props": 14, "functions": 25}
ENTRY = {"key": 1, "value": 2}
GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
NODE = {"op_type": 4, "attribute": 5}
ATTRIBUTE = {"t": 5, "g": 6, "tensors": 10, "graphs": 11}
TENSOR = {"dims": 1, "data_type": 2, "raw_data": 9, "external_data": 13}

MAX_FIELDS = 200_000
"""Fields that are read of a file; those that `rtskel export` writes have some thousands."""


def _onnx_metadata(path: Path) -> dict[str, str]:
    metadata: dict[str, str] = {}
    with _opened(path) as file:
        message = _Protobuf(file, path)
        for number, length in message.fields(os.fstat(file.fileno()).st_size):
            if number == MODEL["metadata_props"]:
                entry = {ENTRY["key"]: "", ENTRY["value"]: ""}
                for part, part_length in message.fields(file.tell() + length):
                    if part in entry:
                        entry[part] = file.read(min(part_length, MAX_HEADER)).decode(errors="replace")
                metadata[entry[ENTRY["key"]]] = entry[ENTRY["value"]]
    return metadata


def check_onnx(path: str | Path) -> None:
    """EngineError if an ONNX file could make a runtime read other files, compute for ever, or allocate memory for data
    that it does not hold: external data, control flow, tensors smaller than they claim.
    """
    path = Path(path)
    with _opened(path) as file:
        message = _Protobuf(file, path)
        for number, length in message.fields(os.fstat(file.fileno()).st_size):
            if number == MODEL["functions"]:
                raise EngineError(f"{path}: holds functions, which `rtskel export` never writes")
            if number != MODEL["graph"]:
                continue
            for part, part_length in message.fields(file.tell() + length):
                end = file.tell() + part_length
                if part == GRAPH["initializer"]:
                    _check_tensor(message, end)
                elif part == GRAPH["sparse_initializer"]:
                    raise EngineError(f"{path}: holds sparse tensors, which `rtskel export` never writes")
                elif part == GRAPH["node"]:
                    _check_node(message, end)


def _check_node(message: _Protobuf, end: int) -> None:
    file = message.file
    for number, length in message.fields(end):
        if number != NODE["attribute"]:
            continue
        for part, part_length in message.fields(file.tell() + length):
            if part in (ATTRIBUTE["g"], ATTRIBUTE["graphs"]):
                raise EngineError(f"{message.path}: holds control flow, which `rtskel export` never writes")
            if part in (ATTRIBUTE["t"], ATTRIBUTE["tensors"]):
                _check_tensor(message, file.tell() + part_length)


def _check_tensor(message: _Protobuf, end: int) -> None:
    file, dims, raw, begin = message.file, list[int](), -1, message.file.tell()
    for number, length in message.fields(end):
        if number == TENSOR["external_data"]:
            raise EngineError(f"{message.path}: some of its data is in another file")
        if number == TENSOR["dims"]:
            stop = file.tell() + length
            while file.tell() < stop:
                dims.append(message.varint())
        elif number == TENSOR["raw_data"]:
            raw = length
    count = math.prod(dims)
    if (raw >= 0 and not raw / 16 <= count <= 8 * max(raw, 1)) or (raw < 0 and count > 8 * (end - begin)):
        raise EngineError(f"{message.path}: damaged (a tensor says that it is {dims}, its data is not so large)")


class _Protobuf:
    """Walks the messages in a file without reading their contents: weights are fields of many megabytes."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path = file, path
        self._left = MAX_FIELDS

    def fields(self, end: int) -> Iterator[tuple[int, int]]:
        """The fields of the message that ends at `end`: (number, length), the file at the field's content."""
        file = self.file
        while (start := file.tell()) < end:
            self._left -= 1
            tag = self.varint()
            number, wire_type = tag >> 3, tag & 7
            if wire_type == 0:
                content = file.tell()
                self.varint()
                length = file.tell() - content
                file.seek(content)
            elif wire_type == 2:
                length = self.varint()
            else:
                length = {1: 8, 5: 4}.get(wire_type, -1)
            if number == 0 or length < 0 or (start == 0 and number > 20) or self._left < 0:
                raise EngineError(f"{self.path}: not an ONNX file")
            content = file.tell()
            if content + length > end:
                missing = content + length - end
                raise EngineError(f"{self.path}: not an ONNX file, or truncated ({missing} bytes are missing)")
            yield number, length
            file.seek(content + length)

    def varint(self) -> int:
        """The number at the file's position."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.file.read(1)
            if not byte:
                raise EngineError(f"{self.path}: truncated ONNX file")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise EngineError(f"{self.path}: not an ONNX file")


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
            header = cls(
                metadata=_strings(path, values["metadata"]),
                compute_capabilities=tuple(map(str, values["compute_capabilities"])),
                module=str(values["module"]),
                module_version=str(values["module_version"]),
                max_batch=int(values["max_batch"]),
                opt_batch=int(values["opt_batch"]),
                plan_bytes=int(values["plan_bytes"]),
                plan_sha256=str(values["plan_sha256"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EngineError(f"{path}: damaged plan file ({error!r:.200} in its header)") from None
        for text in (header.module, header.module_version, *header.compute_capabilities):
            if len(text) > MAX_TEXT or not text.isprintable():
                raise EngineError(f"{path}: damaged plan file ({text[:32]!r} in its header)")
        if not 1 <= header.opt_batch <= header.max_batch <= MAX_BATCH or header.plan_bytes < 0:
            raise EngineError(f"{path}: damaged plan file (batches or length out of range in its header)")
        return header

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
    """Writes a plan file completely or not at all (its name appears once everything is on disk); else EngineError."""
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
    except (ValueError, RecursionError):
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
