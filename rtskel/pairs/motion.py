"""What bodies do: motions of the 50 joints by source, for training and, apart from it, for testing.

`SOURCES` are all that there are, `Motions` draws from those that are chosen. A motion is drawn at random: which
recording, which part, how fast, forward or backward, mirrored or not. No motion is drawn for both splits: recordings
are parted by the rules below, what is synthesized by its seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.formats import read
from rtskel.pairs.clip import KEPT, NC, OPEN, OWN, TRAIN
from rtskel.pairs.retarget import facing_camera, turned_away
from rtskel.pairs.strokes import strokes
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.data import attach_hands, bandai_bodies, held_out, phoenix_hands, recorded_sequences
from rtskel.training.synthesize import synthesize

F64 = NDArray[np.float64]

SHORTEST, LONGEST = 60, 250
"""Frames of a clip. Recordings may be as short as the first; usual clips have 130 or more."""

FASTEST = 1.8
"""How much faster than recorded a motion is played at most."""

MOST_TURNED = 1.1
"""Radians by which shoulders may turn away from the camera's plane."""

UNOC_KEPT = (1, 5)
"""Recordings of UNOC that are for testing."""

MESH2MOTION_KEPT = (
    "Idle_Talking_Loop",
    "Greeting",
    "Dance Body Roll",
    "Victory",
    "Sitting_Talking_Loop",
    "Punch_Jab",
)
MESH2MOTION_NEVER = ("Roll", "Crawl", "Death", "Pushup", "Sleeping", "Backflip", "Swim_Fwd", "Sword_Attack", "Kneeling")
"""Beginnings of the names of what no upright body in front of a camera does."""

BANDAI_KEPT = ("wave-both-hands", "raise-up-both-hands", "byebye", "guide", "call", "dance-short")
"""Classes that are for testing; and of these only clips that `held_out` keeps out of training elsewhere."""

BANDAI_RARE = ("walk", "run", "walk-back", "dash", "walk-left", "walk-right")
"""Classes of which one clip in five is taken: there are many, and arms do little."""


class Motion(NamedTuple):
    """One motion.

    Attributes:
        name: of the recording, or of what was synthesized.
        fps: frames a second.
        xyz: [N, 50, 3], canonical axes, of any size and place. Joints at exactly 0 are unknown: finger tips only.
        speed: how much faster than recorded it is played.
    """

    name: str
    fps: float
    xyz: F64
    speed: float = 1.0


class Source(Protocol):
    """Where motions come from."""

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """A motion of a split, of at most that many frames; at that speed, where speed makes sense."""


class Kind(NamedTuple):
    """What is known of a source before it is opened.

    Attributes:
        licence: `clip.OPEN`, `clip.NC` or `clip.OWN`.
        weights: how often it is drawn for training, and for testing.
        data: path of what it needs, in the folder of the shared data; empty: nothing.
        opened: opens it.
    """

    licence: str
    weights: tuple[float, float]
    data: str
    opened: Callable[[Path], Source]


# What is synthesized

RATES = (30, 25, 24, 20, 15)
RATE_WEIGHTS = (0.45, 0.33, 0.08, 0.09, 0.05)


class Signing:
    """Signing-like motion of `rtskel.training.synthesize`. Odd seeds are for testing."""

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        fps = float(random.choice(RATES, p=RATE_WEIGHTS))
        seed = int(random.integers(1, 2**31)) * 2 + (split == KEPT)
        made = synthesize(frames / fps * speed, fps / speed, seed)
        return Motion(f"signing-{seed}", fps, made.xyz.astype(np.float64), speed)


class Strokes:
    """Fast arms of `rtskel.pairs.strokes`, at whatever speed they have."""

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        fps = float(random.choice(RATES, p=RATE_WEIGHTS))
        kind, xyz = strokes(random, frames / fps, fps)
        return Motion(f"beats-{kind}", fps, xyz)


# What is recorded


def resampled(xyz: F64, step: float) -> F64:
    """Motion [N, ...] at every `step` frames, by cubic splines."""
    from scipy.interpolate import CubicSpline

    if step == 1:
        return xyz
    count = int(np.floor((len(xyz) - 1) / step)) + 1
    at: F64 = CubicSpline(np.arange(len(xyz)), xyz.reshape(len(xyz), -1))(np.arange(count) * step)
    return at.reshape(count, *xyz.shape[1:])


def mirrored(xyz: F64) -> F64:
    """What a mirror shows of a motion [N, 50, 3]: left and right are exchanged."""
    return xyz[:, list(UPPER_BODY_50.mirror)] * [-1.0, 1.0, 1.0]


def smoothed(xyz: F64, sigma: float) -> F64:
    """Motion [N, ...] after a Gaussian filter over time."""
    from scipy.ndimage import gaussian_filter1d

    smooth: F64 = gaussian_filter1d(xyz, sigma, axis=0, mode="nearest", radius=6)
    return smooth


