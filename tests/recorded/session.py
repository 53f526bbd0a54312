"""A recorded session: 64 streams with everything that estimators and networks do, through the streams and the outlet.

No sockets and no real clock: messages, their times and the engine are made from seeds, so that every published message
is the same in every run. `play(name)` gives them in order. `python -P tests/recorded/session.py` writes the golden
fingerprints anew, `--dump FILE` writes every message in full.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np

from rtskel.refine import RefinerBank
from rtskel.serve import Outlet, Subscriptions
from rtskel.skeleton import UPPER_BODY_50, from_canonical
from rtskel.wire import RawBatch, RawPose, StreamEnd, encode, stream_of

try:
    from rtskel.serve.lifting_bank import LiftingBank
    from rtskel.serve.table import StreamConfig, StreamTable
except ImportError:  # the first version, which these messages are compared with
    from rtskel.lifting import LiftingBank
    from rtskel.streams import StreamConfig, StreamTable

try:
    from rtskel.serve.table import whole_pose

    EXTRA: dict[str, Any] = {"output": whole_pose}
except ImportError:
    try:
        from rtskel.streams import whole_pose

        EXTRA = {"output": whole_pose}
    except ImportError:
        EXTRA = {}

GOLDEN = Path(__file__).with_name("session.json")
JOINTS = UPPER_BODY_50.joints
MS = 1_000_000
SECOND = 1000 * MS
START = 10**15
FPS = 25.0
PERIOD = 40 * MS
EPOCH = 77
NAMES = ("live", "lifting", "hops")
EXACT = ("live", "hops")
"""Sessions whose coordinates are the same on every machine: lifting may differ in the last bit."""

Parts = tuple[bytes, bytes]


class Engine:
    """Every frame, position and missing joint of a window matters to all of its output; each batch takes `cost` ns."""

    window, joints = 8, JOINTS

    def __init__(self, max_batch: int, cost: int) -> None:
        rng = np.random.default_rng(0)
        self.max_batch, self.cost = max_batch, cost
        self.info = SimpleNamespace(skeleton_id=UPPER_BODY_50.id, model_id="recorded")
        self.now = START
        self.started = self.ended = START
        self.error = ""
        self.calls = 0
        self._time = rng.normal(size=(8, 8)).astype(np.float32) / 8
        self._place = rng.normal(size=(8, 3 * JOINTS)).astype(np.float32) / 10

    def clock(self) -> int:
        """The time, in ns, which runs a little with every look."""
        self.now += 1000
        return self.now

    def run(self, x: np.ndarray, missing: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """See `rtskel.refine.WindowEngine`. Every 40th batch fails."""
        self.started = self.clock()
        self.calls += 1
        self.error = "out of memory" if self.calls % 40 == 0 else ""
        self.now += self.cost
        self.ended = self.clock()
        if self.error:
            return np.take(x, positions, axis=1)
        flat = (x + np.float32(0.05) * missing[..., None]).reshape(len(x), 8, -1)
        # Sums in a fixed order: a matrix product would depend on the machine.
        mixed = sum(self._time[:, k, None] * flat[:, k, None, :] for k in range(8))
        bent = mixed / (1 + np.abs(mixed)) + self._place
        return (x + bent.reshape(x.shape) / np.float32(4))[:, positions]

    def ring(self, config: object) -> None:
        """See `rtskel.refine.WindowEngine`."""
        return None


def clip(frames: int) -> np.ndarray:
    """Something that moves: [frames, 50, 3] float32."""
    rng = np.random.default_rng(1)
    pose = rng.normal(size=(JOINTS, 3)).astype(np.float32)
    pose[[1, 2, 5]] = [[0, 0, 0], [-0.17, 0, 0], [0.17, 0, 0]]
    return pose + np.cumsum(rng.normal(size=(frames, JOINTS, 3)), axis=0).astype(np.float32) * np.float32(0.01)


CLIP = clip(400)


class Estimator:
    """One person's frames: what its camera says of them, and what goes wrong with them."""

    def __init__(self, name: str, seed: int, *, flat: bool = False, calm: bool = False) -> None:
        self.name, self.rng = name, random.Random(seed)
        self.number, self.epoch, self.shift = self.rng.choice([0, 0, 0, 7, 500]), seed, seed
        self.calm = calm
        axes = self.rng.choice(["RDT", "RDT", "RDT", "RUA", "LUA"])
        self.view: dict[str, Any] = {"axes": axes, "mirrored": self.rng.random() < 0.2}
        self.view |= {"lossless": self.rng.random() < 0.2, "fps": self.rng.choice([25.0, 25.0, 30.0])}
        if flat:
            self.view["dims"] = 2
        self.timed = not calm and self.rng.random() < 0.15
        self.kept: list[RawPose] = []

    def frame(self, time: int, **changes: Any) -> RawPose:
        """The next frame, captured at that time."""
        rng = self.rng
        xyz = from_canonical(CLIP[(self.number + self.shift) % len(CLIP)], self.view["axes"], self.view["mirrored"])
        confidence = np.ones(JOINTS, np.float32)
        if rng.random() < 0.1:
            confidence[[rng.randrange(JOINTS) for _ in range(9)]] = 0
        seq = None if self.timed else self.number
        fields = self.view | {"xyz": xyz, "confidence": confidence, "skeleton": UPPER_BODY_50.id} | changes
        pose = RawPose(stream=self.name, epoch=self.epoch, seq=seq, time_ns=time, clock="monotonic", **fields)
        self.number += 1
        return pose

    def messages(self, time: int) -> list[tuple[int, RawPose | StreamEnd]]:
        """What it sends of the frame captured at that time, and when that arrives."""
        rng, what = self.rng, self.rng.random()
        if self.calm:
            return [(time + rng.randrange(3 * MS), self.frame(time))]
        if what < 0.03:  # dropped
            self.number += rng.choice([1, 1, 2, 5])
            return []
        if what < 0.035:  # a pause: a short or a long gap
            self.number += rng.choice([20, 40, 3000])
        elif what < 0.04:  # started again
            self.epoch += 1000
            self.number = rng.choice([0, 0, 3])
        elif what < 0.043:  # another view
            self.view["axes"] = rng.choice(["RDT", "RUA"])
        elif what < 0.046:
            self.view["fps"] = rng.choice([25.0, 30.0, 50.0])
        elif what < 0.049:
            self.view["lossless"] = not self.view["lossless"]
        elif what < 0.053:  # the end, and another sequence
            stated = rng.choice([self.number, self.number, None, self.number + 2, self.number + 100])
            ended = StreamEnd(self.name, self.epoch, None if self.timed else stated, time, "monotonic")
            if rng.random() < 0.5:
                self.number = 0
            return [(time, ended)] + ([(time, ended)] if rng.random() < 0.3 else [])
        late = rng.choice([0, 0, 0, 0, 0, 10, 60, 300]) * MS + rng.randrange(8 * MS)
        changes: dict[str, Any] = {}
        if rng.random() < 0.005:
            changes = {"skeleton": "hand-21"}
        pose = self.frame(time, **changes)
        self.kept = [*self.kept[-20:], pose]
        sent = [(time + late, pose)]
        if rng.random() < 0.02:  # again
            sent.append((time + late + rng.randrange(100 * MS), rng.choice(self.kept)))
        if rng.random() < 0.004 and not self.timed:  # a number that is absurd
            leapt = RawPose(**{name: getattr(pose, name) for name in pose.__slots__} | {"seq": 10**9})
            sent.append((time + late + MS, leapt))
        return sent


