"""MediaPipe Holistic, loaded: `Holistic` finds one person in images, `HolisticPeople` several.

Both run MediaPipe's own models and graphs without its face mesh, which costs a fifth of the time and changes nothing.
For several people, each has a graph of his own that looks where he was in the last image; MediaPipe's detector, which
Holistic asks for the one best person, is asked for more people in what is left of the image.

`mediapipe` is imported when it is used, and nowhere else in rtskel (`INSTALL` is the command that installs it).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.closing import Closing
from rtskel.errors import RtskelError
from rtskel.formats.mediapipe import POSE, landmarks
from rtskel.tools.video import Image, silent

INSTALL = "pip install 'rtskel[estimate]' && pip install --no-deps mediapipe==0.10.21"
"""Installs MediaPipe without its pinned dependencies, one of which excludes the numpy that rtskel needs."""

Found = tuple[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]
"""What an estimator found of a person, as `rtskel.formats.mediapipe.Assembler.joints` takes it."""

SEEK_EVERY = 5
"""Images from one search for more people to the next, where fewer are followed than asked for."""

OUTLINE = 0.1
"""How far a person's outline is taken to reach beyond his landmarks, of the width and height of these."""

_HEAVY = {0: "lite", 2: "heavy"}
"""Body models that are not in the package, by complexity; MediaPipe downloads them."""

_OUTPUTS = """
output_stream: "LANDMARKS:pose_landmarks"
output_stream: "WORLD_LANDMARKS:pose_world_landmarks"
output_stream: "LEFT_HAND_LANDMARKS:left_hand_landmarks"
output_stream: "RIGHT_HAND_LANDMARKS:right_hand_landmarks"
"""
_HANDS = """
node {
  calculator: "HandLandmarksLeftAndRightCpu"
  input_stream: "IMAGE:image"
  input_stream: "POSE_LANDMARKS:pose_landmarks"
  output_stream: "LEFT_HAND_LANDMARKS:left_hand_landmarks"
  output_stream: "RIGHT_HAND_LANDMARKS:right_hand_landmarks"
}
"""
_ONE = f"""
input_stream: "IMAGE:image"
input_side_packet: "MODEL_COMPLEXITY:model_complexity"
input_side_packet: "SMOOTH_LANDMARKS:smooth_landmarks"
{_OUTPUTS}
node {{
  calculator: "PoseLandmarkCpu"
  input_stream: "IMAGE:image"
  input_side_packet: "MODEL_COMPLEXITY:model_complexity"
  input_side_packet: "SMOOTH_LANDMARKS:smooth_landmarks"
  output_stream: "LANDMARKS:pose_landmarks"
  output_stream: "WORLD_LANDMARKS:pose_world_landmarks"
}}
{_HANDS}
"""
"""MediaPipe's graph of Holistic without the face mesh."""

_SIZE = 'node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }'
_FOLLOW = f"""
input_stream: "IMAGE:image"
input_stream: "ROI:roi"
input_side_packet: "MODEL_COMPLEXITY:model_complexity"
input_side_packet: "SMOOTH_LANDMARKS:smooth_landmarks"
{_OUTPUTS}
output_stream: "NEXT_ROI:next_roi"
{_SIZE}
node {{
  calculator: "PoseLandmarkByRoiCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:roi"
  input_side_packet: "MODEL_COMPLEXITY:model_complexity"
  output_stream: "LANDMARKS:found"
  output_stream: "WORLD_LANDMARKS:found_world"
  output_stream: "AUXILIARY_LANDMARKS:found_auxiliary"
}}
node {{
  calculator: "PoseLandmarkFiltering"
  input_side_packet: "ENABLE:smooth_landmarks"
  input_stream: "IMAGE_SIZE:size"
  input_stream: "NORM_LANDMARKS:found"
  input_stream: "AUX_NORM_LANDMARKS:found_auxiliary"
  input_stream: "WORLD_LANDMARKS:found_world"
  output_stream: "FILTERED_NORM_LANDMARKS:pose_landmarks"
  output_stream: "FILTERED_AUX_NORM_LANDMARKS:auxiliary"
  output_stream: "FILTERED_WORLD_LANDMARKS:pose_world_landmarks"
}}
node {{
  calculator: "PoseLandmarksToRoi"
  input_stream: "LANDMARKS:auxiliary"
  input_stream: "IMAGE_SIZE:size"
  output_stream: "ROI:next_roi"
}}
{_HANDS}
"""
"""The same for the person in a given region, with the region in which to look next."""

