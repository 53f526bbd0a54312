"""The law of `rtskel.refine`, checked against a direct transcription of its text, for any engine and any ring.

`verify(engine)` runs every check; each one that ran is counted in `CHECKS`, and the test run reports the number. The
oracle below shares no code with the library: it pads the sequence, cuts every window, and picks and averages windows by
sorting them as the text says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from rtskel.refine import Put, Refined, Refiner, RefinerBank, refine
from rtskel.refine.ring import native_ring
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50

CHECKS: Counter[str] = Counter()
"""How often each check ran in this process."""

JOINTS = 50


class MixingEngine:
    """A cheap engine whose answer depends on every frame, every position and the missing mask, nonlinearly.

    Whatever a ring does wrong (an index off by one, a stale frame, another stream's frame) changes what comes out.
    """

    def __init__(self, window: int = 8, max_batch: int = 7, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.window, self.joints, self.max_batch = window, JOINTS, max_batch
        self.info = SimpleNamespace(skeleton_id=UPPER_BODY_50.id, model_id="mixing", window=window, joints=JOINTS)
        self._time = rng.normal(size=(window, window)).astype(np.float32) / window
        self._joint = rng.normal(size=(JOINTS, JOINTS)).astype(np.float32) / JOINTS
        self._place = rng.normal(size=(window, JOINTS, 3)).astype(np.float32) / 10

    def run(self, x: np.ndarray, missing: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        assert (x.dtype, missing.dtype) == (np.float32, np.bool_)
        assert 1 <= len(x) <= self.max_batch
        assert not x[missing].any(), "missing joints must enter as zeros"
        mixed = np.einsum("ts,bsjc,jk->btkc", self._time, x + 0.05 * missing[..., None], self._joint)
        y = (x + np.tanh(mixed) + self._place).astype(np.float32)
        return y if positions is None else y[:, positions]

    def ring(self, config: object) -> None:
        return None

    def close(self) -> None:
        pass


# -- the oracle
# ----------------------------------------------------------------------------------------------------------


def predictions(engine: Any, xyz: np.ndarray, valid: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [E, W, J, 3] of the windows that end at slots 0..N-1+most, and whether each knows anything [E]."""
    w = engine.window
    frames = np.concatenate([np.repeat(xyz[:1], w - 1, 0), xyz, np.repeat(xyz[-1:], most, 0)])
    there = np.concatenate([np.repeat(valid[:1], w - 1, 0), valid, np.repeat(valid[-1:], most, 0)])
    out, known = [], []
    for e in range(len(xyz) + most):
        x, mask = frames[e : e + w].astype(np.float64), there[e : e + w]
        origin, scale = canonical(x, mask)
        moved = (x - origin) * scale
        mask = mask & (np.abs(moved) <= 100).all(-1)
        moved = np.where(mask[..., None], moved, 0).astype(np.float32)
        out.append(engine.run(moved[None], ~mask[None])[0].astype(np.float64) / scale + origin)
        known.append(mask.any())
    return np.array(out), np.array(known)


def canonical(x: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Origin [3] and scale of one window x [W, J, 3] with valid [W, J], in plain words of DESIGN: medians over the
    window.
    """
    shoulders = valid[:, RIGHT_SHOULDER] & valid[:, LEFT_SHOULDER]
    if valid[:, NECK].any():
        origin = np.median(x[valid[:, NECK], NECK], axis=0)
    elif shoulders.any():
        origin = np.median((x[shoulders, RIGHT_SHOULDER] + x[shoulders, LEFT_SHOULDER]) / 2, axis=0)
    elif valid.any():
        origin = np.median(x[valid], axis=0)
    else:
        return np.zeros(3), 1.0

    def size(joints: Any) -> float:
        ratios = [
            np.linalg.norm(x[t, j] - x[t, UPPER_BODY_50.parents[j]]) / UPPER_BODY_50.bone_length[j]
            for t in range(len(x))
            for j in joints
            if UPPER_BODY_50.parents[j] >= 0 and valid[t, j] and valid[t, UPPER_BODY_50.parents[j]]
        ]
        return float(np.median(ratios)) if ratios else 0.0

    body = size([0, 3, 4, 6, 7])
    width = 0.0
    if shoulders.any():
        width = 3 * float(
            np.median(np.linalg.norm(x[shoulders, RIGHT_SHOULDER] - x[shoulders, LEFT_SHOULDER], axis=-1))
        )
    if width and not (body and (width > 2 * body or body > 2 * width)):
        return origin, 1 / width
    return origin, 1 / (body or size(range(JOINTS)) or 1.0)


def average(
    predicted: np.ndarray, known: np.ndarray, n: int, lookahead: int | None, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [n, J, 3], spread [n, J] and number [n] of predictions for each slot, straight from the law."""
    w = predicted.shape[1]
    mean, sigma, used = [], [], []
    for i in range(n):
        ends = [e for e in range(i, i + w) if lookahead is None or e <= i + lookahead]  # windows that contain slot i
        ends.sort(key=lambda e: (abs((i - (e - w + 1)) - (w - 1) / 2), -e))  # off centre, then the later first
        central = ends[0]
        unsettled = min(w // 2 - radius, 3) if lookahead is None else min(w // 2 - radius, 3, lookahead)
        ends = [e for e in ends if abs(e - central) <= radius and e - i >= unsettled and known[e]]
        p = np.array([predicted[e, i - (e - w + 1)] for e in ends]).reshape(-1, JOINTS, 3)
        m = p.mean(0) if len(p) else np.zeros((JOINTS, 3))
        mean.append(m)
        sigma.append(np.sqrt(np.square(p - m).sum(-1).mean(0)) if len(p) else np.zeros(JOINTS))
        used.append(len(p))
    return np.array(mean), np.array(sigma), np.array(used)


# -- sequences
# -----------------------------------------------------------------------------------------------------------


def sequence(
    n: int, seed: int = 0, missing: float = 0.1, unit: float = 1.0, place: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth body-like motion [n, 50, 3] and its confidence [n, 50]: joints and whole frames missing, one unit = 3
    shoulder widths.
    """
    rng = np.random.default_rng(seed)
    bones = rng.normal(size=(JOINTS, 3))
    bones *= (np.array(UPPER_BODY_50.bone_length) / np.linalg.norm(bones, axis=-1))[:, None]
    bones[[RIGHT_SHOULDER, LEFT_SHOULDER]] = [[-1 / 6, 0, 0], [1 / 6, 0, 0]]
    t = np.arange(n)[:, None, None]
    phase, speed = rng.uniform(0, 6, (JOINTS, 3)), rng.uniform(0.05, 0.3, (JOINTS, 3))
    sway = 0.3 * np.linalg.norm(bones, axis=-1)[:, None] * np.sin(phase + speed * t)
    sway[:, [RIGHT_SHOULDER, LEFT_SHOULDER]] *= 0.1
    xyz = np.zeros((n, JOINTS, 3))
    for j in UPPER_BODY_50.order:
        parent = UPPER_BODY_50.parents[j]
        xyz[:, j] = xyz[:, parent] + bones[j] + sway[:, j] if parent >= 0 else 0.05 * np.sin(0.1 * t[:, 0])
    confidence = rng.uniform(0.2, 1, (n, JOINTS))
    confidence[rng.uniform(size=(n, JOINTS)) < missing] = 0
    confidence[rng.uniform(size=n) < missing] = 0
    xyz = (xyz * unit + place).astype(np.float32)
    return np.where(confidence[..., None] > 0, xyz, 0).astype(np.float32), confidence.astype(np.float32)


def close(got: np.ndarray, want: np.ndarray, unit: float = 1.0, tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of a canonical unit."""
    assert got.shape == want.shape, f"{got.shape} != {want.shape}"
    if got.size:
        worst = np.abs(got.astype(np.float64) - want).max()
        assert worst <= tolerance * unit, f"off by {worst / unit:.2e} canonical units"


def drain(bank: RefinerBank) -> Refined:
    """Everything a bank has pending."""
    parts = [Refined.empty(0, bank.joints)]
    while bank.pending:
        parts.append(bank.step())
    return Refined.concatenate(parts)


def chunks(n: int, seed: int) -> Iterator[slice]:
    """Random cuts of n frames, empty pieces and single frames among them."""
    rng = np.random.default_rng(seed)
    at = 0
    while at < n:
        size = int(rng.choice([0, 1, 1, 2, 3, 5, 17, 150]))
        yield slice(at, min(at + size, n))
        at += size


# -- the checks
# ----------------------------------------------------------------------------------------------------------


def lengths_radii_lookaheads(engine: Any, ring: Any, tolerance: float, radii: range | None = None) -> None:
    """Every output equals the law, for lengths 1, 2, W-1, W, W+1, 300, r = 0..5, L = 0..W+r and offline; so do sigma
    and the counts.
    """
    w = engine.window
    radii = range(min(5, (w - 1) // 2) + 1) if radii is None else radii
    for n in sorted({1, 2, w - 1, w, w + 1, 300} - {0}):
        xyz, confidence = sequence(n, seed=n)
        predicted, known = predictions(engine, xyz, confidence > 0, w // 2 + max(radii))
        for radius in radii:
            lookaheads = [*range(w + radius + 1)]
            refiner = Refiner(engine, lookahead=lookaheads, radius=radius, ring=ring)
            out = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
            for lookahead in lookaheads:
                rows = out.select(lookahead=lookahead)
                want, spread, used = average(predicted, known, n, lookahead, radius)
                assert rows.slot.tolist() == list(range(n)), "every slot exactly once, in order"
                close(rows.xyz, want, tolerance=tolerance)
                close(rows.sigma, spread, tolerance=tolerance)
                assert (rows.windows == used).all()
                assert (rows.confidence == confidence).all()
                CHECKS["law"] += 1
            offline, _, _ = average(predicted, known, n, None, radius)
            close(
                refine(xyz, engine=engine, confidence=confidence, radius=radius, ring=ring),
                offline,
                tolerance=tolerance,
            )
            bound = w // 2 + radius
            for lookahead in range(bound, w + radius + 1):
                close(out.select(lookahead=lookahead).xyz, offline, tolerance=tolerance)
            CHECKS["offline"] += 1


def any_chunking(engine: Any, ring: Any, tolerance: float) -> None:
    """Pushing in any chunks, then flushing, equals refining the whole; flushing leaves the refiner fresh."""
    xyz, confidence = sequence(3 * engine.window + 5, seed=3)
    for lookahead in (0, 1, 4, engine.window):
        whole = refine(
            xyz,
            engine=engine,
            confidence=confidence,
            lookahead=lookahead,
            radius=min(1, (engine.window - 1) // 2),
            ring=ring,
        )
        refiner = Refiner(engine, lookahead=lookahead, radius=min(1, (engine.window - 1) // 2), ring=ring)
        for seed in range(3):
            parts = [refiner.push(xyz[cut], confidence[cut]) for cut in chunks(len(xyz), seed)]
            early = sum(map(len, parts))
            assert early == len(xyz) - refiner.latency, "a pose is out as soon as its lookahead has come"
            out = Refined.concatenate([*parts, refiner.flush()])
            assert out.slot.tolist() == list(range(len(xyz)))
            close(out.xyz, whole, tolerance=tolerance)
            CHECKS["chunking"] += 1


def no_future(engine: Any, ring: Any, tolerance: float) -> None:
    """The output of slot i at lookahead L is the same whatever comes behind frame i + L."""
    n, cut = 2 * engine.window, engine.window + 3
    xyz, confidence = sequence(n, seed=4)
    other, sure = xyz.copy(), confidence.copy()
    other[cut:] += np.random.default_rng(1).normal(size=other[cut:].shape)
    sure[cut::2] = 0
    radius = min(2, (engine.window - 1) // 2)
    for lookahead in (0, 1, 4, engine.window // 2 + radius):
        a = refine(xyz, engine=engine, confidence=confidence, lookahead=lookahead, radius=radius, ring=ring)
        b = refine(other, engine=engine, confidence=sure, lookahead=lookahead, radius=radius, ring=ring)
        close(a[: cut - lookahead], b[: cut - lookahead], tolerance=tolerance)
        CHECKS["no future"] += 1


def reset_is_fresh(engine: Any, ring: Any, tolerance: float) -> None:
    """After reset, or flush, nothing of what was pushed before shows; a reset in mid-stream drops what was due."""
    xyz, confidence = sequence(engine.window + 9, seed=5)
    before, _ = sequence(engine.window + 2, seed=6, missing=0.5)
    radius = min(2, (engine.window - 1) // 2)
    refiner = Refiner(engine, lookahead=2, radius=radius, ring=ring)
    want = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
    for forget in (refiner.reset, refiner.flush):
        refiner.push(before * 1e3)
        refiner.push(np.full((3, JOINTS, 3), np.nan))
        forget()
        got = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
        assert (got.slot == want.slot).all()
        assert (got.flags == want.flags).all()
        close(got.xyz, want.xyz, tolerance=tolerance)
        CHECKS["reset"] += 1


def bad_frames_stay_put(engine: Any, ring: Any, tolerance: float) -> None:
    """NaN, infinite, huge and missing joints reach neither another stream nor this one once W clean frames have
    come.
    """
    w, radius, lookahead = engine.window, min(2, (engine.window - 1) // 2), 3
    n = 3 * w + 8
    clean = [sequence(n, seed=s, missing=0) for s in (7, 8, 9)]
    bad = np.arange(w, w + 4)
    for poison in (np.nan, np.inf, 3e38, -1e30, None):
        streams = RefinerBank(engine, lookahead=lookahead, radius=radius, streams=3, ring=ring, ahead=n)
        for s, (xyz, confidence) in enumerate(clean):
            xyz, confidence = xyz.copy(), confidence.copy()
            if s == 1:
                if poison is None:
                    confidence[bad] = 0
                else:
                    xyz[bad] = poison
            streams.put(np.full(n, s), np.arange(n), xyz, confidence)
        streams.end([0, 1, 2])
        out = drain(streams)
        assert np.isfinite(out.xyz).all()
        assert np.isfinite(out.sigma).all()
        for s, (xyz, confidence) in enumerate(clean):
            want = refine(xyz, engine=engine, confidence=confidence, lookahead=lookahead, radius=radius, ring=ring)
            got = out.select(stream=s)
            assert got.slot.tolist() == list(range(n))
            if s == 1:
                recovered = bad[-1] + w  # the first slot all of whose windows may be clean again
                close(got.xyz[recovered:], want[recovered:], tolerance=tolerance)
                assert bool(got.flags[bad[0]] & 2) == (poison in (None,) or not np.isfinite(poison))
            else:
                close(got.xyz, want, tolerance=tolerance)
        CHECKS["isolation"] += 1


def moves_and_scales_along(engine: Any, ring: Any, tolerance: float) -> None:
    """refine(a x + b) = a refine(x) + b, with missing necks and shoulders too."""
    xyz, confidence = sequence(engine.window + 7, seed=10, missing=0)
    radius = min(2, (engine.window - 1) // 2)
    for gone in (
        [],
        [NECK],
        [RIGHT_SHOULDER],
        [NECK, LEFT_SHOULDER],
        [NECK, RIGHT_SHOULDER, LEFT_SHOULDER],
        [*range(8)],
    ):
        sure = confidence.copy()
        sure[:, gone] = 0
        want = refine(xyz, engine=engine, confidence=sure, lookahead=3, radius=radius, ring=ring)
        assert np.isfinite(want).all()
        for scale, shift in ((1.0, [0.5, -2, 1]), (370.0, [640, 360, 0]), (1e-3, [0, 0, 0]), (25.0, [-100, 3, 40])):
            moved = (xyz * scale + np.array(shift)).astype(np.float32)
            got = refine(moved, engine=engine, confidence=sure, lookahead=3, radius=radius, ring=ring)
            rounding = 4e-7 * np.abs(moved).max() / scale * 50  # of float32 positions, which the smallest bones magnify
            close((got - np.array(shift)) / scale, want, tolerance=max(10 * tolerance, rounding))
            CHECKS["equivariance"] += 1


def lookaheads_share_a_pass(engine: Any, ring: Any, tolerance: float) -> None:
    """Several lookaheads from one pass equal each alone, and the engine runs no more than for the longest alone."""
    xyz, confidence = sequence(2 * engine.window + 3, seed=11)
    radius = min(2, (engine.window - 1) // 2)
    together = Refiner(engine, lookahead=(4, 0, 9), radius=radius, ring=ring)
    out = Refined.concatenate([together.push(xyz, confidence), together.flush()])
    for lookahead in (0, 4, 9):
        alone = refine(xyz, engine=engine, confidence=confidence, lookahead=lookahead, radius=radius, ring=ring)
        close(out.select(lookahead=lookahead).xyz, alone, tolerance=tolerance)
        CHECKS["shared pass"] += 1


def hops(engine: Any, ring: Any, tolerance: float) -> None:
    """With a hop the same poses come out, less than a hop later: as soon as the last frame of each hop has come."""
    lookaheads, radius = (0, 4), min(2, (engine.window - 1) // 2)
    n = engine.window + 9
    xyz, confidence = sequence(n, seed=12)
    alone = Refiner(engine, lookahead=lookaheads, radius=radius, ring=ring)
    want = Refined.concatenate([alone.push(xyz, confidence), alone.flush()])
    reach = {lookahead: min(lookahead, engine.window // 2 + radius) for lookahead in lookaheads}
    for hop in (2, 3, 7, n + 1):
        refiner = Refiner(engine, lookahead=lookaheads, radius=radius, hop=hop, ring=ring)
        assert refiner.latency == alone.latency + hop - 1
        parts = [Refined.empty(0, JOINTS)]
        for k in range(n):
            parts.append(refiner.push(xyz[k], confidence[k]))
            ran = (k + 1) // hop * hop
            assert sum(map(len, parts)) == sum(max(0, ran - reach[lookahead]) for lookahead in lookaheads)
        out = Refined.concatenate([*parts, refiner.flush()])
        for lookahead in lookaheads:
            got, expected = out.select(lookahead=lookahead), want.select(lookahead=lookahead)
            for name in ("slot", "windows", "flags", "confidence"):
                assert (getattr(got, name) == getattr(expected, name)).all(), name
            close(got.xyz, expected.xyz, tolerance=tolerance)
            close(got.sigma, expected.sigma, tolerance=tolerance)
        CHECKS["hop"] += 1


def any_order(engine: Any, ring: Any, tolerance: float) -> None:
    """Frames of several streams in shuffled order, each twice: every slot once, in order, equal to refining the
    sequence; with a hop too.
    """
    lookahead, radius, streams = 4, min(2, (engine.window - 1) // 2), 3
    n = 2 * engine.window + 11
    for seed, hop in enumerate((1, 3)):
        rng = np.random.default_rng(seed)
        clips = [sequence(n, seed=20 + s) for s in range(streams)]
        options = {"radius": radius, "streams": streams, "ring": ring, "ahead": n, "hop": hop}
        bank = RefinerBank(engine, lookahead=(0, lookahead), **options)
        parts = []
        order = [(slot + rng.uniform(0, lookahead), s, slot) for s in range(streams) for slot in range(n)]
        for _, s, slot in sorted(order):
            xyz, confidence = clips[s]
            assert bank.put(s, slot, xyz[slot, None], confidence[slot, None])[0] == Put.TAKEN
            assert bank.put(s, slot, xyz[slot, None] + 1, confidence[slot, None])[0] == Put.DUPLICATE
            if rng.uniform() < 0.5:
                parts.append(bank.step())
        bank.end(range(streams))
        out = Refined.concatenate([*parts, drain(bank)])
        assert bank.drained.all()
        for s, (xyz, confidence) in enumerate(clips):
            for only in (0, lookahead):
                rows = out.select(stream=s, lookahead=only)
                assert rows.slot.tolist() == list(range(n))
                want = refine(xyz, engine=engine, confidence=confidence, lookahead=only, radius=radius, ring=ring)
                close(rows.xyz, want, tolerance=tolerance)
        CHECKS["order"] += 1


def late_frames(engine: Any, ring: Any, tolerance: float) -> None:
    """A frame that comes after its slot was settled is used from then on: each output knows all that had come when it
    went out.
    """
    for hop in (1, 3):
        _late_frames(engine, ring, tolerance, hop)


def _late_frames(engine: Any, ring: Any, tolerance: float, hop: int) -> None:
    lookaheads, radius = (0, 4), min(2, (engine.window - 1) // 2)
    n = engine.window + 20
    xyz, confidence = sequence(n, seed=30, missing=0)
    rng = np.random.default_rng(0)
    bank = RefinerBank(engine, lookahead=lookaheads, radius=radius, ring=ring, hop=hop)
    come = np.zeros((n, JOINTS), np.float32)
    newest, late, dropped = -1, 0, 0
    reach = {lookahead: min(lookahead, engine.window // 2 + radius) for lookahead in lookaheads}
    for slot in sorted(range(n), key=lambda slot: slot + rng.choice([0, 0, 1.5, 2.5, 4.5, 6.5])):
        before = int(bank.next_window[0])
        put = bank.put(0, slot, xyz[slot, None], confidence[slot, None])[0]
        assert put == (Put.LATE if slot + max(reach.values()) < before else Put.TAKEN)
        late, dropped = late + (slot < before), dropped + (put == Put.LATE)
        come[slot] = confidence[slot] * (put == Put.TAKEN)
        newest = max(newest, slot)
        bank.settle(0, newest)
        out = drain(bank)
        if not len(out):
            continue
        snapshot = Refiner(engine, lookahead=lookaheads, radius=radius, ring=ring, hop=hop).push(
            xyz[: newest + 1], come[: newest + 1]
        )
        after = int(bank.next_window[0])
        assert after == (newest + 1) // hop * hop
        for lookahead in lookaheads:
            got, want = out.select(lookahead=lookahead), snapshot.select(lookahead=lookahead)
            first, end = max(0, before - reach[lookahead]), max(0, after - reach[lookahead])
            assert got.slot.tolist() == list(range(first, end))
            close(got.xyz, want.xyz[len(want) - len(got) :], tolerance=tolerance)
    assert dropped > 0 or hop > 1, "the shuffle must make frames that come too late"
    assert late > dropped or max(reach.values()) < 2, "and late ones that still count"
    CHECKS["late frames"] += 1


ALL = (
    lengths_radii_lookaheads,
    any_chunking,
    no_future,
    reset_is_fresh,
    bad_frames_stay_put,
    moves_and_scales_along,
    lookaheads_share_a_pass,
    hops,
    any_order,
    late_frames,
)


def verify(engine: Any, ring: Any = native_ring, tolerance: float = 1e-5) -> None:
    """Check the whole law for one engine, within `tolerance` canonical units (a third of it is a shoulder width)."""
    for check in ALL:
        check(engine, ring, tolerance)
