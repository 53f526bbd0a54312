"""What engine files say about themselves, read without opening, running or importing anything.

Three containers carry the same `rtskel.*` metadata: ONNX (`metadata_props`), safetensors (`__metadata__`) and our
plan files. Reading it costs a few kilobytes of I/O; that a file was cut short is found here as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rtskel.engine.base import EngineInfo
from rtskel.errors import EngineError

LARGEST_HEADER = 16 << 20  # bytes; a foreign file must not make us read gigabytes of "header"


def describe(path: str | Path) -> EngineInfo:
    """What an engine file is, from its metadata alone: no runtime, no GPU and no driver is needed.

    Raises:
        EngineError: unreadable, truncated or foreign file, or metadata that makes no sense; the message names the
            path.
    """
    path = Path(path)
    kind, metadata, details = _read(path)
    return EngineInfo.from_metadata(kind, str(path), metadata, **details)


def metadata_of(path: str | Path) -> dict[str, str]:
    """All metadata of an engine file as it stands there, not validated; EngineError as `describe` for the file."""
    return dict(_read(Path(path))[1])


def _read(path: Path) -> tuple[str, Mapping[str, str], dict[str, str]]:
    """Kind, metadata and what else is known of the file."""
    kind = KINDS.get(path.suffix.lower(), "")
    if kind == "plan":
        header = read_plan_header(path)
        return kind, header.metadata, header.details()
    if kind == "onnx":
        return kind, _onnx_metadata(path), {}
    if kind == "safetensors":
        return kind, _safetensors_metadata(path), {}
    raise EngineError(f"{path}: unknown kind of engine (known: {', '.join(KINDS)}, and the word null)")


KINDS: Mapping[str, str] = {".plan": "plan", ".onnx": "onnx", ".safetensors": "safetensors"}
"""Engine kind by file suffix."""


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
    """Walks the fields of the protobuf message that ends at `end`: (number, length), the file at the field's content.

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
    """The header of a plan file. A plan file is, with nothing before, between or after:

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
    mask = os.umask(0)  # there is no other way to ask
    os.umask(mask)
    return mask


# -- shared --------------------------------------------------------------------------------------------------


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror or error})") from None


def _json_header(file: IO[bytes], path: Path, kind: str, available: int) -> dict[str, Any]:
    """The JSON object at the file's position that its length, 8 bytes little-endian, stands in front of."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LARGEST_HEADER + 1
    if length > LARGEST_HEADER:
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
