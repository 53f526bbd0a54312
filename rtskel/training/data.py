"""Clean motion to learn from: corpora on disk, windows drawn from them, augmentation, and builders of corpora.

A corpus is a folder: `xyz.npy` float32 [F, J, 3] in canonical axes and units, and `index.json`, which lists its
sequences with their source, split, frame rate and position. The CPU maps `xyz.npy` into memory and never loads it
whole; a GPU holds all of it. Windows are sampled by source weight, then uniformly over frames. Augmentation runs
batched in torch on the training device, before any corruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import mmap
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtskel.configs import Config
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, read
from rtskel.recordings import lift_recording
from rtskel.refine.canonical import DISAGREE, steady_bones
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, UPPER_BODY_50, Skeleton
from rtskel.training.corrupt import autoregressive, means_of_three, rotations
from rtskel.training.device import Choice, behind, constant, tree
from rtskel.training.paired import PairedConfig, read_pairs, split_pairs
from rtskel.training.score import CANONICAL_MM
from rtskel.training.synthesize import synthesize

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sequence:
    """One sequence of a corpus: frames [first, first + length) of its `xyz`."""

    name: str
    source: str
    split: str
    fps: float
    first: int
    length: int


class Corpus:
    """A corpus on disk, opened read-only. FormatError tells why a folder is not a corpus."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text())
            self.xyz: Array = np.load(self.folder / "xyz.npy", mmap_mode="r")
            self.sequences = [Sequence(**entry) for entry in index["sequences"]]
            self.fingerprint: str = index["fingerprint"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{folder}: not a corpus ({error})") from None
        frames = max((s.first + s.length for s in self.sequences), default=0)
        if not frames:
            raise FormatError(f"{folder}: empty corpus")
        if len(self.xyz) and isinstance(self.xyz, np.memmap):
            self._map: mmap.mmap = self.xyz._mmap  # type: ignore[attr-defined]
            self._map.madvise(mmap.MADV_RANDOM)  # a window is a few pages: no read-ahead
        if self.xyz.ndim != 3 or self.xyz.shape[2] != 3 or len(self.xyz) < frames:
            raise FormatError(f"{folder}: xyz.npy has shape {self.xyz.shape}, the index wants {frames} frames")
        self._held: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """All frames [F, J, 3] in the memory of a device, copied there once.

        Raises:
            RtskelError: they do not fit.
        """
        if device not in self._held:
            try:
                held = torch.empty(self.xyz.shape, device=device)
                for first in range(0, len(self.xyz), _AT_ONCE):
                    part = np.array(self.xyz[first : first + _AT_ONCE])
                    held[first : first + len(part)].copy_(torch.from_numpy(part))
            except torch.OutOfMemoryError:
                size = self.xyz.nbytes / 2**30
                raise RtskelError(f"{self.folder}: {size:.1f} GB of corpus do not fit on {device}") from None
            self._held[device] = held
        return self._held[device]

    def release(self) -> None:
        """Releases the memory of the pages read so far; the system may keep them as cache."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def select(self, split: str, source: str | None = None) -> list[Sequence]:
        """The sequences of a split, and of a source if one is given."""
        return [s for s in self.sequences if s.split == split and source in (None, s.source)]

    def frames(self, sequence: Sequence) -> Array:
        """A copy of a sequence's frames [N, J, 3]."""
        return np.array(self.xyz[sequence.first : sequence.first + sequence.length])


_AT_ONCE = 100_000
"""Frames that are copied to a device at once."""


def write_corpus(folder: str | Path, sequences: Iterable[tuple[Sequence, Array]]) -> dict[str, tuple[int, int]]:
    """Writes sequences as a corpus, one after the other (their `first` and `length` are set here).

    Only one sequence at a time is in memory. Frames must be finite and complete, all of one skeleton. The index is
    written last: the folder of an interrupted build has none and is not a corpus.

    Returns:
        Sequences and frames by "source/split".

    Raises:
        FormatError: a sequence is unusable or cannot be read, there is none, or the folder cannot be written.
    """
    folder = Path(folder)
    entries, total, joints, digest = list[dict[str, Any]](), 0, 0, hashlib.sha256()
    summary: dict[str, tuple[int, int]] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)
        with (folder / "xyz.npy").open("wb") as file:
            for sequence, xyz in _read(sequences):
                joints = joints or xyz.shape[1]
                if xyz.ndim != 3 or xyz.shape[1:] != (joints, 3):
                    raise FormatError(f"sequence {sequence.name!r}: shape {xyz.shape}, expected [N, {joints}, 3]")
                if not np.isfinite(xyz).all():
                    raise FormatError(f"sequence {sequence.name!r}: NaN or infinite coordinates")
                if not entries:
                    _write_header(file, 0, joints)
                frames = np.ascontiguousarray(xyz, np.float32).tobytes()
                file.write(frames)
                digest.update(f"{sequence.name}/{sequence.split}".encode())
                digest.update(frames)
                entries.append(asdict(sequence) | {"first": total, "length": len(xyz)})
                total += len(xyz)
                key = f"{sequence.source}/{sequence.split}"
                count, so_far = summary.get(key, (0, 0))
                summary[key] = (count + 1, so_far + len(xyz))
            file.seek(0)
            _write_header(file, total, joints)
        if not total:
            raise FormatError(f"{folder}: nothing to build a corpus from")
        index = {"sequences": entries, "fingerprint": digest.hexdigest()}
        (folder / "index.json").write_text(json.dumps(index, indent=0))
    except OSError as error:
        raise FormatError(f"{folder}: cannot be written ({error})") from None
    return summary


