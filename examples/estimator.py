"""A pose estimator of your own: publishes a pose 25 times a second to `rtskel serve`."""

import time

import numpy as np

import rtskel


def estimate(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Your estimator goes here: positions [50, 3] in any unit, confidences [50] in 0..1 (0 = missing)."""
    rng = np.random.default_rng(number)
    xyz = np.cumsum(np.ones((50, 3)), axis=0) * 0.01 + 0.1 * np.sin(number / 10)
    confidence = (rng.random(50) > 0.1).astype(np.float32)  # a tenth of the joints is not seen
    return xyz + rng.normal(0, 0.005, xyz.shape), confidence


def main(endpoint: str = rtskel.client.RAW_ENDPOINT, frames: int = 250, fps: float = 25) -> None:
    """Publish one pose a frame at the camera's rate."""
    with rtskel.Publisher(endpoint, stream="mine", fps=fps, axes="RDT") as publisher:
        publisher.wait_for_subscriber()  # the server
        start = time.monotonic()
        for number in range(frames):
            xyz, confidence = estimate(number)
            publisher.send(xyz, confidence, seq=number)
            time.sleep(max(0.0, start + (number + 1) / fps - time.monotonic()))


if __name__ == "__main__":
    main()
