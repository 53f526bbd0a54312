"""What becomes of windows that an engine has no time for: the newest first, every slot published, nothing uncounted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from rtskel.client import GroupPublisher
from rtskel.refine import Refined, RefinerBank
from rtskel.skeleton import NECK
from rtskel.wire import Flag
from tests.contract import JOINTS, MixingEngine, average, predictions
from tests.hostile.zmtp import Peer
from tests.oracles.ring import ring_maker
from tests.test_serve import PATIENCE, Reader, publisher, serving
from tests.test_streams import MS, PERIOD, START, BlendEngine, Rig, end, feed, frame, recording, step

RINGS = pytest.mark.parametrize("native", [True, False], ids=["native", "numpy"])


# --- the ring: windows that never run ---


@RINGS
@pytest.mark.parametrize(("radius", "lookaheads"), [(0, (0,)), (2, (0, 3)), (1, (2, 8)), (3, (4,))])
@pytest.mark.parametrize("seed", range(4))
def test_averages_take_the_windows_that_ran(native, radius, lookaheads, seed):
    rng = np.random.default_rng(seed)
    engine, frames, most = MixingEngine(), 40, 8 // 2 + radius
    xyz = recording(frames, seed)
    came = rng.random((frames, JOINTS)) > 0.1
    came[[5, 6, 20]] = False
    bank = RefinerBank(engine, lookahead=lookaheads, radius=radius, ring=ring_maker(native))
    done, ran = [], np.zeros(frames + most, np.bool_)

    def step():
        before = int(bank.next_window[0])
        done.append(bank.step(1))
        ran[before : int(bank.next_window[0])] = True

    for n in range(frames):
        bank.put(0, n, xyz[n : n + 1], came[n : n + 1].astype(np.float32))
        if rng.random() < 0.3:
            before, pending = int(bank.next_window[0]), bank.pending
            done.append(bank.skip(0))
            assert int(bank.next_window[0]) == max(before, n)
            assert bank.pending == min(pending, 1)
        if rng.random() < 0.6 and bank.pending:
            step()
    bank.end(0)
    while bank.pending:
        step()
    assert 8 < ran.sum() < frames - 4

    valid = came & np.isfinite(xyz).all(-1)
    predicted, known = predictions(engine, np.where(valid[..., None], xyz, 0), valid, most)
    out = Refined.concatenate(done)
    for lookahead in lookaheads:
        mean, sigma, used = average(predicted, known & ran, frames, lookahead, radius)
        rows = out.select(lookahead=lookahead)
        assert rows.slot.tolist() == list(range(frames))
        assert rows.windows.tolist() == used.tolist()
        some = used > 0
        np.testing.assert_allclose(rows.xyz[some], mean[some], atol=1e-4)
        np.testing.assert_allclose(rows.sigma[some], sigma[some], atol=1e-4)
        full = average(predicted, np.ones_like(known), frames, lookahead, radius)[2]
        assert ((rows.flags & Flag.PARTIAL_AVERAGE) > 0).tolist() == (used < full).tolist()
        passed = (rows.flags & Flag.PASSTHROUGH) > 0
        assert passed.tolist() == (~some & ~never_predicted(predicted, known, frames, lookahead, radius)).tolist()
        for i in np.flatnonzero(passed).tolist():
            last = next((n for n in range(i, -1, -1) if valid[n].any()), i)
            expected = np.where(valid[last][:, None], xyz[last], xyz[last, NECK] * valid[last, NECK])
            np.testing.assert_array_equal(rows.xyz[i], expected)


def never_predicted(predicted, known, frames, lookahead, radius) -> np.ndarray:
    """Which slots have no prediction even if every window runs."""
    return average(predicted, known, frames, lookahead, radius)[2] == 0


@RINGS
def test_skipping_what_is_not_waiting_changes_nothing(native):
    bank = RefinerBank(MixingEngine(), lookahead=2, streams=3, ring=ring_maker(native))
    assert len(bank.skip([0, 1, 2])) == 0
    bank.put(1, 0, np.ones((1, JOINTS, 3), np.float32))
    assert len(bank.skip([0, 1])) == 0
    assert bank.pending == 1
    bank.step()
    assert len(bank.skip([1])) == 0
    with pytest.raises(ValueError, match="out of range"):
        bank.skip([3])


# --- the streams: who is skipped, and what is said of it ---


class SlowEngine(BlendEngine):
    """Takes `cost` ns of the rig's clock for each batch."""

    def __init__(self, cost: float, max_batch: int = 2) -> None:
        super().__init__(max_batch=max_batch)
        self.cost, self.ran = cost, 0
        self.rig: Rig | None = None

    def run(self, x, missing, *positions):
        self.ran += len(x)
        if self.rig is not None:
            self.rig.now += round(self.cost)
        return super().run(x, missing, *positions)