def _read(sequences: Iterable[tuple[Sequence, Array]]) -> Iterator[tuple[Sequence, Array]]:
    """The sequences; an error while making them names the file that cannot be read."""
    try:
        yield from sequences
    except OSError as error:
        raise FormatError(f"{error.filename or 'a source'}: cannot be read ({error.strerror or error})") from None


def _write_header(file: IO[bytes], frames: int, joints: int) -> None:
    # numpy pads the header so that the first axis can grow: its length is the same for any number of frames.
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (frames, joints, 3)})


@dataclass(frozen=True)
class AugmentConfig(Config, option="augmentation option"):
    """How clean windows are varied before they are corrupted.

    Attributes:
        warp: probability of another playing speed, log-uniform in `rates`.
        reverse: probability of playing backward.
        exchange, negate: probability of mirroring, with and without exchanging left and right.
        bone: standard deviation of the log of each bone's length, the same on both sides.
        hand_size: the same for both hands as a whole, in addition: estimators see hands in any size.
        asymmetry: the same for each bone by itself.
        hands: probability of taking a hand from another window of the batch.
        wander: probability of neck drift. still: probability of holding a moving neck at the origin.
        breathe: standard deviation of a common scale that varies slowly in the window, as in lifted data.
        beginning: probability of the first window of a sequence, which front padding turns into a stream's first.
        yaw, pitch, roll: largest rotation in degrees.
        front_padding, tail_padding: probabilities of `pad_windows`.
    """

    warp: float = 0.4
    rates: tuple[float, float] = (0.6, 1.7)
    reverse: float = 0.2
    exchange: float = 0.5
    negate: float = 0.5
    bone: float = 0.12
    hand_size: float = 0.12
    asymmetry: float = 0.02
    hands: float = 0.25
    wander: float = 0.2
    still: float = 0.6
    breathe: float = 0.012
    beginning: float = 0.2
    yaw: float = 25.0
    pitch: float = 10.0
    roll: float = 8.0
    front_padding: float = 0.3
    tail_padding: float = 0.08


RELEASE_EVERY = 500
"""Batches after which the pages of a corpus are released, so that memory stays bounded."""