_SEEK = f"""
input_stream: "IMAGE:image"
output_stream: "ROIS:rois"
{_SIZE}
node {{ calculator: "PoseDetectionCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }}
node {{
  calculator: "AlignmentPointsRectsCalculator"
  input_stream: "DETECTIONS:detections"
  input_stream: "IMAGE_SIZE:size"
  output_stream: "NORM_RECTS:rects"
  options {{ [mediapipe.DetectionsToRectsCalculatorOptions.ext] {{
    rotation_vector_start_keypoint_index: 0
    rotation_vector_end_keypoint_index: 1
    rotation_vector_target_angle_degrees: 90
  }} }}
}}
node {{
  calculator: "RectTransformationCalculator"
  input_stream: "NORM_RECTS:rects"
  input_stream: "IMAGE_SIZE:size"
  output_stream: "rois"
  options {{ [mediapipe.RectTransformationCalculatorOptions.ext] {{ scale_x: 1.25 scale_y: 1.25 square_long: true }} }}
}}
"""
"""Regions of everybody whom MediaPipe's detector sees, made of its detections as Holistic makes that of the best."""


class _Graph:
    """One of MediaPipe's graphs, running."""

    def __init__(self, graph: str, **inputs: object) -> None:
        """RtskelError: MediaPipe is not installed, or cannot be loaded."""
        try:
            base = importlib.import_module("mediapipe.python.solution_base")
            complexity = inputs.get("model_complexity")
            if complexity in _HEAVY:
                downloads = importlib.import_module("mediapipe.python.solutions.download_utils")
                downloads.download_oss_model(
                    f"mediapipe/modules/pose_landmark/pose_landmark_{_HEAVY[complexity]}.tflite"
                )
        except ImportError as error:
            absent = (error.name or "").partition(".")[0] == "mediapipe"
            what = "is not installed" if absent else f"cannot be loaded ({error})"
            raise RtskelError(f"estimate needs mediapipe, which {what}: {INSTALL}") from None
        self._graph = base.SolutionBase(graph_config=graph, side_inputs=inputs)
        self._used = False

    def __call__(self, image: Image, **inputs: object) -> Any:
        with nullcontext() if self._used else silent():  # the first image causes further warnings
            results = self._graph.process({"image": image, **inputs})
        self._used = True
        return results

    def restart(self) -> None:
        """Forgets what it has seen."""
        self._graph.reset()

    def close(self) -> None:
        self._graph.close()


def _landmarks(results: Any, image: Image) -> Found:
    for marks in (results.pose_landmarks, results.pose_world_landmarks):
        for mark in marks.landmark if marks else ():
            mark.ClearField("presence")  # as Holistic does: where there is no visibility, it is not to be used instead
    return landmarks(results, (image.shape[1], image.shape[0]))


class Holistic(Closing):
    """Finds one person, the one whom MediaPipe sees best. A context manager."""

    def __init__(self, *, complexity: int = 1, smooth: bool = False) -> None:
        """Loads the models, which are in the package.

        Args:
            complexity: of the body model: 0 (fastest), 1 or 2 (most accurate).
            smooth: MediaPipe's own smoothing over time.

        Raises:
            RtskelError: MediaPipe is not installed, or cannot be loaded.
        """
        with silent():
            self._graph = _Graph(_ONE, model_complexity=complexity, smooth_landmarks=smooth)
            # Models load in background threads, and are ready once an image has passed. This one is empty.
            self._graph(np.zeros((64, 64, 3), np.uint8))

    def find(self, image: Image) -> Found:
        """Landmarks in the next image."""
        return _landmarks(self._graph(image), image)

    def close(self) -> None:
        """Frees the models."""
        self._graph.close()