def overload(
    cost: float,
    frames: int = 100,
    streams: str = "abcd",
    *,
    lossless: str = "",
    load: dict[str, int] | None = None,
    **config,
) -> Rig:
    """Streams of 25 frames a second, read as they come, through an engine that may be too slow; `load`: others, and how
    many frames they have.
    """
    engine = SlowEngine(cost)
    rig = Rig(engine=engine, slack_s=60.0, **config)
    engine.rig, engine.ran = rig, 0
    counts = dict.fromkeys(streams, frames) | (load or {})
    waiting = [
        (START + n * PERIOD, frame(n, stream=s, lossless=s in lossless))
        for n in range(max(counts.values()))
        for s, count in counts.items()
        if n < count
    ]
    waiting += [(START + count * PERIOD, end(count, stream=s)) for s, count in counts.items()]
    waiting.sort(key=lambda entry: entry[0])
    while waiting or rig.table.pending:
        if not rig.table.pending:
            rig.now = max(rig.now, waiting[0][0])
        due = [entry for entry in waiting if entry[0] <= rig.now]
        waiting = waiting[len(due) :]
        feed(rig.table, [(message, rig.now) for _, message in due])
        rig.table.advance(rig.now)
        rig._take()
        for pose in step(rig.table, lambda: rig.now):
            rig.poses.append(pose)
        rig._take()
    return rig


def delays(rig: Rig, stream: str, lookahead: int = 0) -> np.ndarray:
    """ns from a frame's being taken to its pose, beyond the lookahead."""
    return np.array(
        [p.publish_ns - START - p.source_time_ns - lookahead * PERIOD for p in rig.select(lookahead, stream)]
    )


def test_an_engine_that_keeps_up_runs_every_window():
    rig = overload(15 * MS)  # 133 windows a second for 100
    assert not rig.table.counts
    assert rig.engine.ran == 4 * (100 + 4)
    assert not any(p.flags & (Flag.PASSTHROUGH | Flag.PARTIAL_AVERAGE) for p in rig.poses)


@pytest.mark.parametrize("behind_s", [0.0, 0.2, 1.0])
def test_an_overloaded_engine_refines_the_newest_of_each_stream(behind_s):
    rig = overload(50 * MS, frames=200, behind_s=behind_s)  # 40 windows a second for 100
    rig.check_order()
    total = 4 * (200 + 4)
    assert rig.table.counts == {"overload": total - rig.engine.ran}
    assert rig.engine.ran < total * 0.6
    for stream in "abcd":
        assert rig.slots(0, stream) == list(range(200))  # every slot is published
        assert rig.slots(4, stream) == list(range(200))
        late = delays(rig, stream)
        # A turn over all streams takes 100 ms; nothing waits for longer than that and behind_s.
        assert late.max() <= behind_s * 1e9 + 250 * MS
        refined = [p for p in rig.select(0, stream) if not p.flags & Flag.PASSTHROUGH]
        assert len(refined) > 0.3 * 200  # its share of what the engine does
        gaps = np.diff([p.source_seq for p in refined])
        assert np.sort(gaps)[-2] <= 5  # evenly, behind one leap to the newest
        assert gaps.max() <= 1.3 * behind_s * 25 + 5
        for pose in rig.select(0, stream):
            assert (pose.windows == 0) == bool(pose.flags & Flag.PASSTHROUGH)
            if pose.windows == 0:
                np.testing.assert_array_equal(pose.xyz, frame(pose.source_seq).xyz)
    said = [event for event in rig.events if event.kind == "error"]
    assert said
    assert all(event.stream == "" and "newer" in event.detail for event in said)
    assert said[-1].counts["overload"] <= rig.table.counts["overload"]
    assert len(said) <= 8 + 2  # at most one a second