class Windows:
    """Draws batches of clean, augmented windows [B, W, J, 3] from a corpus, anywhere in space.

    Args:
        weights: how often each source is drawn, relative to the others; sources not listed are never drawn.
        generator: source of all randomness, on the device where augmentation runs.

    Raises:
        FormatError: the split has no sequences, or none of a source.
    """

    def __init__(
        self,
        corpus: Corpus,
        window: int,
        *,
        split: str = "train",
        weights: Mapping[str, float] | None = None,
        augment: AugmentConfig | None = None,
        skeleton: Skeleton = UPPER_BODY_50,
        generator: torch.Generator,
    ) -> None:
        self.corpus, self.window, self.skeleton, self.generator = corpus, window, skeleton, generator
        self.augment = augment or AugmentConfig()
        self.sequences = corpus.select(split)
        there = {s.source: 1.0 for s in self.sequences}
        weights = there if weights is None else weights
        missing = [source for source in weights if source not in there]
        if missing or not there:
            of = f" of source {missing[0]!r}" if missing and there else ""
            known = f" (there is {', '.join(sorted(there or {s.split for s in corpus.sequences}))})"
            raise FormatError(f"{corpus.folder}: no sequences{of} in split {split!r}{known}")
        lengths = np.array([s.length for s in self.sequences], np.float64)
        source = np.array([s.source for s in self.sequences])
        chance = np.zeros(len(lengths))
        for name, weight in weights.items():
            chance[source == name] = weight * lengths[source == name] / lengths[source == name].sum()
        device = generator.device
        self._choice = Choice(torch.tensor(chance / chance.sum()).to(device))
        order = list(weights)
        self._source = torch.tensor([order.index(name) if name in weights else -1 for name in source]).to(device)
        self._first = torch.tensor([s.first for s in self.sequences]).to(device)
        self._last = torch.tensor([s.length - 1 for s in self.sequences]).to(device)
        self._held = corpus.on(device) if behind(device) else None
        self._drawn = 0

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """A batch of augmented clean windows [B, W, J, 3] on the generator's device, and the source [B] of each.

        Sources are numbered in the order of the weights.
        """
        g, a, device = self.generator, self.augment, self.generator.device
        pick = self._choice.draw(batch, g)
        u = torch.rand(batch, 4, generator=g, device=device).double()
        low, high = np.log(a.rates).tolist()
        spread = (u[:, 0] / max(a.warp, 1e-9)).clamp(max=1.0)
        rate = torch.where(u[:, 0] < a.warp, (low + (high - low) * spread).exp(), 1.0)
        # A window that exceeds its sequence repeats the last frame, as padding does.
        last = self._last[pick]
        slack = (last - rate * (self.window - 1)).clamp(min=0.0)
        start = torch.where(u[:, 3] < a.beginning, 0.0, u[:, 1] * slack)
        start = torch.where(rate == 1.0, start.floor(), start)
        steps = torch.arange(self.window, dtype=torch.float64, device=device)
        last = last[:, None]
        position = torch.minimum(start[:, None] + rate[:, None] * steps, last)
        position = torch.where(u[:, 2:3] < a.reverse, position.flip(1), position)
        below = position.floor().long()
        first = self._first[pick][:, None]
        x0, x1 = self._frames(first + below), self._frames(first + torch.minimum(below + 1, last))
        self._drawn += 1
        if self._held is None and self._drawn % RELEASE_EVERY == 0:
            self.corpus.release()
        part = (position - below).float()[..., None, None]
        return augment_windows(x0 + part * (x1 - x0), a, g, self.skeleton), self._source[pick]

    def _frames(self, index: Tensor) -> Tensor:
        """The corpus' frames [B, W, J, 3] with these numbers [B, W]."""
        return torch.from_numpy(self.corpus.xyz[index.numpy()]) if self._held is None else self._held[index]


def _some(batch: int, probability: float, g: torch.Generator) -> Tensor:
    return (torch.rand(batch, generator=g, device=g.device) < probability).view(-1, 1, 1, 1)


