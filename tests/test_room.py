"""What is short is shared by publisher, not by stream: places, the engine's turns, remembered names."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from rtskel.refine import RefinerBank
from rtskel.serve.reports import UNKNOWN
from rtskel.wire import Flag, encode
from tests.contract import MixingEngine
from tests.faults.processes import wait_for
from tests.hostile.zmtp import Peer
from tests.oracles.ring import ring_maker
from tests.test_overload import SlowEngine
from tests.test_serve import serving
from tests.test_streams import MS, PERIOD, START, BlendEngine, Rig, check_equal, end, frame, recording, step

RINGS = pytest.mark.parametrize("native", [True, False], ids=["native", "numpy"])
STEADY, GREEDY, THIRD = 7, 8, 9  # connections


def receive(rig: Rig, source: int, *messages) -> Rig:
    """Messages of one publisher that arrive now, together; the engine does not run."""
    topics, bodies = map(list, zip(*map(encode, messages), strict=True))
    times, sources = [rig.now] * len(messages), [source] * len(messages)
    rig.table.receive(topics, bodies, times, lambda k, why: pytest.fail(str(why)), sources)
    return rig


def send(rig: Rig, source: int, *messages) -> Rig:
    receive(rig, source, *messages)._work()
    return rig


def came(rig: Rig, stream: str, lookahead: int = 0) -> list[int]:
    """The frames that came out as they came, not filled in."""
    return [pose.source_seq for pose in rig.select(lookahead, stream) if pose.receive_ns]


# --- places ---


@RINGS
def test_a_newcomer_gets_a_place_of_a_publisher_that_holds_all(native):
    """Greedy has had eight streams for long, the last of them youngest; it loses that one and no other."""
    rig = Rig(max_streams=8, native=native)
    for n in range(60):
        rig.until(n * PERIOD)
        send(rig, GREEDY, *(frame(n - k, stream=f"g{k}") for k in range(8) if n >= k))
        if n >= 20:
            send(rig, STEADY, frame(n, stream="steady"))
    assert came(rig, "steady") == list(range(21, 60))
    for k in range(7):
        assert came(rig, f"g{k}") == list(range(60 - k))
    assert rig.kinds("g7")[:2] == ["start", "stale"]
    assert rig.table.streams == 8
    assert not any(event.kind == "stale" for event in rig.events if event.stream != "g7")


@pytest.mark.parametrize("frames", [1, 2, 10])
def test_ever_new_ids_take_nothing_from_a_steady_stream_and_leave_room_for_a_newcomer(frames):
    """Greedy sends 40 streams at once, each for so many frames, then another 40, for ever."""
    rig = Rig(max_streams=8)
    for n in range(80):
        rig.until(n * PERIOD)
        send(rig, GREEDY, *(frame(n % frames, stream=f"g{n // frames}-{k}", at=n * PERIOD) for k in range(40)))
        for source, stream, first in ((STEADY, "steady", 5), (THIRD, "newcomer", 40)):
            if n >= first:
                send(rig, source, frame(n, stream=stream))
    assert came(rig, "steady")[-74:] == list(range(6, 80))  # its first frame at the most was refused
    assert came(rig, "newcomer")[-39:] == list(range(41, 80))


def test_two_publishers_end_with_the_same_number_of_places_and_stay_there():
    rig = Rig(max_streams=8)
    for n in range(100):
        rig.until(n * PERIOD)
        send(rig, GREEDY, *(frame(n, stream=f"g{k}") for k in range(12)))
        if n >= 30:
            send(rig, STEADY, *(frame(n, stream=f"s{k}") for k in range(12)))
    for name in "gs":
        whole = [k for k in range(12) if came(rig, f"{name}{k}")[-55:] == list(range(45, 100))]
        assert whole == list(range(4))
    assert sum(event.kind == "stale" for event in rig.events) == 4


def test_whoever_has_one_stream_keeps_it_however_many_publishers_ask():
    rig = Rig(max_streams=4)
    for n in range(40):
        rig.until(n * PERIOD)
        for source in range(40):
            send(rig, source, frame(n, stream=f"p{source}"))
    for source in range(4):
        assert came(rig, f"p{source}") == list(range(40))
    assert rig.table.counts == {"refused": 36 * 40}


def test_a_young_stream_that_is_silent_makes_no_room_for_one_with_more_places():
    """At one frame a second a stream is silent for longer than that before its second frame."""
    rig = Rig(max_streams=4)
    for n in range(50):
        rig.until(n * PERIOD)
        if n % 25 == 0:
            send(rig, STEADY, frame(n // 25, stream="slow", fps=1.0, at=n * PERIOD))
        send(rig, GREEDY, *(frame(n, stream=f"g{k}") for k in range(20)))
    assert came(rig, "slow") == [0, 1]
    assert "stale" not in rig.kinds("slow")


def test_a_stream_that_lost_its_place_comes_back_when_there_is_room():
    rig = Rig(max_streams=2)
    for n in range(40):
        rig.until(n * PERIOD)
        send(rig, GREEDY, frame(n, stream="g0"), *([frame(n, stream="g1")] if n else []))
        if 10 <= n < 20:
            send(rig, STEADY, frame(n, stream="steady"))
        if n == 20:
            send(rig, STEADY, end(20, stream="steady"))
    assert came(rig, "steady") == list(range(11, 20))
    assert came(rig, "g1")[-18:] == list(range(22, 40))
    assert [kind for kind in rig.kinds("g1") if kind != "error"] == ["start", "stale", "gap"]
    assert came(rig, "g0") == list(range(40))


@pytest.mark.parametrize("state", ["held", "rivals", "waiting", "lossless"])
def test_no_state_of_a_stream_keeps_its_place(state):
    """Every one of greedy's streams is at odds when the newcomer asks."""
    rig = Rig(max_streams=4, ahead=26)
    for n in range(40):
        rig.until(n * PERIOD)
        streams = [frame(n, stream=f"g{k}", lossless=state == "lossless") for k in range(4)]
        if state == "held":
            streams += [frame(n + 1000 + 100 * n, stream=f"g{k}") for k in range(4)]
        if state == "rivals":
            streams += [frame(n, stream=f"g{k}", epoch=2) for k in range(4)]
        if state == "waiting":
            streams = [frame(m, stream=f"g{k}") for k in range(4) for m in range(1 + 30 * n, 30 + 30 * n)]
        send(rig, GREEDY, *streams)
        if n >= 10:
            send(rig, STEADY, frame(n, stream="steady"))
    assert came(rig, "steady")[-25:] == list(range(15, 40))
    rig.stop().check_order()