def test_a_lossless_stream_waits_and_the_live_ones_do_not_wait_for_it():
    rig = overload(50 * MS, frames=100, lossless="b", behind_s=0.1)
    rig.check_order()
    passed = {stream: sum(bool(p.flags & Flag.PASSTHROUGH) for p in rig.select(0, stream)) for stream in "abcd"}
    assert passed["b"] == 0
    assert min(passed[stream] for stream in "acd") > 0
    assert all(p.windows for p in rig.select(4, "b"))
    assert delays(rig, "b").max() > 1e9
    for stream in "acd":
        assert delays(rig, stream).max() < 400 * MS


def test_nothing_is_left_out_where_that_is_ruled_out():
    rig = overload(50 * MS, frames=60, behind_s=float("inf"))
    assert not rig.table.counts
    assert rig.engine.ran == 4 * (60 + 4)

    rig = Rig(engine=BlendEngine(max_batch=1), slack_s=60.0, behind_s=float("inf"))
    feed(rig.table, [(frame(n), rig.now) for n in range(10)])
    step(rig.table, lambda: rig.now + MS, crowded=True)
    assert not rig.table.counts


def test_where_no_more_can_wait_the_newest_come_first_at_once():
    rig = Rig(engine=BlendEngine(max_batch=1), slack_s=60.0, behind_s=60.0)
    feed(rig.table, [(frame(n, stream=s), rig.now) for n in range(10) for s in "ab"])
    rig.now += MS
    poses = step(rig.table, lambda: rig.now, crowded=True)
    assert rig.table.counts == {"overload": 18}
    assert [p.source_seq for p in poses if (p.stream, p.lookahead) == ("a", 0)] == list(range(10))
    assert rig.table.pending == 1


@RINGS
@pytest.mark.parametrize("missing", [[3], [3, 4, 5], [9], range(3, 14), range(3, 15)])
def test_a_stream_is_behind_though_its_first_frames_did_not_come(missing, native):
    """What waits longest may be the window of a slot that was given up: the frames after it are as old."""
    rig = Rig(engine=BlendEngine(max_batch=1), native=native, slack_s=0.1, behind_s=0.5)
    feed(rig.table, [(frame(n, stream=s), rig.now) for n in range(3) for s in "ab"])
    rig._work()  # the windows of slots 0 to 2 have run
    feed(rig.table, [(frame(n, stream=s), rig.now) for n in range(3, 15) if n not in missing for s in "ab"])
    rig.now += 650 * MS
    rig.table.advance(rig.now)
    waiting = rig.table.pending
    assert waiting >= 6
    step(rig.table, lambda: rig.now)
    assert rig.table.counts["overload"] == waiting - 2


@pytest.mark.parametrize("behind_s", [-1.0, float("nan")])
def test_a_senseless_patience_is_refused(behind_s):
    with pytest.raises(ValueError, match="behind_s"):
        Rig(behind_s=behind_s)