def augment_windows(x: Tensor, a: AugmentConfig, g: torch.Generator, skeleton: Skeleton = UPPER_BODY_50) -> Tensor:
    """Varied copies of clean windows [B, W, J, 3]: see `AugmentConfig`."""
    batch, window, joints, _ = x.shape
    device = x.device
    root = skeleton.root
    origin = x[:, :, root : root + 1]
    centre = origin.median(dim=1, keepdim=True).values
    x = x - origin
    path = (origin - centre) * ~_some(batch, a.still, g)
    drift = 0.05 * autoregressive((batch, window, 1, 3), 0.98, g, x) * _some(batch, a.wander, g)

    body = tree(skeleton, device)
    for wrist, hand, _, _ in body.hands:
        other = torch.randperm(batch, generator=g, device=device)
        own, arm = x[:, :, hand], x[:, :, wrist : wrist + 1]
        lent = own[other] - arm[other] + arm
        x.index_copy_(2, hand, torch.where(_some(batch, a.hands, g), lent, own))

    mirror, flip = body.mirror, constant((-1.0, 1.0, 1.0), device)
    x = torch.where(_some(batch, a.exchange, g), x[:, :, mirror] * flip, x)
    x = torch.where(_some(batch, a.negate, g), x * flip, x)

    factor = torch.randn(batch, 1, joints, 1, generator=g, device=device) * a.bone
    factor = 0.5 * (factor + factor[:, :, mirror]) * 2**0.5  # the same on both sides
    whole = a.hand_size * torch.randn(batch, 1, 1, 1, generator=g, device=device)
    factor = factor + whole * body.of_hands[:, None]
    factor = factor + a.asymmetry * torch.randn(batch, 1, joints, 1, generator=g, device=device)
    x = body.chain @ ((x - x[:, :, body.parents]) * factor.exp())
    x = x * (1 + a.breathe * autoregressive((batch, window, 1, 1), 0.9, g, x) * _some(batch, 0.5, g))

    angles = 2 * torch.rand(batch, 3, generator=g, device=device) - 1
    angles = angles * constant((a.yaw, a.pitch, a.roll), device) * (torch.pi / 180)
    rotation = rotations(angles)[:, None]  # [B, 1, 3, 3]
    return (x + path + drift) @ rotation.transpose(-1, -2)


