"""Recordings as pandas tables and xarray data sets. These are copies: changing them does not change the recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rtskel.errors import FormatError
from rtskel.formats.recording import Recording
from rtskel.skeleton import skeleton

if TYPE_CHECKING:
    import pandas
    import xarray


def to_frame(recording: Recording) -> pandas.DataFrame:
    """A table with a row for each frame and joint, missing ones included.

    Columns: `slot`, `time` in seconds on the frame clock, `joint` by name, `x`, `y`, `z` in the recording's unit and
    axes (NaN where a raw joint is missing), `confidence`; of refined poses also `sigma` and `filled`. Facts about the
    whole recording are in `attrs`. Needs pandas (extra `data`).
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise FormatError("to_frame needs pandas: pip install 'rtskel[data]'") from None
    names = skeleton(recording.skeleton).names
    frames, joints = recording.confidence.shape
    xyz = _positions(recording).reshape(-1, 3)
    columns = {
        "slot": np.repeat(recording.slots, joints),
        "time": np.repeat(recording.slots / recording.fps, joints),
        "joint": pandas.Categorical.from_codes(np.tile(np.arange(joints), frames), categories=list(names)),
        **{axis: xyz[:, number] for number, axis in enumerate("xyz")},
        "confidence": recording.confidence.ravel(),
    }
    if recording.sigma is not None:
        columns |= {"sigma": recording.sigma.ravel(), "filled": recording.missing.ravel()}
    table = pandas.DataFrame(columns)
    table.attrs = _facts(recording)
    return table


def to_xarray(*recordings: Recording) -> xarray.Dataset:
    """A data set of poses as the package `movement` has them, of one person or of several.

    Variables: `position` (time, space, keypoints, individuals) and `confidence` (time, keypoints, individuals); of
    refined poses also `sigma`. `time` is in seconds on the frame clock and has every slot: dropped frames, and raw
    joints that are missing, are NaN with confidence 0. Needs xarray (extra `data`).

    Raises:
        FormatError: recordings of different frame rates, skeletons, units, axes or lookaheads, or with the same name.
    """
    try:
        import xarray
    except ModuleNotFoundError:
        raise FormatError("to_xarray needs xarray: pip install 'rtskel[data]'") from None
    facts = [_facts(recording) | {"name": ""} for recording in recordings]
    for recording, other in zip(recordings, facts, strict=True):
        different = [name for name, value in facts[0].items() if other[name] != value]
        if different:
            raise FormatError(f"recording {recording.name!r}: its {different[0]} is not that of the first recording")
    people = [recording.name for recording in recordings]
    if not people or len(set(people)) < len(people):
        raise FormatError("one or several recordings with names of their own expected, got " + ", ".join(people))
    names = skeleton(recordings[0].skeleton).names
    slots = 1 + max(int(recording.slots[-1]) for recording in recordings)
    position = np.full((slots, 3, len(names), len(people)), np.nan, np.float32)
    confidence = np.zeros((slots, len(names), len(people)), np.float32)
    sigma = np.full_like(confidence, np.nan)
    for number, recording in enumerate(recordings):
        position[recording.slots, :, :, number] = _positions(recording).swapaxes(1, 2)
        confidence[recording.slots, :, number] = recording.confidence
        if recording.sigma is not None:
            sigma[recording.slots, :, number] = recording.sigma
    joints = ("time", "keypoints", "individuals")
    data = {"position": (("time", "space", "keypoints", "individuals"), position), "confidence": (joints, confidence)}
    if recordings[0].sigma is not None:
        data["sigma"] = (joints, sigma)
    fps = recordings[0].fps
    times = np.arange(slots) / fps
    coords = {"time": times, "space": list("xyz"), "keypoints": list(names), "individuals": people}
    attrs = {"fps": fps, "time_unit": "seconds", "ds_type": "poses", "source_software": "rtskel"}
    return xarray.Dataset(data, coords, facts[0] | attrs)


def _positions(recording: Recording) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[N, J, 3] with NaN where a raw joint is missing; refined ones are all there."""
    if recording.lookahead is not None:
        return recording.xyz.copy()
    return np.where(recording.missing[..., None], np.float32(np.nan), recording.xyz)


def _facts(recording: Recording) -> dict[str, object]:
    facts = ("name", "fps", "skeleton", "unit", "axes", "mirrored", "dims", "lookahead")
    return {name: getattr(recording, name) for name in facts}