def varied(random: np.random.Generator, motion: Motion, frames: int, speed: float, *, back: bool = True) -> Motion:
    """A recording at another speed, perhaps backward and mirrored, cut to at most that many frames."""
    unknown = (motion.xyz == 0).all(axis=(0, 2))
    xyz = resampled(motion.xyz, speed)
    xyz[:, unknown] = 0
    if random.random() < 0.3 and back:
        xyz = xyz[::-1]
    if random.random() < 0.5:
        xyz = mirrored(xyz)
    first = int(random.integers(0, max(1, len(xyz) - frames)))
    return motion._replace(xyz=xyz[first : first + frames].copy(), speed=speed)


class Phoenix:
    """PHOENIX14T signing, smoothed; its train split is for training, its dev split for testing."""

    def __init__(self, data: Path) -> None:
        folder = data / "phoenix14t"
        self._sequences = {split: phoenix(folder / file) for split, file in PHOENIX_FILES.items()}

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        sequences = self._sequences[split]
        number = int(random.integers(len(sequences)))
        name = f"phoenix-{PHOENIX_FILES[split].removesuffix('.skels')}-{number}"
        return varied(random, Motion(name, 25.0, sequences[number]), frames, speed)


PHOENIX_FILES: Mapping[str, str] = MappingProxyType({TRAIN: "train.skels", KEPT: "dev.skels"})


def phoenix(path: Path) -> list[F64]:
    """The sequences of a file, the person's left at the image's right, smoothed."""
    sequences = []
    for recording in read(path):
        xyz = recording.canonical().astype(np.float64)
        swapped = (xyz[:, 2, 0] - xyz[:, 5, 0]).mean() > 0
        sequences.append(smoothed(xyz * [-1.0, 1.0, 1.0] if swapped else xyz, 1.0))
    return sequences


class Bandai:
    """Bandai-Namco motion capture, with hands of PHOENIX of the same split."""

    def __init__(self, data: Path) -> None:
        self._bodies: dict[str, list[tuple[str, F64]]] = {TRAIN: [], KEPT: []}
        for name, body in bandai_bodies(data / "bandai_namco" / "motion.npz"):
            split = bandai_split(name)
            if split and len(body) >= SHORTEST and turned_away(body.astype(np.float64)) <= 1.0:
                self._bodies[split].append((name, body.astype(np.float64)))
        self._hands = {
            split: [
                hand for xyz in phoenix(data / "phoenix14t" / file) for hand in phoenix_hands(xyz.astype(np.float32))
            ]
            for split, file in PHOENIX_FILES.items()
        }

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        name, body = self._bodies[split][int(random.integers(len(self._bodies[split])))]
        whole = attach_hands(body.astype(np.float32), [self._hands[split]], random)
        motion = Motion(f"bandai-{name}", 30.0, smoothed(whole.astype(np.float64), 0.7))
        return varied(random, motion, frames, speed, back=False)


def bandai_split(clip: str) -> str | None:
    """What a clip is for, by its name; None: nothing."""
    kind, _, number = clip.partition("_")[2].partition("_")
    kept = kind in BANDAI_KEPT
    if held_out(clip) != kept or (kind in BANDAI_RARE and not number.endswith(("0", "5"))):
        return None
    return KEPT if kept else TRAIN


class Unoc:
    """UNOC: bodies with gloves, of which parts are taken in which the person faces the camera."""

    def __init__(self, data: Path) -> None:
        self._clips = mocap_hands(data, "unoc")

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        numbers = [number for number in range(len(self._clips)) if (number in UNOC_KEPT) == (split == KEPT)]
        for _ in range(1000):
            number = int(random.choice(numbers))
            clip = self._clips[number]
            need = int(frames * speed)
            first = int(random.integers(0, max(1, len(clip.xyz) - need)))
            xyz = facing_camera(clip.xyz[first : first + need])
            if turned_away(xyz) < MOST_TURNED:
                break
        return varied(random, Motion(f"unoc-{number}-{first}", clip.fps, xyz), frames, speed)


class Mesh2Motion:
    """mesh2motion: short motions keyed by hand, repeated until they are long enough."""

    def __init__(self, data: Path) -> None:
        self._clips: dict[str, list[Motion]] = {TRAIN: [], KEPT: []}
        for clip in mocap_hands(data, "mesh2motion"):
            split = mesh2motion_split(clip.name)
            if split and turned_away(clip.xyz) < MOST_TURNED:
                self._clips[split].append(clip)

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        clip = self._clips[split][int(random.integers(len(self._clips[split])))]
        xyz = clip.xyz
        loop = clip.name.endswith("Loop") and np.linalg.norm(xyz[0] - xyz[-1], axis=-1).max() < 0.05
        while len(xyz) < 100 * speed:  # round again, or back
            xyz = np.concatenate([xyz, xyz[1:] if loop else xyz[-2::-1]])
        return varied(random, Motion(f"mesh2motion-{clip.name}", clip.fps, xyz), frames, speed)


