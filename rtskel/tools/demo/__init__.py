"""`rtskel demo`: what refinement does to a live stream, measured end to end.

A server runs in a process of its own. A recording whose truth is known is replayed to it at its own frame rate, with an
estimator's errors, lost hands and dropped frames. The refined poses are received over the wire, at each lookahead, and
compared with the truth. The bundled recording is synthetic (`rtskel.training.synthesize`).

*Before* is what a consumer of the raw stream sees: every joint where it was last seen, so missing joints and dropped
frames repeat the previous value. *After* is what the server published. Errors are pooled over all frames; joints that
the truth lacks count as right on both sides.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files

from rtskel.engine import describe, located
from rtskel.errors import RtskelError
from rtskel.formats import Recording, read
from rtskel.text import printable
from rtskel.tools.demo.live import DemoConfig, play
from rtskel.tools.demo.result import Result, print_result, result_of
from rtskel.tools.replay import schedule
from rtskel.tools.watch import console
from rtskel.training.synthesize import estimator_errors

__all__ = ["DemoConfig", "Result", "run"]


def run(config: DemoConfig) -> int:
    """Run the demo; returns 0 if every pose arrived once and refinement helped in every row, else 1.

    Raises:
        RtskelError: a recording or engine that cannot be used.
    """
    truths, estimates = _recordings(config)
    if config.engine != "null":
        describe(located(config.engine))
    out = console()
    if not config.json:
        seconds = schedule(estimates, config.replay)[-1].due
        what = printable(config.source)
        out.print(f"Starting a server, and replaying {what} as a live estimator would see it: {seconds:.0f} s.")
    played = play(config, truths, estimates, None if config.json else out)
    result = result_of(config, truths, estimates, played)
    if config.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        print_result(out, result)
    return 0 if result.helps else 1


def _recordings(config: DemoConfig) -> tuple[list[Recording], list[Recording]]:
    """The true recordings, and what an estimator would deliver of each."""
    if config.recording is None:
        with as_file(files("rtskel") / "assets" / "demo.npz") as path:
            truth, estimate = read(path)
        return [truth], [estimate]
    truths = read(config.recording)
    for truth in truths:
        if truth.dims == 2:
            raise RtskelError(
                f"{config.recording}: recording {truth.name!r} is 2D: the demo needs 3D poses to compare with"
            )
    return truths, [estimator_errors(truth, config.seed + number) for number, truth in enumerate(truths)]
