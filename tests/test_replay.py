import math
from dataclasses import replace

import numpy as np
import pytest

from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording
from rtskel.tools.replay import ReplayConfig, keeps_times, replay, schedule, stream_ids


def take(frames: int, name: str = "a", fps: float = 25.0, **fields) -> Recording:
    xyz = np.random.default_rng(frames).normal(size=(frames, 50, 3))
    return Recording(xyz, fps, name, **fields)


class Clock:
    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def now(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.ns += round(seconds * 1e9)


class Sender:
    """Takes down what it is given, and when."""

    def __init__(self, clock: Clock, slow_ns: int = 0, subscribed: bool = True) -> None:
        self.clock, self.slow_ns, self.subscribed = clock, slow_ns, subscribed
        self.frames: list[tuple[int, int, int]] = []
        self.poses: list[tuple[np.ndarray, np.ndarray]] = []
        self.ended: int | None = None
        self.closed = False

    def wait_for_subscriber(self, timeout: float | None = None) -> None:
        self.clock.ns += 3_000_000
        if not self.subscribed:
            raise TimeoutError("no server takes it")

    def send(self, xyz, confidence=None, *, seq=None, time_ns=None, block=False) -> bool:
        assert self.ended is None
        assert block, "a replay loses nothing on its own"
        self.frames.append((self.clock.ns, seq, time_ns))
        self.poses.append((xyz, confidence))
        self.clock.ns += self.slow_ns
        return True

    def end(self, seq=None) -> bool:
        assert self.ended is None
        self.ended = seq
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.closed = True


def play(recordings: list[Recording], config: ReplayConfig, **options) -> list[Sender]:
    clock = Clock()
    senders = [Sender(clock, **options) for _ in recordings]
    replay(recordings, lambda number, fps: senders[number], config, now_ns=clock.now, sleep=clock.sleep)
    assert all(sender.closed for sender in senders)
    return senders


def test_frames_go_out_at_the_recorded_rate_without_drift() -> None:
    (sender,) = play([take(1000, fps=30)], ReplayConfig(), slow_ns=5_000_000)
    sent = np.array([at for at, _, _ in sender.frames])
    np.testing.assert_allclose(sent - sent[0], np.arange(1000) / 30 * 1e9, atol=2)
    assert [seq for _, seq, _ in sender.frames] == list(range(1000))
    assert [at - taken for at, _, taken in sender.frames] == [0] * 1000
    assert sender.ended == 1000


def test_a_slow_sender_catches_up() -> None:
    (sender,) = play([take(10)], ReplayConfig(), slow_ns=100_000_000)
    taken = np.array([taken for _, _, taken in sender.frames])
    np.testing.assert_allclose(np.diff(taken), 40e6, atol=2)


def test_what_is_sent_is_what_was_recorded() -> None:
    confidence = np.random.default_rng(0).random((6, 50)).astype(np.float32)
    recording = take(6, confidence=confidence, slot=np.array([2, 3, 4, 7, 8, 11]))
    (sender,) = play([recording], ReplayConfig())
    np.testing.assert_array_equal(np.stack([xyz for xyz, _ in sender.poses]), recording.xyz)
    np.testing.assert_array_equal(np.stack([c for _, c in sender.poses]), confidence)
    assert [seq for _, seq, _ in sender.frames] == [2, 3, 4, 7, 8, 11]
    sent = np.array([at for at, _, _ in sender.frames])
    np.testing.assert_allclose(np.diff(sent), np.diff(recording.slots) * 40e6, atol=2)
    assert sender.ended == 12


def test_dropped_frames_leave_holes() -> None:
    (sender,) = play([take(400)], ReplayConfig(drop=0.25, seed=3))
    seqs = [seq for _, seq, _ in sender.frames]
    assert 250 < len(seqs) < 350
    assert seqs == sorted(set(seqs))
    assert sender.ended == 400
    (again,) = play([take(400)], ReplayConfig(drop=0.25, seed=3))
    assert again.frames == sender.frames


def test_jitter_delays_and_may_overtake() -> None:
    (sender,) = play([take(200)], ReplayConfig(jitter_ms=100))
    late = np.array([at - taken for at, _, taken in sender.frames]) / 1e6
    assert late.min() >= 0
    assert 60 < late.max() <= 100
    seqs = [seq for _, seq, _ in sender.frames]
    assert seqs != sorted(seqs)
    assert sorted(seqs) == list(range(200))
    assert sender.ended == 200


def test_speed() -> None:
    rates: list[float] = []
    clock = Clock()
    sender = Sender(clock)

    def connect(number: int, fps: float) -> Sender:
        rates.append(fps)
        return sender

    replay([take(50)], connect, ReplayConfig(speed=4), now_ns=clock.now, sleep=clock.sleep)
    assert rates == [100]
    np.testing.assert_allclose(np.diff([at for at, _, _ in sender.frames]), 10e6, atol=2)
    with pytest.raises(FormatError, match=r"recording 'a'.*speed 1000"):
        schedule([take(5)], ReplayConfig(speed=1000))


def test_as_fast_as_they_are_taken() -> None:
    (sender,) = play([take(50)], ReplayConfig(speed=math.inf), slow_ns=1000)
    sent = [at for at, _, _ in sender.frames]
    assert np.diff(sent).max() == 1000
    assert [taken for _, _, taken in sender.frames] == sent


def test_recorded_times_go_out_where_no_clock_is_followed() -> None:
    times = 7 * 10**15 + np.arange(6) * 41_000_000
    recording = take(6, time_ns=times)
    for known in (times, np.where(times == times[3], -1, times)):
        for speed in (math.inf, 1.0):
            clock = Clock()
            sender = Sender(clock)
            config = ReplayConfig(speed=speed)
            start = clock.ns
            given = replace(recording, time_ns=known)
            replay([given], lambda number, fps, s=sender: s, config, now_ns=clock.now, sleep=clock.sleep)
            sent = [time_ns for _, _, time_ns in sender.frames]
            if keeps_times(given, config):
                assert math.isinf(speed)
                assert sent == times.tolist()
            else:
                assert known is not times or speed == 1.0
                assert start <= sent[0] <= sent[-1] < start + 10**9


def test_one_after_another_or_together() -> None:
    recordings = [take(10), take(20), take(5)]
    first, second, third = play(recordings, ReplayConfig())
    assert first.frames[-1][0] < second.frames[0][0] < second.frames[-1][0] < third.frames[0][0]
    assert [s.ended for s in (first, second, third)] == [10, 20, 5]
    starts = [sender.frames[0][0] for sender in play(recordings, ReplayConfig(together=True))]
    assert max(starts) - min(starts) < 40_000_000


def test_nobody_listens() -> None:
    clock = Clock()
    sender = Sender(clock, subscribed=False)
    with pytest.raises(RtskelError, match="no server takes it within 3 s"):
        replay([take(5)], lambda number, fps: sender, ReplayConfig(), wait_s=3, now_ns=clock.now, sleep=clock.sleep)
    assert not sender.frames
    assert sender.ended is None
    assert sender.closed


def test_an_interrupted_stream_is_ended_where_it_is() -> None:
    clock = Clock()
    senders = [Sender(clock), Sender(clock)]

    def stop(item) -> None:
        if item.recording == 1 and item.row == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(
            [take(5), take(20)],
            lambda number, fps: senders[number],
            ReplayConfig(),
            progress=stop,
            now_ns=clock.now,
            sleep=clock.sleep,
        )
    assert [sender.ended for sender in senders] == [5, 7]
    assert all(sender.closed for sender in senders)


@pytest.mark.parametrize("wrong", [{"drop": 1}, {"drop": -0.1}, {"jitter_ms": -1}, {"speed": 0}, {"speed": math.nan}])
def test_impossible_options(wrong: dict) -> None:
    with pytest.raises(RtskelError, match=next(iter(wrong)).split("_", maxsplit=1)[0]):
        ReplayConfig(**wrong)


def test_stream_ids() -> None:
    names = ["dev/11August-2", "x/11August-2", "é è", "", "a" * 80, "b" * 80, "b" * 81]
    ids = stream_ids([take(1, name) for name in names])
    assert len(set(ids)) == len(ids)
    assert ids[:4] == ["11August-2", "11August-2-2", "-", "recording"]
    assert max(map(len, ids)) <= 64
    assert stream_ids([take(1)], "cam") == ["cam"]
    assert stream_ids([take(1), take(2)], "cam") == ["cam-1", "cam-2"]