@pytest.mark.parametrize("max_age_s", [0.4, 2.0])
def test_the_age_of_what_comes_out_is_bounded_and_recovers_when_the_load_ends(max_age_s):
    """Streams x are the load, for 4 s; then they end, and the steady stream is served as before within a second."""
    load, frames = [f"x{k}" for k in range(7)], 250
    rig = overload(40 * MS, frames=frames, streams="a", load=dict.fromkeys(load, 100), max_age_s=max_age_s)
    rig.check_order()
    assert rig.table.counts["overload"] > 0
    assert set(rig.table.counts) == {"overload"}
    turn = 8 * 40 * MS / 2  # all streams once
    for stream in ["a", *load]:
        late = delays(rig, stream)
        assert len(late) == (frames if stream == "a" else 100)
        assert late.max() <= max_age_s * 1e9 + turn
        for lookahead in (0, 4):
            for pose in rig.select(lookahead, stream):
                old = pose.publish_ns - pose.receive_ns > max_age_s * 1e9 + turn + lookahead * PERIOD
                if old and not pose.flags & Flag.FLUSHED:  # the tails of all come out together
                    assert pose.flags & (Flag.PASSTHROUGH | Flag.PARTIAL_AVERAGE)
    after = [p for p in rig.select(4, "a") if p.source_seq >= 100 + 25]
    assert not any(p.flags & (Flag.PASSTHROUGH | Flag.PARTIAL_AVERAGE) for p in after)
    assert delays(rig, "a")[125:].max() <= 40 * MS


def test_an_ended_stream_does_not_hold_others_up():
    """In overload its older windows are left out, too; its tail does not count among the frames that wait."""
    rig = Rig(engine=BlendEngine(max_batch=1), slack_s=60.0, behind_s=0.5)
    feed(rig.table, [(frame(n, stream=s), rig.now) for n in range(10) for s in "ab"])
    rig.now += 600 * MS
    rig.poses += step(rig.table, lambda: rig.now)
    assert rig.table.counts == {"overload": 18}
    feed(rig.table, [(frame(n), rig.now) for n in range(10, 40)] + [(end(40), rig.now)])
    assert rig.table.waiting in (31, 32)  # one of a or b has run
    rig.now += 20 * MS
    while not rig.slots(0) or rig.slots(0)[-1] < 39:
        rig.poses += step(rig.table, lambda: rig.now)
    assert rig.table.counts["overload"] >= 18 + 29
    assert rig.slots(0) == list(range(40))
    assert rig.table.waiting == 0
    assert rig.table.pending > 0
    rig._work()
    assert rig.slots(4) == list(range(40))
    assert rig.kinds() == ["start", "end"]


@pytest.mark.parametrize("changes", [{"lossless": True}, {"behind_s": float("inf")}], ids=["lossless", "never"])
def test_an_ended_stream_of_which_nothing_may_be_left_out_is_refined(changes):
    behind_s = {"behind_s": changes.get("behind_s", 0.5)}
    rig = Rig(engine=BlendEngine(max_batch=1), slack_s=60.0, **behind_s)
    lossless = "lossless" in changes
    feed(rig.table, [(frame(n, lossless=lossless), rig.now) for n in range(40)] + [(end(40), rig.now)])
    rig.now += 600 * MS
    rig._work()
    assert not rig.table.counts
    for lookahead in (0, 4):
        np.testing.assert_array_equal(rig.slots(lookahead), np.arange(40))
        assert not any(p.flags & (Flag.PASSTHROUGH | Flag.PARTIAL_AVERAGE) for p in rig.select(lookahead))


@pytest.mark.parametrize("max_age_s", [0.0, -1.0, float("nan")])
def test_a_senseless_age_is_refused(max_age_s):
    with pytest.raises(ValueError, match="max_age_s"):
        Rig(max_age_s=max_age_s)


# --- the server ---


