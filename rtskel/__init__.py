"""rtskel: refines 3D skeletal poses in real time."""

__version__ = "0.1.0"