def crowd(group: str, people: list[Estimator], time: int) -> RawBatch:
    """A frame of several people in one message."""
    poses = [person.frame(time, **people[0].view) for person in people]
    same = {name: getattr(poses[0], name) for name in RawPose.__slots__ if name not in ("stream", "xyz", "confidence")}
    arrays = np.stack([pose.xyz for pose in poses]), np.stack([pose.confidence for pose in poses])
    return RawBatch(group=group, streams=[p.name for p in people], xyz=arrays[0], confidence=arrays[1], **same)


def parts(message: RawPose | RawBatch | StreamEnd, broken: bool) -> Parts:
    """The parts of a message; broken: with a joint that is no number."""
    topic, body = encode(message)
    if broken and not isinstance(message, StreamEnd):
        bad = np.array(message.xyz)
        bad[..., 11, 1] = np.nan
        body = msgpack.packb(msgpack.unpackb(body) | {"xyz": bad.tobytes()})
    return topic, body


def schedule(name: str) -> list[tuple[int, Parts]]:
    """Every message of a session, in the order of arrival."""
    rng = random.Random(name)
    sent: list[tuple[int, Parts]] = []
    live = name != "lifting"
    singles = [Estimator(f"s{k}", k, flat=not live and k % 2 == 0) for k in range(40 if live else 6)]
    calm = [Estimator(f"c{k}", 100 + k, calm=True) for k in range(8 if live else 0)]
    people = [Estimator(f"p{k}", 200 + k, calm=True) for k in range(16 if live else 3)]
    for k, person in enumerate(people):
        person.number, person.epoch, person.timed = 0, 5, False
        person.view = people[k - k % 4].view
    for n in range(110 if live else 30):
        time = START + n * PERIOD
        for person in singles + calm:
            sent += [(at, parts(m, rng.random() < 0.004)) for at, m in person.messages(time)]
        for first in range(0, len(people), 4):
            group = people[first : first + 4]
            if rng.random() < 0.95:
                here = group if rng.random() < 0.9 else group[: rng.randint(1, len(group))]
                sent.append((time + rng.randrange(10 * MS), parts(crowd(f"g{first}", here, time), rng.random() < 0.01)))
            for person in group:
                person.number = n + 1
        if rng.random() < 0.1:
            topic, body = sent[-1][1]
            sent.append((time, (topic, body[:-1])))
    return sorted(sent, key=lambda entry: entry[0])