def pad_windows(
    clean: Tensor, x: Tensor, missing: Tensor, a: AugmentConfig, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Some windows as at a sequence's start or end: the first (corrupted) frame repeated before, or the last one after.

    Returns:
        The clean windows, the corrupted ones and the missing joints, all padded alike.
    """
    batch, window = clean.shape[:2]
    device = clean.device
    u = torch.rand(batch, 2, generator=g, device=device)
    amount = 1 + (u[:, :1] * (window - 1)).long()
    shift = torch.where(u[:, 1:] < a.front_padding, -amount, torch.where(u[:, 1:] > 1 - a.tail_padding, amount // 2, 0))
    index = (torch.arange(window, device=device) + shift).clamp(0, window - 1)[:, :, None].expand(missing.shape)
    index3 = index[..., None].expand(clean.shape)
    return clean.gather(1, index3), x.gather(1, index3), missing.gather(1, index)


def to_canonical_windows(
    clean: Tensor, x: Tensor, missing: Tensor, skeleton: Skeleton
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and corrupted windows in the canonical frame that refinement finds for the corrupted one; its scale [B]."""
    origin, scale = canonical_origin(x, ~missing, skeleton)
    shift, k = origin[:, None, None], scale[:, None, None, None]
    return (clean - shift) * k, ((x - shift) * k).masked_fill(missing[..., None], 0.0), scale


def canonical_origin(x: Tensor, valid: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Origin [B, 3] and scale [B] as `rtskel.refine.canonical.canonical_frames` finds them, on the device of x."""
    neck, right, left = x[:, :, NECK], x[:, :, RIGHT_SHOULDER], x[:, :, LEFT_SHOULDER]
    pair = valid[:, :, RIGHT_SHOULDER] & valid[:, :, LEFT_SHOULDER]
    width = (right - left).square().sum(-1, keepdim=True).sqrt() / SHOULDER_WIDTH
    by_frame = torch.cat([neck, 0.5 * right + 0.5 * left, width], -1)
    there = torch.stack([valid[:, :, NECK]] * 3 + [pair] * 4, -1)
    middle = _median(by_frame.transpose(1, 2), there.transpose(1, 2))  # [B, 7]
    every = valid.flatten(1)
    origin = _median(x.flatten(1, 2).transpose(1, 2), every[:, None])
    origin = torch.where(pair.any(1)[:, None], middle[:, 3:6], origin)
    origin = torch.where(valid[:, :, NECK].any(1)[:, None], middle[:, :3], origin)

    child, parent = tree(skeleton, x.device).bones
    usual = constant(tuple(length for length in skeleton.bone_length), x.device)[child]
    ratio = (x[:, :, child] - x[:, :, parent]).square().sum(-1).sqrt() / usual
    both = valid[:, :, child] & valid[:, :, parent]
    steady = constant(tuple(child - (child > skeleton.root) for child in steady_bones(skeleton)), x.device)
    every_bone = _median(ratio.flatten(1), both.flatten(1))
    some_bones = _median(ratio[:, :, steady].flatten(1), both[:, :, steady].flatten(1))
    width = middle[:, 6]

    size = torch.where(some_bones > 0, some_bones, every_bone)
    apart = (some_bones > 0) & ((width > DISAGREE * some_bones) | (some_bones > DISAGREE * width))
    size = torch.where((width > 0) & ~apart, width, size)
    return origin, torch.where((size > 0) & size.isfinite(), 1 / size, 1.0)


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """Median over the last dimension of the masked values, the mean of the middle two if even; 0 where none is."""
    known = values.masked_fill(~mask, math.nan)
    low, high = known.nanmedian(-1).values, -(-known).nanmedian(-1).values
    return torch.where(mask.any(-1), 0.5 * low + 0.5 * high, 0.0)


def bone_statistics(corpus: Corpus, weights: Mapping[str, float], skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Mean bone vector [J, 3] (left shoulder at +x) and root mean square deviation [J], sources mixed by weight."""
    mirror = list(skeleton.mirror)
    mean, square, total = np.zeros((skeleton.joints, 3)), np.zeros((skeleton.joints, 3)), sum(weights.values())
    for source, weight in weights.items():
        xyz = np.concatenate([corpus.frames(s) for s in corpus.select("train", source)])
        xyz = xyz[:: max(1, len(xyz) // 20000)]
        turned = xyz[:, LEFT_SHOULDER, 0] < xyz[:, RIGHT_SHOULDER, 0]
        xyz = np.where(turned[:, None, None], xyz * [-1, 1, 1], xyz)
        both = np.concatenate([xyz, xyz[:, mirror] * [-1, 1, 1]])
        bone = both - both[:, skeleton.parents_or_self]
        mean += weight / total * bone.mean(0)
        square += weight / total * (bone**2).mean(0)
    spread = np.sqrt(np.maximum(square - mean**2, 0).mean(-1))
    spread[skeleton.root] = 0.05
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32)


# Builders of corpora

FIRST_SEED = 10_000
"""Seeds of synthetic clips start here; the bundled demo recording has another one."""

SHORTEST_HAND = 10
"""Frames of the shortest clip of a hand."""

BODY = list(UPPER_BODY_50.groups["body"])
"""Joints that motion capture without hands has."""


def in_canonical_units(recording: Recording) -> Array:
    """Poses [N, J, 3] in canonical axes and units."""
    return recording.canonical() * np.float32(recording.mm_per_unit() / CANONICAL_MM)


@dataclass(frozen=True)
class BuildConfig:
    """Which parts of the shared data go into a corpus.

    Attributes:
        phoenix, bandai, how2sign: whether these data sets are included.
        synthetic: number of clips of `rtskel.training.synthesize`, each with its own body, seeds from FIRST_SEED on.
        synthetic_seconds: length of each.
        holdout: one Bandai-Namco clip and one synthetic clip in this many is for validation.
        seed: for attaching hands.
        skip: names of sequences to leave out.
    """

    phoenix: bool = True
    bandai: bool = True
    how2sign: bool = True
    synthetic: int = 2000
    synthetic_seconds: float = 16.0
    holdout: int = 10
    seed: int = 0
    skip: tuple[str, ...] = field(default=())


def held_out(name: str, holdout: int = BuildConfig.holdout) -> bool:
    """Whether the Bandai-Namco clip with that name is kept out of training, as one in `holdout` is."""
    return zlib.crc32(name.encode()) % holdout == 0


def build_corpus(
    data: str | Path,
    folder: str | Path,
    config: BuildConfig | None = None,
    also: Iterable[tuple[Sequence, Array]] = (),
) -> dict[str, tuple[int, int]]:
    """Builds a corpus from the shared data (see its README).

    PHOENIX14T is used as it is, its train split for training and dev for validation. Bandai-Namco bodies keep their
    motion, face the camera on average, and get the typical bone lengths of the skeleton; hands from PHOENIX train and
    from MediaPipe fingerspelling are attached along the forearm. How2Sign is lifted from 2D and is for training.

    Args:
        also: further sequences, such as `true_sequences`.

    Returns:
        Sequences and frames by "source/split".
    """
    config = config or BuildConfig()
    chosen = ((s, x) for s, x in shared_sequences(Path(data), config) if s.name not in config.skip)
    return write_corpus(folder, chain(chosen, also))


def shared_sequences(data: Path, config: BuildConfig) -> Iterator[tuple[Sequence, Array]]:
    """The sequences of `build_corpus`, in order."""
    random = np.random.default_rng(config.seed)
    hands: list[Array] = []
    if config.phoenix:
        for split in ("train", "dev"):
            for recording in read(data / "phoenix14t" / f"{split}.skels"):
                xyz = recording.canonical()
                if split == "train":
                    hands += phoenix_hands(xyz)
                yield Sequence(recording.name, "phoenix", split, recording.fps, 0, 0), xyz
    if config.bandai:
        hands_by_source = [hands, list(mediapipe_hands(data / "mediapipe_holistic" / "holistic.npz"))]
        hands_by_source = [h for h in hands_by_source if h]
        for name, body in bandai_bodies(data / "bandai_namco" / "motion.npz"):
            split = "dev" if held_out(name, config.holdout) else "train"
            yield Sequence(name, "bandai", split, 30.0, 0, 0), attach_hands(body, hands_by_source, random)
    if config.how2sign:
        for folder in sorted((data / "how2sign_openpose").iterdir()):
            for recording in map(lift_recording, read(folder, fps=24.0)):
                whole = np.asarray((recording.confidence[:, BODY] > 0).all(1))
                yield from _stretches(recording, whole, f"how2sign/{recording.name}", "how2sign", "train")
    yield from synthetic_sequences(config.synthetic, config.synthetic_seconds, config.holdout)


def synthetic_sequences(
    clips: int, seconds: float = BuildConfig.synthetic_seconds, holdout: int = BuildConfig.holdout
) -> Iterator[tuple[Sequence, Array]]:
    """Clips of `rtskel.training.synthesize`; one in `holdout` is for validation."""
    for k in range(clips):
        r = synthesize(seconds, 25.0, FIRST_SEED + k)
        split = "dev" if k % holdout == 0 else "train"
        yield Sequence(f"synthetic-{FIRST_SEED + k}", "synthetic", split, r.fps, 0, 0), in_canonical_units(r)


def recorded_sequences(paths: Iterable[str | Path]) -> Iterator[tuple[Sequence, Array]]:
    """The complete stretches of recordings that `rtskel.formats.read` reads, in training units.

    A stretch ends where a joint is missing or a frame was dropped; stretches shorter than a second are left out. One
    recording in `BuildConfig.holdout`, starting with the first, is for validation. The source is "recordings".

    Raises:
        FormatError: a recording is 2D, or none has a complete stretch.
    """
    number = used = 0
    for path in paths:
        for recording in read(path):
            if recording.dims != 3:
                raise FormatError(f"{path}: 2D poses; lift them to 3D first")
            split = "dev" if number % BuildConfig.holdout == 0 else "train"
            number += 1
            whole = np.asarray(~recording.missing.any(1))
            for part in _stretches(recording, whole, f"{Path(path).name}/{recording.name}", "recordings", split):
                used += 1
                yield part
    if number and not used:
        raise FormatError(f"{number} recordings without a second in which no joint is missing: refine them first")


def true_sequences(folder: str | Path) -> Iterator[tuple[Sequence, Array]]:
    """The true motion of the pairs to learn from, for a corpus: source "pairs", about the neck's median."""
    for pair in split_pairs(read_pairs(folder), PairedConfig.holdout)[0]:
        origin = np.median(pair.truth[:, [NECK]], axis=0)
        yield Sequence(pair.name, "pairs", "train", pair.fps, 0, 0), pair.truth - origin


def _stretches(
    recording: Recording, whole: NDArray[np.bool_], name: str, source: str, split: str
) -> Iterator[tuple[Sequence, Array]]:
    """The runs of `whole` frames [N] of a recording that last a second or longer, in training units."""
    xyz = recording.canonical()
    width = np.linalg.norm(xyz[:, LEFT_SHOULDER] - xyz[:, RIGHT_SHOULDER], axis=-1)
    cuts = np.flatnonzero(~whole[1:] | ~whole[:-1] | (np.diff(recording.slots) > 1)) + 1
    for first, end in pairwise([0, *cuts.tolist(), len(xyz)]):
        if (
            whole[first:end].all()
            and end - first >= recording.fps
            and (scale := float(np.median(width[first:end]))) > 0
        ):
            stretch = xyz[first:end] * np.float32(SHOULDER_WIDTH / scale)
            yield Sequence(f"{name}/{first}", source, split, recording.fps, 0, 0), stretch


(_, _LEFT), (_, _RIGHT) = UPPER_BODY_50.hands
_FLIP = np.array([-1, 1, 1], np.float32)


def _with_bone_lengths(xyz: NDArray[Any], joints: list[int]) -> Array:
    """The listed joints [N, len(joints), 3], parents first, with typical bone lengths and the same directions."""
    out = xyz.astype(np.float32).copy()
    for k, joint in enumerate(joints):
        if UPPER_BODY_50.parents[joint] in joints:
            p = joints.index(UPPER_BODY_50.parents[joint])
            bone = xyz[:, k] - xyz[:, p]
            length = np.linalg.norm(bone, axis=-1, keepdims=True)
            out[:, k] = out[:, p] + bone * (UPPER_BODY_50.bone_length[joint] / np.maximum(length, 1e-6))
    return out


def phoenix_hands(xyz: Array) -> Iterator[Array]:
    """Both hands of a PHOENIX sequence as right hands at the origin, [N, 21, 3], right shoulder at -x."""
    yield (xyz[:, _RIGHT] - xyz[:, _RIGHT[:1]]) * _FLIP
    yield xyz[:, _LEFT] - xyz[:, _LEFT[:1]]


def mediapipe_hands(path: Path) -> Iterator[Array]:
    """Right hands at the origin [N, 21, 3] from MediaPipe Holistic clips, smoothed over three frames, typical bones."""
    with np.load(path) as file:
        ends = np.cumsum(file["length"])
        sides = {"right": file["right_hand"], "left": file["left_hand"]}
        width = file["width_height"][:, 0]
    for clip, end in enumerate(ends):
        first = 0 if clip == 0 else ends[clip - 1]
        for side, points in sides.items():
            hand = points[first:end].astype(np.float64)
            seen = np.isfinite(hand).all(axis=(1, 2)) & (hand[..., 3] > 0).all(axis=1)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(int), [0]])))
            for a, b in zip(edges[::2], edges[1::2], strict=True):
                if b - a >= SHORTEST_HAND:
                    xyz = hand[a:b, :, :3] - hand[a:b, :1, :3]
                    xyz[..., 2] *= -float(width[clip])  # depth is in image widths and grows away from the camera
                    xyz = means_of_three(np.concatenate([xyz[:1], xyz, xyz[-1:]])) * (_FLIP if side == "left" else 1)
                    yield _with_bone_lengths(xyz, _RIGHT)


