"""How soon is the picture of `rtskel view` there, how often is it drawn, and how long does a pose take to get into it?

A server publishes raw and refined poses of several people, whom a publisher sends in real time. Then, in turn:

    start   `rtskel view` is started and its page opened in a browser that runs already: seconds from the command until
            the address is printed, and until a picture with everybody in it has changed
    alone   one page: drawings a second, refreshes of the (headless) screen a second, which drawings cannot exceed, and
            ms from the publishing of a pose to its drawing
    crowd   the same page while others read the same view by WebSocket, one of which stalls: nothing may change for it;
            and whether each of the others got as much as the rest

The engine is `null` by default, so that the machine's time goes into the view. Needs chromium and playwright.

    python bench/view.py --save view
    python bench/view.py --people 2 --seconds 1 --rounds 1      # to see that it works
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from measure.browser import NoBrowserError, chromium
from measure.processes import serving, started
from measure.report import arguments, percentiles, report, table
from websockets.asyncio.client import ClientConnection, connect

from rtskel.cli import positive
from rtskel.client import GroupPublisher
from rtskel.serve import ServeConfig, StreamConfig
from rtskel.training.synthesize import estimator_errors, synthesize

PATIENCE_S = 30.0
SETTLING_S = 10.0

COUNT_REFRESHES = """() => {
  window.refreshes = 0;
  const turn = () => { window.refreshes++; requestAnimationFrame(turn); };
  turn();
}"""
COUNTS = "() => [performance.now(), rtskelStats.drawn, window.refreshes, rtskelStats.poses, rtskelStats.skipped]"
CHECKSUM = """people => {
  if (rtskelStats.people < people) return null;
  const canvas = document.getElementById("picture");
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) sum = (31 * sum + data[at]) >>> 0;
  return sum;
}"""


def publish(endpoint: str, people: int, fps: float, link: Connection) -> None:
    """Everybody's poses in real time, as an estimator would deliver them, until told to end."""
    takes = [estimator_errors(synthesize(10, fps, seed), seed) for seed in range(people)]
    frames = min(len(take.xyz) for take in takes)
    xyz = np.stack([take.xyz[:frames] for take in takes], axis=1)
    confidence = np.stack([take.confidence[:frames] for take in takes], axis=1)
    names = [f"person{number}" for number in range(people)]
    with GroupPublisher(endpoint, group="bench", fps=fps) as publisher:
        publisher.wait_for_subscriber(PATIENCE_S)
        link.send("ready")
        begin, number = time.monotonic(), 0
        while not link.poll(max(0.0, begin + number / fps - time.monotonic())):
            publisher.send(names, xyz[number % frames], confidence[number % frames], seq=number)
            number += 1


@contextmanager
def viewing(refined: str) -> Iterator[tuple[str, float]]:
    """`rtskel view` of a server: the page's address, and when the command was given."""
    command = [sys.executable, "-P", "-m", "rtskel", "view", "--refined", refined, "--listen", "127.0.0.1:0"]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if len(words) < 4:
            raise SystemExit("rtskel view did not start: see its message above")
        yield words[3], begin
    finally:
        process.terminate()
        process.communicate()


def pictured(page: Any, people: int, begin: float) -> float:
    """Seconds since `begin` when a picture with everybody in it has changed."""
    first = None
    while time.monotonic() < begin + PATIENCE_S:
        now = page.evaluate(CHECKSUM, people)
        if now is not None and first is not None and now != first:
            return time.monotonic() - begin
        first = now if first is None else first
        page.wait_for_timeout(10)
    raise SystemExit(f"no moving picture of {people} people within {PATIENCE_S:g} s: {page.evaluate('rtskelStats')}")


def settled(page: Any) -> None:
    """Waits until the page knows the view's clock, which tells how late a pose is drawn; not for ever.

    It knows it as soon as an answer has come within 20 ms, which takes a machine that has time to give one.
    """
    until = time.monotonic() + SETTLING_S
    page.wait_for_timeout(1000)
    while time.monotonic() < until and not page.evaluate("() => rtskelStats.latencies.length"):
        page.wait_for_timeout(100)


def watched(page: Any, seconds: float) -> dict[str, Any]:
    """What a page does meanwhile."""
    settled(page)
    before = page.evaluate(COUNTS)
    added: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        page.wait_for_timeout(250)
        added += page.evaluate("() => rtskelStats.latencies")
    after = page.evaluate(COUNTS)
    spent = (after[0] - before[0]) / 1000
    drawn, refreshes, poses, skipped = (late - early for late, early in zip(after[1:], before[1:], strict=True))
    return {
        "drawn_per_s": drawn / spent,
        "refreshes_per_s": refreshes / spent,
        "poses_per_s": poses / spent,
        "poses_skipped": skipped,
        "added_ms": percentiles(added) if added else None,
    }