def test_streams_of_a_publisher_that_came_back_by_another_connection_are_its_own():
    """The old connection's number is greedy's then."""
    rig = Rig(max_streams=4)
    for n in range(60):
        rig.until(n * PERIOD)
        if n == 10:
            rig.table.left({STEADY})
        send(rig, STEADY if n < 10 else THIRD, *(frame(n, stream=f"s{k}") for k in range(2)))
        if n >= 11:
            send(rig, STEADY, *(frame(n, stream=f"g{k}") for k in range(9)))
    for k in range(2):
        assert came(rig, f"s{k}") == list(range(60))
    assert rig.table.streams == 4


def test_the_server_knows_who_has_gone_and_who_goes_on():
    """By the descriptors of connections: a stream whose connection breaks goes on by another one."""
    with serving(max_streams=4) as server, Peer(server.raw_endpoint, "XPUB") as other:
        streams, numbers = server._table._streams, iter(range(400))

        def owner(stream: str) -> int:
            return streams[stream].publisher if stream in streams else UNKNOWN

        def send_until(peer: Peer, done: Callable[[], bool]) -> None:
            while not done():
                assert peer.send(peer.message(*encode(frame(next(numbers)))))
                time.sleep(0.02)

        with Peer(server.raw_endpoint, "XPUB") as first:
            send_until(first, lambda: owner("a") != UNKNOWN)
            assert other.send(other.message(*encode(frame(0, stream="b"))))
            wait_for(lambda: owner("b") != UNKNOWN, "a second stream")
            assert owner("a") != owner("b")
        wait_for(lambda: owner("a") == UNKNOWN, "its publisher has gone")
        with Peer(server.raw_endpoint, "XPUB") as second:
            send_until(second, lambda: owner("a") != UNKNOWN)
        assert owner("b") not in (UNKNOWN, owner("a"))


def test_names_of_others_are_not_forgotten_for_those_of_one():
    """A stream that pauses goes on counting its poses; two hundred of one publisher come and go meanwhile."""
    rig = Rig(max_streams=4, max_gap=3)
    for n in range(10):
        rig.until(n * PERIOD)
        send(rig, STEADY, frame(n, stream="steady"))
    for n in range(200):
        rig.until((10 + n) * PERIOD)
        send(rig, GREEDY, frame(0, stream=f"g{n}", at=n * PERIOD))
    send(rig, STEADY, frame(500, stream="steady"), frame(501, stream="steady"))
    rig.stop()
    assert "evicted" not in rig.kinds("steady")
    assert [pose.seq for pose in rig.select(0, "steady")] == list(range(len(rig.select(0, "steady"))))
    assert sum(event.kind == "evicted" for event in rig.events) > 100


# --- the engine's turns ---


@RINGS
def test_a_batch_is_shared_by_group(native):
    bank = RefinerBank(MixingEngine(max_batch=8), lookahead=0, radius=0, streams=12, ring=ring_maker(native))
    bank.group[:] = [0] * 10 + [3, 5]
    for s, frames in enumerate([6] * 10 + [3, 9]):
        slots = np.arange(frames)
        bank.put(np.full(frames, s), slots, recording(frames, s))
    ran = []
    for _ in range(3):
        before = bank.next_window.copy()
        bank.step()
        ran.append(bank.next_window - before)
    by_group = [(int(r[:10].sum()), int(r[10]), int(r[11])) for r in ran]
    assert by_group == [(3, 3, 2), (4, 0, 4), (5, 0, 3)]
    assert sorted(sum(ran)[:10].tolist()) == [1] * 8 + [2] * 2, "a group's streams take turns"
    while bank.pending:
        bank.step()
    assert bank.next_window.tolist() == [6] * 10 + [3, 9]