def bandai_bodies(path: Path) -> Iterator[tuple[str, Array]]:
    """Name and body [N, 8, 3] of each clip: canonical axes and units, facing the camera on average, typical bones."""
    with np.load(path) as file:
        names = [str(name) for name in file["joint"]]
        position, hips = file["position"], file["hips"]
        ends, clips = np.cumsum(file["length"]), file["clip"]
    wanted = ["Head", "Neck", "UpperArm_R", "LowerArm_R", "Hand_R", "UpperArm_L", "LowerArm_L", "Hand_L"]
    joints = [names.index(name) for name in wanted]
    for clip, end in enumerate(ends):
        first = 0 if clip == 0 else ends[clip - 1]
        # Metres, y up, +z where the person faces; seen from in front the person's left is at the image's right.
        raw = position[first:end, joints].astype(np.float64) / 1e4 + hips[first:end, None].astype(np.float64) / 1e3
        across = (raw[:, 5] - raw[:, 2]).mean(0)
        yaw = np.arctan2(-across[2], across[0])
        c, s = np.cos(-yaw), np.sin(-yaw)
        turned = raw @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
        xyz = turned * [1, -1, 1]
        xyz[:, 0, 2] += 0.04  # the nose lies in front of the head's joint
        width = np.median(np.linalg.norm(xyz[:, 5] - xyz[:, 2], axis=-1))
        neck = xyz[:, 1:2] * (SHOULDER_WIDTH / width)
        neck = neck - np.median(neck, axis=0)
        body = np.array(xyz - xyz[:, 1:2])
        order = [1, 0, 2, 3, 4, 5, 6, 7]
        body[:, order] = _with_bone_lengths(body[:, order], order)
        yield str(clips[clip]), (body + neck).astype(np.float32)