def _outline(person: Found) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of a person in pixels; None: nothing of him is seen for sure."""
    points, sure = person
    seen = points[POSE][sure[POSE] > 0.5, :2]
    if not len(seen):
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = OUTLINE * (high - low)
    left, top, right, bottom = np.maximum(np.concatenate([low - margin, high + margin]), 0).astype(int).tolist()
    return left, top, right, bottom


class _Person:
    """Follows one person from image to image."""

    def __init__(self, **inputs: object) -> None:
        self._graph = _Graph(_FOLLOW, **inputs)
        self._roi: Any = None

    def begin(self, roi: Any) -> None:
        """Follows another person from now on, who is there in the next image."""
        self._graph.restart()
        self._roi = roi

    def find(self, image: Image) -> Found | None:
        """Landmarks in the next image; None: he is not seen any more."""
        results = self._graph(image, roi=self._roi)
        self._roi = results.next_roi
        found = _landmarks(results, image)
        return found if self._roi is not None and POSE in found[0] else None

    def close(self) -> None:
        self._graph.close()


class HolisticPeople(Closing):
    """Finds several people, each by a copy of Holistic that follows him. A context manager."""

    def __init__(self, most: int, *, complexity: int = 1, smooth: bool = False) -> None:
        """Loads the models once for each person.

        Args:
            most: how many people are followed at most.
            complexity, smooth: as of `Holistic`.

        Raises:
            RtskelError: MediaPipe is not installed, or cannot be loaded.
        """
        with silent():
            self._seek = _Graph(_SEEK)
            self._spare = [_Person(model_complexity=complexity, smooth_landmarks=smooth) for _ in range(most)]
        self._followed: dict[int, _Person] = {}
        self._threads = ThreadPoolExecutor(most, "person")
        self._begun = self._images = 0

    def find(self, image: Image) -> dict[int, Found]:
        """Landmarks of everybody in the next image, by a number that he keeps as long as he is followed."""
        everybody = list(self._followed)
        results = self._threads.map(lambda number: self._followed[number].find(image), everybody)
        found: dict[int, Found] = {}
        for number, person in zip(everybody, results, strict=True):
            if person is None:
                self.drop(number)
            else:
                found[number] = person
        if self._spare and self._images % SEEK_EVERY == 0:
            found |= self._more(image, found)
        self._images += 1
        return found

    def _more(self, image: Image, known: Mapping[int, Found]) -> Iterator[tuple[int, Found]]:
        """People in what those who are known leave of the image."""
        rest = image.copy() if known else image
        boxes = [box for box in map(_outline, known.values()) if box is not None]
        for left, top, right, bottom in boxes:
            rest[top:bottom, left:right] = 0
        for roi in self._seek(rest).rois or []:
            x, y = roi.x_center * image.shape[1], roi.y_center * image.shape[0]  # between the hips
            if not self._spare or any(left < x < right and y > top for left, top, right, _ in boxes):
                continue  # an arm or a shadow of somebody
            person = self._spare.pop()
            person.begin(roi)
            found = person.find(image)
            if found is None:
                self._spare.append(person)
            else:
                self._followed[self._begun] = person
                yield self._begun, found
                self._begun += 1

    def drop(self, number: int) -> None:
        """Follows somebody no longer, such as a person who is followed twice."""
        self._spare.append(self._followed.pop(number))

    def close(self) -> None:
        """Frees the models."""
        self._threads.shutdown()
        for person in (*self._spare, *self._followed.values()):
            person.close()
        self._seek.close()


def check_installed() -> None:
    """Before anything is opened: whether all that `Holistic` and videos need is there.

    Raises:
        RtskelError: names everything that is not installed, and the command that installs it.
    """
    needed = {"cv2": "OpenCV", "mediapipe": "mediapipe"}
    absent = [name for module, name in needed.items() if not _is_there(module)]
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise RtskelError(f"estimate needs {' and '.join(absent)}, which {are} not installed: {INSTALL}")


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
