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

import argparse
import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from measure.browser import NoBrowserError, chromium
from measure.loads import live
from measure.processes import running, serving, started
from measure.report import arguments, bench, percentiles, table
from websockets.asyncio.client import ClientConnection, connect

from rtskel.cli import positive

PATIENCE_S = 30.0
SETTLING_S = 10.0

COUNT_REFRESHES = """() => {
  window.refreshes = 0;
  const turn = () => { window.refreshes++; requestAnimationFrame(turn); };
  turn();
}"""
COUNTS = "() => [performance.now(), rtskelStats.drawn, window.refreshes, rtskelStats.poses, rtskelStats.skipped]"
MOVES = """people => {
  if (rtskelStats.people < people) return false;
  const canvas = document.getElementById("picture");
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) sum = (31 * sum + data[at]) >>> 0;
  window.first ??= sum;
  return sum !== window.first;
}"""
"""Whether a picture with everybody in it has changed."""


@contextmanager
def viewing(refined: str) -> Iterator[tuple[str, float]]:
    """`rtskel view` of a server: the page's address, and when the command was given."""
    begin = time.monotonic()
    with running("view", "--refined", refined, "--listen", "127.0.0.1:0") as (line, _):
        yield line.split()[3], begin


def watched(page: Any, seconds: float) -> dict[str, Any]:
    """What a page does meanwhile."""
    page.wait_for_timeout(1000)
    # An answer tells the view's clock, by which poses are late; on a busy machine none may come in time.
    until = page.evaluate("performance.now()") + 1000 * SETTLING_S
    page.wait_for_function("until => rtskelStats.latencies.length || performance.now() > until", arg=until)
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


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All that the page says."""
    everybody = [tuple(f"person{number}" for number in range(options.people))]
    result: dict[str, Any] = {"people": options.people, "fps": options.fps, "engine": options.engine, "start": []}
    with (
        chromium() as browser,
        serving(options.engine, [4], options.people) as server,
        started(live, server.raw, everybody, options.fps, math.inf, 0.0) as (_, publisher),
    ):
        publisher.recv()
        publisher.send("go")
        try:
            for number in range(options.rounds):
                with viewing(server.refined) as (url, begin):
                    printed = time.monotonic() - begin
                    page = browser.new_page(viewport={"width": 1280, "height": 760})
                    page.goto(url)
                    page.wait_for_function(MOVES, arg=options.people, timeout=1000 * PATIENCE_S)
                    result["start"].append({"address_s": printed, "picture_s": time.monotonic() - begin})
                    if number == options.rounds - 1:
                        result |= alone_and_in_a_crowd(page, url, options)
                    page.close()
        finally:
            publisher.send("stop")
    return result


def alone_and_in_a_crowd(page: Any, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a page does by itself, and beside other viewers."""
    page.evaluate(COUNT_REFRESHES)
    alone = watched(page, options.seconds)
    viewers = max(options.viewers, 2)  # one reads, one stalls
    with started(crowd, url, viewers) as (_, others):
        others.recv()
        beside = watched(page, options.seconds)
        others.send("stop")
        got = others.recv()
    return {"alone": alone, "crowd": {**beside, "viewers": viewers, "least_share": min(got) / max(got)}}


def lines(result: dict[str, Any]) -> list[str]:
    """The figures as text."""
    begun = {str(k + 1): start for k, start in enumerate(result["start"])}
    rows = {}
    for case, said in {"alone": "one page", "crowd": f"and {result['crowd']['viewers']} viewers, one stalled"}.items():
        of = result[case]
        late = of["added_ms"] or {}  # none: the machine was too busy to compare clocks
        rows[said] = {name: of[name] for name in ("drawn_per_s", "refreshes_per_s", "poses_per_s", "poses_skipped")}
        rows[said] |= {f"ms {name}": late.get(name) for name in ("p50", "p90", "p99", "max")}
    return [
        f"{result['people']} people at {result['fps']:g} fps, raw and refined, engine {result['engine']}",
        *table("seconds from the command, by start", begun, ".2f"),
        "",
        *table("", rows, ".1f"),
        f"least bytes of a viewer who reads, of the most: {100 * result['crowd']['least_share']:.0f}%",
    ]


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null", help="null, bundled, or the path of an engine")
    parser.add_argument("--people", type=positive, default=8)
    parser.add_argument("--fps", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of looking, alone and in the crowd")
    parser.add_argument("--rounds", type=positive, default=3, help="starts of the view")
    parser.add_argument("--viewers", type=positive, default=10, help="in the crowd, the last of which stalls")
    try:
        return bench("view", parser.parse_args(), measure, lines)
    except NoBrowserError as error:
        raise SystemExit(f"{error}: the view cannot be measured") from None


if __name__ == "__main__":
    raise SystemExit(main())