def _turn(toward: NDArray[Any]) -> NDArray[Any]:
    """Rotations [N, 3, 3] that turn +z into unit vectors [N, 3] by the smallest angle."""
    x, y, z = toward[:, 0], toward[:, 1], np.maximum(toward[:, 2], -0.999)
    k = 1 / (1 + z)
    rows = [1 - x * x * k, -x * y * k, x, -x * y * k, 1 - y * y * k, y, -x, -y, z]
    return np.stack(rows, -1).reshape(-1, 3, 3)


def attach_hands(body: Array, hands_by_source: list[list[Array]], random: np.random.Generator) -> Array:
    """Body [N, 8, 3] with a hand clip on each wrist, turned with the forearm and played back and forth."""
    n = len(body)
    xyz = np.zeros((n, UPPER_BODY_50.joints, 3), np.float32)
    xyz[:, :8] = body
    for side, elbow, wrist, joints in (("right", 3, 4, _RIGHT), ("left", 6, 7, _LEFT)):
        source = hands_by_source[random.integers(len(hands_by_source))]
        hand = source[random.integers(len(source))] * (_FLIP if side == "left" else 1)
        index = (np.arange(n) + random.integers(len(hand))) % (2 * len(hand))
        hand = hand[np.minimum(index, 2 * len(hand) - 1 - index)]
        forearm = body[:, wrist] - body[:, elbow]
        forearm = forearm / np.maximum(np.linalg.norm(forearm, axis=-1, keepdims=True), 1e-6)
        palm = hand[:, 9].mean(0)
        palm = palm / max(float(np.linalg.norm(palm)), 1e-6)
        angle = random.uniform(0, 2 * np.pi)
        twist = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        turn = _turn(forearm) @ twist @ _turn(palm[None])[0].T
        offset = forearm * UPPER_BODY_50.bone_length[joints[0]]
        xyz[:, joints] = (hand @ turn.transpose(0, 2, 1)) + (body[:, wrist] + offset)[:, None]
    return xyz


