"""Numbers that overflow what is derived from them: no message ends the server; each is refused by name, or served."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from tests.faults.processes import JOINTS, Reader, ServerProcess, clip, publisher, undisturbed, wait_for
from tests.hostile.zmtp import Peer

POSE = np.random.default_rng(0).random((JOINTS, 3), np.float32).tobytes()


def raw(seq, fps=25.0, time_ns=0, epoch=1, stream="bad") -> tuple[bytes, bytes]:
    """A frame as any client may write it."""
    body = {
        "v": 1,
        "kind": "raw",
        "stream": stream,
        "source": [epoch, seq, time_ns, "monotonic", fps],
        "space": ["upper-body-50", JOINTS, "RDT", False],
        "xyz": POSE,
        "confidence": np.ones(JOINTS, np.float32).tobytes(),
    }
    return b"rts1/raw/%b/" % stream.encode(), msgpack.packb(body)


CASES = {
    "first number 5, fps 1e-310": [raw(5, 1e-310)],
    "a hole and a new epoch, fps 1e-10": [raw(0, 1e-10), raw(2, 1e-10), raw(3, 1e-10, epoch=2)],
    "a hole, fps 1e-9": [raw(0, 1e-9), raw(2, 1e-9)],
    "placed by time, fps 1e-310": [raw(None, 1e-310), raw(None, 1e-310, 10**9), raw(None, 25.0, 2 * 10**9)],
    "placed by time, the largest": [raw(None, 10_000.0, 0), raw(None, 10_000.0, 2**62), raw(None, 1e-300, 2**62)],
    "numbers at the limit": [raw(2**62), raw(2**62 + 1), raw(2**63 - 1), raw(0)],
    "times at the limit": [raw(0, time_ns=2**62), raw(3, time_ns=2**62), raw(9, epoch=2, time_ns=0)],
    "fps not a number, infinite, none, negative": [raw(0, f) for f in (float("nan"), float("inf"), 0.0, -25.0)],
    "fps changes wildly": [raw(n, 10.0 ** (n - 12)) for n in range(24)],
}


@pytest.mark.parametrize("case", CASES)
def test_no_number_ends_the_server(case):
    with ServerProcess() as server, undisturbed(server) as neighbour, Reader(server.refined) as reader:
        with Peer(server.raw, "XPUB") as peer:
            for message in CASES[case]:
                assert peer.send(peer.message(*message))
                neighbour.served(2)
        reader.beats()


@pytest.mark.parametrize("fps", [1e-310, 1e-9, 0.01, 1e-3, 5000.0, 1e308])
def test_a_rate_that_no_camera_has_is_refused_by_name(fps):
    with (
        ServerProcess() as server,
        undisturbed(server),
        Reader(server.refined) as reader,
        Peer(server.raw, "XPUB") as peer,
    ):
        assert peer.send(peer.message(*raw(0, fps)))
        wait_for(lambda: any("fps" in e.detail for e in reader.beats(1).events if e.kind == "error"), "an error")


@pytest.mark.parametrize("length", [129, 300])
def test_an_engine_with_a_long_name_is_refused_or_served(length, tmp_path):
    pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    from rtskel.engine.metadata import read_metadata
    from rtskel.engine.weights import save_weights
    from rtskel.model import Skeletor, SkeletorConfig

    path = tmp_path / "long.safetensors"
    save_weights(Skeletor(SkeletorConfig(window=8, layers=1, d_model=16, heads=2, d_ff=16)), path)
    save_file(load_file(path), path, metadata=read_metadata(path) | {"rtskel.name": "n" * length})
    try:
        server = ServerProcess(engine=str(path))
    except RuntimeError as refused:
        said = str(refused)
    else:
        with server, Reader(server.refined) as reader, publisher(server, "a") as sender:
            sender.send(clip(1)[0], seq=0)
            reader.until(lambda reader: reader.select("a"))
            said = "name"
    assert "name" in said
    assert "Traceback" not in said
