"""Recordings and engine files that declare what is not there, or are made to be slow: one clear error, or read.

Each runs with a gigabyte and twenty seconds; what comes out is `FormatError` or `EngineError`, or nothing.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import struct
import subprocess
import zipfile

import numpy as np
import pytest

from tests.faults.processes import python, rtskel
from tests.hostile import limited

XYZ = np.random.default_rng(0).random((4, 50, 3)).astype(np.float32)
NAMES = "\x1b]0;title\x07\x1b[2J\nsecond line"


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    """A .npy with that header."""
    line = text.encode("latin1")
    line += b" " * (-(11 + len(line)) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(line)) + line + data


def shaped(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", data)


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def damaged(data: bytes) -> bytes:
    at = data.index(b"xyz.npy") + 19
    return data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + 40]) + data[at + 40 :]


def pose(components: list[tuple[str, str, list[str]]], tail: bytes) -> bytes:
    """A .pose file, version 0.2."""

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text)) + text.encode()

    out = struct.pack("<fHHHH", 0.2, 640, 480, 0, len(components))
    for component, form, points in components:
        out += name(component) + name(form) + struct.pack("<HHH", len(points), 0, 0) + b"".join(map(name, points))
    return out + tail


def wholebody(**frames: object) -> bytes:
    points = [[1.0, 2.0]] * 133
    return json.dumps([{"frame_id": number, "instances": [{"keypoints": points}]} for number in frames["ids"]]).encode()


RECORDINGS: dict[str, tuple[str, bytes, dict[str, object]]] = {
    "npz: damaged bz2": ("a.npz", damaged(npz({"xyz.npy": npy(XYZ)}, zipfile.ZIP_BZIP2)), {}),
    "npz: damaged lzma": ("a.npz", damaged(npz({"xyz.npy": npy(XYZ)}, zipfile.ZIP_LZMA)), {}),
    "npz: damaged deflate": ("a.npz", damaged(npz({"xyz.npy": npy(XYZ)}, zipfile.ZIP_DEFLATED)), {}),
    "npz: pickled": ("a.npz", npz({"xyz.npy": shaped("(1,)", "|O", b"\x80\x04cos\nsystem\n(S'x'\ntR.")}), {}),
    "npz: nested minus": ("a.npz", npz({"xyz.npy": shaped(f"({'-' * 9000}1,)")}), {}),
    "npz: nested brackets": ("a.npz", npz({"xyz.npy": header("(" * 9000)}), {}),
    "npz: negative shape": ("a.npz", npz({"xyz.npy": shaped("(-1, 50, 3)", data=bytes(600))}), {}),
    "npz: a billion joints declared": ("a.npz", npz({"xyz.npy": shaped("(1, 1000000000, 3)", data=bytes(600))}), {}),
    "npz: 2e18 declared": ("a.npz", npz({"xyz.npy": shaped("(4, 1000000000000000000, 3)", data=bytes(600))}), {}),
    "npz: a member that nothing needs": (
        "a.npz",
        npz({"xyz.npy": npy(XYZ), "junk.npy": shaped("(134217728,)", data=bytes(1 << 29))}, zipfile.ZIP_DEFLATED),
        {},
    ),
    "npz: slot 1e9": ("a.npz", npz({"xyz.npy": npy(XYZ), "slot.npy": npy(np.array([0, 1, 2, 10**9]))}), {}),
    "npz: slot 2**62": ("a.npz", npz({"xyz.npy": npy(XYZ), "slot.npy": npy(np.array([0, 1, 2, 2**62]))}), {}),
    "npz: names with controls": ("a.npz", npz({f"{NAMES}.npy": npy(np.ones(2))}), {}),
    "npz: a text of 100k characters for each of 100k rows": (
        "a.npz",
        npz(
            {"xyz.npy": npy(np.zeros((100_000, 1, 3), np.float32)), "stream.npy": npy(np.array("x" * 100_000))},
            zipfile.ZIP_DEFLATED,
        ),
        {},
    ),
    "json: frames 2**62 apart": ("a.json", wholebody(ids=[0, 2**62]), {"fps": 25}),
    "json: frames 2**64 apart": ("a.json", wholebody(ids=[-(2**63), 2**63 - 1]), {"fps": 25}),
    "json: nested a million deep": ("a.json", b"[" * 1_000_000, {"fps": 25}),
    "json: 5000 digits": ("a.json", b'{"people":[{"pose_keypoints_2d":[' + b"1" * 5000 + b"]}]}", {"fps": 25}),
    "json: nested keypoints": (
        "a.json",
        b'[{"instances":[{"keypoints":' + b"[" * 900 + b"]" * 900 + b"}]}]",
        {"fps": 25},
    ),
    "jsonl: a key with controls": (
        "a.jsonl",
        json.dumps({"kind": "pose", NAMES: 1}).encode() + b"\n",
        {"fps": 25, "unit": "m"},
    ),
    "csv: 60,000 columns": (
        "a.csv",
        ",".join(f"a{k}_x" for k in range(60_000)).encode() + b"\n" + b",".join([b"1"] * 60_000) + b"\n",
        {"fps": 25, "unit": "m"},
    ),
    "csv: NUL": ("a.csv", b"nose_x,nose_y\n1,2\n\0,1\n", {"fps": 25, "unit": "m"}),
    "csv: 5000 digits": ("a.csv", b"slot,nose_x,nose_y\n" + b"1" * 5000 + b",1,2\n", {"fps": 25, "unit": "m"}),
    "pose: 2**32 frames of nothing": (
        "a.pose",
        pose([("POSE_LANDMARKS", "XYZC", [])], struct.pack("<fIH", 25, 2**32 - 1, 1)),
        {},
    ),
    "pose: 2**32 frames of 65535 people declared": (
        "a.pose",
        pose([("POSE_LANDMARKS", "XYZC", ["NOSE"])], struct.pack("<fIH", 25, 2**32 - 1, 65535)),
        {},
    ),
    "pose: a component twice": (
        "a.pose",
        pose([("POSE_LANDMARKS", "XYZC", ["NOSE"])] * 2, struct.pack("<fIH", 25, 1, 1) + bytes(40)),
        {},
    ),
    "pose: a name with controls": ("a.pose", pose([(NAMES, "XYZC", ["NOSE"])], b""), {}),
    "skels: a long number": ("a.skels", b"1 " * 150 + b"9" * 100_000, {}),
    "bz2 for npz": ("a.npz", bz2.compress(bytes(100)), {}),
    "lzma for npz": ("a.npz", lzma.compress(bytes(100)), {}),
}

METADATA = {
    "rtskel.format": "1",
    "rtskel.window": "32",
    "rtskel.joints": "50",
    "rtskel.skeleton": "upper-body-50",
    "rtskel.preset": "realtime",
    "rtskel.precision": "fp32",
    "rtskel.weights_hash": "0" * 64,
    "rtskel.name": "x",
}


def safetensors(head: object, length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def plan(head: object) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return b"rtsplan1" + struct.pack("<Q", len(text)) + text + b"abcd"


PLAN = {
    "metadata": METADATA,
    "module": "tensorrt",
    "module_version": "10",
    "compute_capabilities": ["9.0"],
    "max_batch": 64,
    "opt_batch": 8,
    "plan_bytes": 4,
    "plan_sha256": "0" * 64,
}

ENGINES: dict[str, tuple[str, bytes]] = {
    "safetensors: nested": ("a.safetensors", safetensors(b"[" * 200_000)),
    "safetensors: nested in an object": ("a.safetensors", safetensors(b'{"__metadata__":' + b"[" * 200_000)),
    "safetensors: endless offsets": ("a.safetensors", safetensors(b'{"a":{"data_offsets":[0,Infinity]}}')),
    "safetensors: 15 MB of digits": ("a.safetensors", safetensors(b'{"a":' + b"1" * (15 << 20) + b"}")),
    "safetensors: 2**64 - 1 bytes of header": ("a.safetensors", safetensors(b"{}", 2**64 - 1)),
    "safetensors: a window of 2**20": (
        "a.safetensors",
        safetensors({"__metadata__": METADATA | {"rtskel.window": str(1 << 20), "rtskel.joints": str(1 << 20)}}),
    ),
    "safetensors: a window of 5000 digits": (
        "a.safetensors",
        safetensors({"__metadata__": METADATA | {"rtskel.window": "1" * 5000}}),
    ),
    "safetensors: a billion layers": (
        "a.safetensors",
        safetensors({"__metadata__": METADATA | {"rtskel.config": json.dumps({"layers": 10**9, "d_model": 10**9})}}),
    ),
    "plan: no header": ("a.plan", plan(b"")),
    "plan: nested": ("a.plan", plan(b"[" * 200_000)),
    "plan: an endless batch": ("a.plan", plan(json.dumps(PLAN).replace("64,", "Infinity,").encode())),
    "plan: a negative length": ("a.plan", plan(PLAN | {"plan_bytes": -100})),
    "plan: metadata that is no text": ("a.plan", plan(PLAN | {"metadata": {"rtskel.format": 1}})),
    "onnx: nothing": ("a.onnx", b""),
    "onnx: rubbish": ("a.onnx", b"\x08" + b"\xff" * 5000),
    "a folder of another name": ("a.engine", b"x"),
}


@pytest.fixture(scope="module")
def runner():
    with subprocess.Popen(
        python(limited.__file__), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def check(runner, what: str, path, options) -> None:
    runner.stdin.write(json.dumps([what, str(path), options]) + "\n")
    runner.stdin.flush()
    answer = json.loads(runner.stdout.readline())
    print(answer)
    assert answer["ok"], answer["said"]


@pytest.mark.parametrize("case", RECORDINGS)
def test_recordings(case, runner, tmp_path):
    name, data, options = RECORDINGS[case]
    path = tmp_path / name
    path.write_bytes(data)
    check(runner, "read", path, options)


@pytest.mark.parametrize("case", ENGINES)
def test_engines(case, runner, tmp_path):
    name, data = ENGINES[case]
    path = tmp_path / name
    path.write_bytes(data)
    check(runner, "open", path, {})


@pytest.mark.parametrize(
    "case", ["npz: names with controls", "jsonl: a key with controls", "pose: a name with controls"]
)
def test_names_do_not_reach_the_terminal_raw(case, tmp_path):
    name, data, options = RECORDINGS[case]
    path = tmp_path / name
    path.write_bytes(data)
    given = [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(rtskel("info", path, *given), capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).replace(b"\n", b"").decode()
    assert said.isprintable(), repr(said)


def test_texts_of_a_recording_do_not_reach_the_terminal_raw(tmp_path):
    np.savez(tmp_path / "a.npz", xyz=XYZ, stream=np.array(NAMES), unit=np.array("\x1b[31mm"))
    done = subprocess.run(rtskel("info", tmp_path / "a.npz"), capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).replace(b"\n", b"").decode()
    assert said.isprintable(), repr(said)