def print_summary(folder: str | Path, summary: Mapping[str, tuple[int, int]]) -> None:
    """Prints what `write_corpus` says went into a corpus, and the corpus' fingerprint."""
    for part, (count, frames) in summary.items():
        print(f"{part:16} {count:6} sequences {frames:9} frames")
    print(f"fingerprint {Corpus(folder).fingerprint}")


def main(argv: list[str] | None = None) -> int:
    """`python -m rtskel.training.data SHARED CORPUS`: builds a corpus and prints what went in."""
    parser = argparse.ArgumentParser(prog="python -m rtskel.training.data", description=main.__doc__)
    parser.add_argument("data", nargs="+", help="the shared data's folder, or recordings of complete 3D poses")
    parser.add_argument("out", help="folder of the corpus")
    parser.add_argument("--pairs", help="folder of pairs whose truth is a source of motion, too")
    args = parser.parse_args(argv)
    try:
        also = true_sequences(args.pairs) if args.pairs else ()
        if len(args.data) == 1 and (Path(args.data[0]) / "phoenix14t").is_dir():
            summary = build_corpus(args.data[0], args.out, also=also)
        else:
            summary = write_corpus(args.out, chain(recorded_sequences(args.data), also))
    except RtskelError as error:
        print(f"rtskel.training.data: error: {error}", file=sys.stderr)
        return 2
    print_summary(args.out, summary)
    if not any(part.endswith("/train") for part in summary):
        print("nothing to train on: the first recording is for validation, add more recordings", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
