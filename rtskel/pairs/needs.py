"""What making pairs needs: packages and a library, all of which are named at once if they are not there."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
from collections.abc import Mapping
from types import MappingProxyType

from rtskel.errors import RtskelError

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch",
        "scipy": "scipy",
        "anny": "anny",
        "OpenGL": "PyOpenGL",
        "av": "av",
        "cv2": "opencv-python-headless",
        "mediapipe": "mediapipe",
    }
)
"""Modules, and the packages that have them."""

INSTALL = "pip install 'rtskel[pairs,estimate]' && pip install --no-deps mediapipe==0.10.21"
LIBRARY = "the library OSMesa (Debian's libosmesa6)"


def check_installed() -> None:
    """Before anything is drawn: whether all that pairs need is there.

    Raises:
        RtskelError: names everything that is not, and how to install it.
    """
    absent = [package for module, package in PACKAGES.items() if not _is_there(module)]
    lines = [f"{', '.join(absent)} ({INSTALL})"] if absent else []
    if ctypes.util.find_library("OSMesa") is None:
        lines.append(f"{LIBRARY}: apt install libosmesa6")
    if lines:
        raise RtskelError(f"pairs needs what is not installed: {'; and '.join(lines)}")


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