class HeldEngine(BlendEngine):
    """Works as soon as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.tried = False

    def run(self, x, missing, *positions):
        assert not self.tried or self.go.wait(PATIENCE)
        return super().run(x, missing, *positions)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_server_that_was_held_up_goes_on_with_the_newest(lossless):
    xyz, engine = recording(300), HeldEngine()
    with (
        serving(engine, behind_s=0.0) as server,
        Reader(server, queue=10_000) as reader,
        publisher(server, queue=1000) as sender,
    ):
        engine.tried = True
        for n in range(300):
            assert sender.send(xyz[n], seq=n, block=lossless)
        engine.go.set()
        sender.end(300)
        reader.until_ended()
        for lookahead in (0, 4):
            assert [pose.source_seq for pose in reader.select("a", lookahead)] == list(range(300))
        passed = sum(bool(pose.flags & Flag.PASSTHROUGH) for pose in reader.select("a", 0))
        assert (passed > 0) == (not lossless)
        if not lossless:
            reader.until_counted(overload=passed)
            assert "left out for newer ones" in reader.errors("")[0]
        else:
            reader.check("a", xyz, range(300), 300)


def test_whoever_sends_what_is_refused_makes_nobody_lag():
    """There is always something unread, for long: but no frames. No window of anybody is left out for that."""
    xyz, jump, stop = recording(80), [0], threading.Event()

    def flood(endpoint):
        with Peer(endpoint, "XPUB") as peer:
            block = peer.message(*[b"rts1/raw/x/"] * 60) * 500
            while not stop.is_set():
                peer.send(block)

    with (
        serving(clock=lambda: time.monotonic_ns() + jump[0], idle_s=1e6) as server,
        Reader(server) as reader,
        publisher(server) as sender,
    ):
        thread = threading.Thread(target=flood, args=[server.raw_endpoint])
        thread.start()
        try:
            reader.until_counted(malformed=2000)
            jump[0] = 100_000_000_000  # so long it has been going on
            for n in range(0, 80, 2):
                sender.send(xyz[n], seq=n, block=False)
                sender.send(xyz[n + 1], seq=n + 1, block=False)
                reader.until(lambda reader, n=n: len(reader.select("a", 0)) == n + 2)
        finally:
            stop.set()
            thread.join(PATIENCE)
        sender.end(80)
        reader.until_ended()
        reader.check("a", xyz, range(80), 80)
        assert not any("overload" in beat.counts for beat in reader.heartbeats)


def test_a_publisher_of_much_does_not_leave_others_unread():
    """Messages are read in turn, and one publisher's hold 16 poses each: there is room for few of the other's. Frames
    that have been unread for too long are read at once, and windows are left out for them.
    """
    xyz, engine, jump = recording(60), HeldEngine(), [0]
    unread: list[int] = []
    run = engine.run

    def counted(*given):
        if engine.go.is_set():
            unread.append(17 * 60 - server._reading.frames)
            jump[0] += 2_000_000_000  # so long it takes
        return run(*given)

    engine.run = counted
    many = np.broadcast_to(xyz[:, None], (60, 16, *xyz.shape[1:]))
    with (
        serving(engine, config={"max_waiting": 64}, clock=lambda: time.monotonic_ns() + jump[0], idle_s=1e6) as server,
        Reader(server, queue=10_000) as reader,
        publisher(server, queue=1000) as steady,
        GroupPublisher(server.raw_endpoint, group="x", fps=25, queue=1000) as heavy,
    ):
        heavy.wait_for_subscriber(PATIENCE)
        engine.tried = True
        for n in range(60):
            assert heavy.send([f"x{k}" for k in range(16)], many[n], seq=n)
            assert steady.send(xyz[n], seq=n)
        engine.go.set()
        reader.until(lambda reader: unread and unread[-1] == 0)
        assert sum(left > 0 for left in unread) < 10
        heavy.end()
        steady.end(60)
        reader.until(lambda reader: sum(event.kind == "end" for event in reader.events) == 17)
        for stream in ("a", "x0", "x15"):
            assert [pose.seq for pose in reader.select(stream, 0)] == list(range(60))