def play(name: str) -> Iterator[Parts]:
    """Every message that a session publishes, in order."""
    cost = {"live": 9, "lifting": 2, "hops": 40}[name] * MS
    engine = Engine(max_batch=32, cost=cost)
    config = {"live": {"ahead": 40}, "hops": {"ahead": 40, "max_gap": 5, "behind_s": 0.3}}.get(name, {})
    streams = StreamConfig(max_streams=60, idle_s=3.0, **config)
    make: Callable[..., RefinerBank] = LiftingBank if name == "lifting" else RefinerBank
    extra = {"lift_lookahead": 2} if name == "lifting" else {}
    hop = {"hop": 3} if name == "hops" else {}
    bank = make(engine, lookahead=(0, 4), streams=60, ahead=streams.ahead, **extra, **hop)
    table = StreamTable(bank, streams, epoch=EPOCH, model="recorded", **EXTRA)
    wanted = Subscriptions()
    for prefix in (b"rts1/refined/", b"rts1/refined_batch/L4/"):
        wanted.take(b"\1" + prefix)
    outlet = Outlet(table, bank.lookaheads, bank.joints, wanted)
    outlet.subscribed()
    out: list[Parts] = []

    def tell() -> None:
        out.extend(encode(event) for event in table.take_events())

    def times() -> tuple[int, int]:
        if engine.error:
            table.engine_failed(engine.error, engine.ended)
        return engine.started, engine.ended

    def deliver(emission: Any) -> None:
        out.extend(outlet.messages(emission, engine.clock()))

    def step() -> None:
        crowded = table.backlog + table.pending > 600
        table.run(
            lambda emission: out.extend(outlet.messages(emission, engine.clock())), engine.clock, times, crowded=crowded
        )
        tell()

    waiting = schedule(name)
    while waiting or table.next_deadline() < START + 20 * SECOND:
        if not table.pending:
            coming = waiting[0][0] if waiting else START + 20 * SECOND
            engine.now = max(engine.now, math.ceil(min(coming, table.next_deadline())))
        due = 0
        while due < len(waiting) and waiting[due][0] <= engine.now:
            due += 1
        came, waiting = [entry[1] for entry in waiting[:due]], waiting[due:]
        now = engine.now
        if came:
            topics, bodies = [topic for topic, _ in came], [body for _, body in came]
            refuse = lambda k, why: table.offend(stream_of(topics[k]) or "", "malformed", str(why), now)  # noqa: E731, B023
            count = table.receive(topics, bodies, [now] * len(came), refuse)
            assert count <= 60 * len(came)
            tell()
        table.advance(now)
        tell()
        if table.pending:
            step()
        if engine.now > START + 20 * SECOND:
            break
    table.shutdown(engine.clock())
    tell()
    while table.pending:
        step()
    assert table.idle
    counts = json.dumps(table.counts, sort_keys=True).encode()
    yield from out
    yield b"counts", counts


def fingerprints(messages: list[Parts], *, exact: bool = True) -> dict[str, str]:
    """By topic: how many messages, and a hash of them in order; not exact: without coordinates."""
    hashes: defaultdict[bytes, Any] = defaultdict(hashlib.sha256)
    counts: defaultdict[bytes, int] = defaultdict(int)
    for topic, body in messages:
        if not exact and topic != b"counts":
            fields = msgpack.unpackb(body)
            body = msgpack.packb({name: fields[name] for name in fields if name not in ("xyz", "sigma")})
        hashes[topic].update(len(body).to_bytes(4, "big") + body)
        counts[topic] += 1
    return {topic.decode(): f"{counts[topic]} {hashes[topic].hexdigest()[:16]}" for topic in sorted(hashes)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dump", type=Path, help="write every message in full, and leave the golden ones as they are")
    options = parser.parse_args()
    found = {name: list(play(name)) for name in NAMES}
    if options.dump is None:
        golden = {name: fingerprints(found[name], exact=name in EXACT) for name in NAMES}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    else:
        with options.dump.open("wb") as file:
            for name, messages in found.items():
                file.write(b"# %b\n" % name.encode())
                for topic, body in messages:
                    file.write(b"%b %b\n" % (topic, body.hex().encode()))


if __name__ == "__main__":
    main()