def mesh2motion_split(clip: str) -> str | None:
    """What a clip is for, by its name; None: nothing."""
    name = clip.partition("/")[2]
    if name.startswith(MESH2MOTION_NEVER):
        return None
    return KEPT if name in MESH2MOTION_KEPT else TRAIN


def mocap_hands(data: Path, name: str) -> list[Motion]:
    """The recordings of one file of `mocap_hands`; unknown joints at 0."""
    with np.load(data / "mocap_hands" / f"{name}.npz") as file:
        ends = np.cumsum(file["length"]).tolist()
        xyz = np.where(file["missing"][..., None], 0, file["xyz"]).astype(np.float64)
        starts = [0, *ends[:-1]]
        return [
            Motion(str(clip), float(fps), xyz[first:end])
            for clip, fps, first, end in zip(file["clip"], file["fps"], starts, ends, strict=True)
        ]


class Recorded:
    """A user's own recordings of complete poses; one recording in ten, beginning with the first, is for testing."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts: dict[str, list[Motion]] = {TRAIN: [], KEPT: []}
        for sequence, xyz in recorded_sequences(paths):
            if len(xyz) >= SHORTEST:
                split = KEPT if sequence.split == "dev" else TRAIN
                motion = Motion(sequence.name, sequence.fps, facing_camera(xyz.astype(np.float64)))
                self._parts[split].append(motion)
        for split, parts in self._parts.items():
            if not parts:
                raise RtskelError(
                    f"no motion for the clips of {split!r}: recordings of which no joint is missing for {SHORTEST} "
                    "frames are needed, two or more"
                )

    def draw(self, random: np.random.Generator, split: str, frames: int, speed: float) -> Motion:
        """See `Source`."""
        parts = self._parts[split]
        return varied(random, parts[int(random.integers(len(parts)))], frames, speed)


SOURCES: Mapping[str, Kind] = MappingProxyType(
    {
        "signing": Kind(OPEN, (0.36, 0.15), "", lambda _: Signing()),
        "beats": Kind(OPEN, (0.22, 0.25), "", lambda _: Strokes()),
        "unoc": Kind(OPEN, (0.12, 0.20), "mocap_hands/unoc.npz", Unoc),
        "mesh2motion": Kind(OPEN, (0.06, 0.08), "mocap_hands/mesh2motion.npz", Mesh2Motion),
        "bandai": Kind(NC, (0.17, 0.22), "bandai_namco/motion.npz", Bandai),
        "phoenix": Kind(NC, (0.07, 0.10), "phoenix14t/train.skels", Phoenix),
    }
)
"""Names of sources; `open` ones are synthesized, or free for anyone to use (UNOC with its notice, mesh2motion CC0)."""

RECORDINGS = "recordings"
"""The name of the source that a user's own recordings are."""


def usable(data: Path | None, *, only_open: bool = False) -> list[str]:
    """The names of the sources whose data are in a folder (None: those that need none)."""
    return [
        name
        for name, kind in SOURCES.items()
        if (kind.licence == OPEN or not only_open)
        and (not kind.data or (data is not None and (data / kind.data).exists()))
    ]


class Draw(NamedTuple):
    """A motion for one clip: its source, what the source's licence allows, and the motion."""

    source: str
    licence: str
    motion: Motion


class Motions:
    """Draws motions from several sources, opened.

    Args:
        names: of `SOURCES`.
        data: the folder of the shared data; None: the sources need none.
        recordings: files of the user's own, a source that is drawn as often as all others together.
    """

    def __init__(self, names: Sequence[str], data: Path | None = None, recordings: Sequence[Path] = ()) -> None:
        kinds = {name: SOURCES[name] for name in names}
        if recordings:
            shares = [sum(kind.weights[split] for kind in kinds.values()) or 1.0 for split in range(2)]
            kinds[RECORDINGS] = Kind(OWN, (shares[0], shares[1]), "", lambda _: Recorded(recordings))
        if not kinds:
            raise RtskelError("no sources of motion")
        self._kinds = kinds
        self._sources = {name: kind.opened(data or Path()) for name, kind in kinds.items()}

    def draw(self, random: np.random.Generator, split: str) -> Draw:
        """The motion of a clip of a split."""
        weights = np.array([kind.weights[split == KEPT] for kind in self._kinds.values()])
        name = str(random.choice(list(self._kinds), p=weights / weights.sum()))
        frames = int(random.integers(130, LONGEST + 1))
        speed = float(np.exp(random.uniform(0, np.log(FASTEST)))) if random.random() < 0.6 else 1.0
        return Draw(name, self._kinds[name].licence, self._sources[name].draw(random, split, frames, speed))