def crowd(url: str, viewers: int, link: Connection) -> None:
    """Further viewers by WebSocket, the last of which stalls; sends the bytes that each of the others got a second."""
    address = url.rstrip("/")

    async def read(socket: ClientConnection) -> int:
        got = 0
        async for message in socket:
            got += len(message)
        return got

    async def look() -> list[float]:
        where = address.replace("http", "ws", 1) + "/live"
        sockets = [await connect(where, origin=address, max_size=None, max_queue=1) for _ in range(viewers)]  # type: ignore[arg-type]
        *readers, stalled = sockets
        begin = time.monotonic()
        reading = [asyncio.create_task(read(socket)) for socket in readers]
        link.send("ready")
        while not link.poll():
            await asyncio.sleep(0.1)
        stalled.transport.abort()  # it has not read, and would not read that we go
        seconds = time.monotonic() - begin
        for socket in readers:
            await socket.close()
        return [await got / seconds for got in reading]

    link.send(asyncio.run(look()))


def measure(options: Any) -> dict[str, Any]:
    """All that the page says."""
    streams = StreamConfig(max_streams=options.people)
    result: dict[str, Any] = {"people": options.people, "fps": options.fps, "engine": options.engine}
    with (
        chromium() as browser,
        serving(options.engine, ServeConfig(streams=streams)) as server,
        started(publish, server.raw, options.people, options.fps) as (_, publisher),
    ):
        publisher.recv()
        try:
            starts = []
            for number in range(options.rounds):
                with viewing(server.refined) as (url, begin):
                    printed = time.monotonic() - begin
                    page = browser.new_page(viewport={"width": 1280, "height": 760})
                    page.goto(url)
                    starts.append({"address_s": printed, "picture_s": pictured(page, options.people, begin)})
                    if number == options.rounds - 1:
                        page.evaluate(COUNT_REFRESHES)
                        result["alone"] = watched(page, options.seconds)
                        with started(crowd, url, options.viewers) as (_, others):
                            others.recv()
                            result["crowd"] = watched(page, options.seconds)
                            others.send("stop")
                            got = others.recv()
                        result["crowd"] |= {"viewers": options.viewers, "least_share": min(got) / max(got)}
                    page.close()
        finally:
            publisher.send("stop")
    return {"start": starts, **result}


def lines(result: dict[str, Any]) -> list[str]:
    """The figures as text."""
    starts = result["start"]
    text = [
        f"{result['people']} people at {result['fps']:g} fps, raw and refined, engine {result['engine']}",
        "seconds from the command to the address: " + ", ".join(f"{each['address_s']:.2f}" for each in starts),
        "and to a picture that moves: " + ", ".join(f"{each['picture_s']:.2f}" for each in starts),
        "",
    ]
    names = {"alone": "one page", "crowd": f"and {result['crowd']['viewers']} viewers, one stalled"}
    counted = ("drawn_per_s", "refreshes_per_s", "poses_per_s", "poses_skipped")
    rows = {said: {name: result[case][name] for name in counted} for case, said in names.items()}
    text += [*table("", rows, ".1f"), ""]
    late = ("p50", "p90", "p99", "max")
    unknown = dict.fromkeys(late)  # the machine was too busy to compare clocks
    rows = {said: {name: (result[case]["added_ms"] or unknown)[name] for name in late} for case, said in names.items()}
    text += table("ms that the view adds", rows, ".1f")
    text += ["", f"least bytes of a viewer who reads, of the most: {100 * result['crowd']['least_share']:.0f}%"]
    return text


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null", help="null, bundled, or the path of an engine")
    parser.add_argument("--people", type=positive, default=8)
    parser.add_argument("--fps", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of looking, alone and in the crowd")
    parser.add_argument("--rounds", type=positive, default=3, help="starts of the view")
    parser.add_argument("--viewers", type=positive, default=10, help="in the crowd, the last of which stalls")
    options = parser.parse_args()
    options.viewers = max(options.viewers, 2)  # one reads, one stalls
    try:
        result = measure(options)
    except NoBrowserError as error:
        raise SystemExit(f"{error}: the view cannot be measured") from None
    report({"bench": "view", **result}, lines(result), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