@pytest.mark.parametrize("seed", range(4))
def test_the_rings_share_alike(seed):
    rng = np.random.default_rng(seed)
    options = {"lookahead": (0, 3), "radius": 1, "streams": 9}
    banks = [RefinerBank(MixingEngine(max_batch=5), **options, ring=ring_maker(native)) for native in (True, False)]
    newest = np.zeros(9, np.int64)
    for _ in range(40):
        if rng.random() < 0.2:
            for bank, group in zip(banks, [rng.integers(9, size=9)] * 2, strict=True):
                bank.group[:] = group
        for s in rng.choice(9, 4, replace=False).tolist():
            count = int(rng.integers(1, 6))
            slots = newest[s] + np.arange(count)
            newest[s] += count
            for bank in banks:
                bank.put(np.full(count, s), slots, recording(count, s))
        one, other = (bank.step() for bank in banks)
        for a, b in zip(one.columns, other.columns, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def crowd(rig: Rig, greedy: int, frames: int, *, steady: int = 1, lossless: bool = False) -> None:
    """Streams of two publishers at 25 frames a second, read as they come, through an engine that takes its time."""
    waiting = [
        (START + n * PERIOD, source, frame(n, stream=f"{name}{k}", lossless=lossless and name == "g"))
        for n in range(frames)
        for source, name, count in ((GREEDY, "g", greedy), (STEADY, "s", steady))
        for k in range(count)
    ]
    while waiting or rig.table.pending:
        if not rig.table.pending:
            rig.now = max(rig.now, waiting[0][0])
        due = [entry for entry in waiting if entry[0] <= rig.now]
        waiting = waiting[len(due) :]
        for source in (GREEDY, STEADY):
            if messages := [message for _, whose, message in due if whose == source]:
                receive(rig, source, *messages)
        rig.table.advance(rig.now)
        rig.poses += step(rig.table, lambda: rig.now)
        rig._take()


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("greedy", [5, 30])
def test_in_overload_a_publisher_within_its_share_loses_nothing(greedy, lossless):
    """100 windows a second; greedy wants 125 or 750, steady 50."""
    engine = SlowEngine(40 * MS, max_batch=4)
    rig = Rig(engine=engine, slack_s=60.0, max_streams=64, behind_s=0.3)
    engine.rig = rig
    crowd(rig, greedy, 100, steady=2, lossless=lossless)
    if not lossless:
        assert rig.table.counts["overload"] > 0
    left_out = Flag.PARTIAL_AVERAGE | Flag.PASSTHROUGH
    for k in range(2):
        poses = rig.select(0, f"s{k}")
        assert [pose.source_seq for pose in poses] == list(range(100))
        assert not any(pose.flags & left_out for pose in poses)
        late = [pose.publish_ns - pose.receive_ns for pose in poses]
        assert max(late) <= 2 * 40 * MS
    for k in range(greedy):
        assert rig.slots(0, f"g{k}") == list(range(100))


def test_what_is_left_out_in_a_hurry_is_of_those_with_more_than_their_share():
    """Steady sends five frames in a burst, greedy's three streams nine each."""
    rig = Rig(engine=BlendEngine(max_batch=1), slack_s=60.0, behind_s=60.0)
    receive(rig, GREEDY, *(frame(n, stream=s) for n in range(9) for s in "xyz"))
    receive(rig, STEADY, *(frame(n, stream="steady") for n in range(5)))
    rig.now += MS
    rig.poses += step(rig.table, lambda: rig.now, crowded=True)
    assert rig.table.counts == {"overload": 24}
    rig._work()
    check_equal(rig.stop(), range(5), 5, "steady")


def test_two_hundred_streams_in_one_message_delay_a_steady_one_by_a_batch():
    rig = Rig(engine=BlendEngine(max_batch=8), max_streams=256, slack_s=60.0)
    for n in range(10):
        rig.until(n * PERIOD)
        send(rig, STEADY, frame(n, stream="steady"))
    rig.now += PERIOD
    receive(rig, GREEDY, *(frame(0, stream=f"g{k}") for k in range(200)))
    receive(rig, STEADY, frame(10, stream="steady"))
    rig.poses += step(rig.table, lambda: rig.now)
    assert came(rig, "steady") == list(range(11))


def test_streams_of_no_known_connection_share_as_one():
    rig = Rig(max_streams=2)
    for n in range(20):
        rig.until(n * PERIOD)
        rig.send(*(frame(n, stream=s) for s in "abc"))
    for s in "ab":
        assert came(rig, s) == list(range(20))
    assert not came(rig, "c")
