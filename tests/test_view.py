"""The picture in the browser: its packets, its feeds, who gets them, and the page itself in a real browser."""

import dataclasses
import json
import math
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rtskel import GroupPublisher, Recording, Subscriber, wire
from rtskel.cli import main
from rtskel.errors import FormatError, ServeError
from rtskel.skeleton import UPPER_BODY_50, to_canonical
from rtskel.view import LiveFeed, RecordingFeed, Site, SiteConfig, address
from rtskel.view import feed as feeds
from rtskel.view import site as sites
from rtskel.view.packets import pack
from tests.browser import browser, page_at, until
from tests.sockets import TIMEOUT, RefinedSender
from tests.test_wire import REFINED

J = UPPER_BODY_50.joints
ANY = SiteConfig(port=0)


def body(frames=60, seed=0):
    """A person whose arms move, [N, J, 3] in canonical axes and metres."""
    offsets = np.zeros((J, 3))
    for joint in UPPER_BODY_50.order[1:]:
        side = 1 if UPPER_BODY_50.names[joint].startswith("left") else -1
        direction = (
            (0, -1, 0.2) if joint == 0 else (side, 0, 0) if "shoulder" in UPPER_BODY_50.names[joint] else (0, 1, 0)
        )
        offsets[joint] = np.multiply(direction, UPPER_BODY_50.bone_length[joint] * 1.1)
    rest = UPPER_BODY_50.chain @ offsets
    sway = np.sin(np.arange(frames) / 8 + seed)[:, None, None] * [[[0.05, -0.1, 0.1]]]
    return (rest + sway * np.isin(np.arange(J), range(8, 50))[:, None]).astype(np.float32)


def recording(name, frames=60, lookahead=None, **more):
    xyz = body(frames)
    confidence = np.ones((frames, J), np.float32)
    confidence[frames // 2 :, 8:20] = 0
    if lookahead is not None:
        more |= {"lookahead": lookahead, "sigma": np.full((frames, J), 0.01, np.float32)}
    return Recording(xyz, 25.0, name, confidence=confidence, **more)


def refined(stream="cam1", seq=0, lookahead=4, **more):
    now = time.monotonic_ns()
    xyz, ones = body(seq + 1)[seq], np.ones(J, np.float32)
    values = {
        "stream": stream,
        "lookahead": lookahead,
        "seq": seq,
        "source_seq": seq,
        "source_time_ns": now - 100_000_000,
        "publish_ns": now,
        "flags": wire.Flag(0),
        "skeleton": UPPER_BODY_50.id,
        "axes": "RDT",
        "mirrored": False,
        "xyz": xyz,
        "confidence": ones,
        "missing": ones == 0,
        "sigma": 0.01 * ones,
    }
    return dataclasses.replace(REFINED, **values | more)


HEARTBEAT = wire.Heartbeat(
    epoch=REFINED.epoch,
    seq=0,
    time_ns=1,
    interval_ns=1_000_000_000,
    streams=1,
    frames_in=10,
    frames_out=10,
    counts={"late": 2},
    model="tiny-0123",
    skeleton=UPPER_BODY_50.id,
    lookaheads=(0, 4),
    loop_fps=25.0,
)


def unpacked(data):
    """The packets of a message, read by what the module says about their layout and nothing else."""
    found = []
    while data:
        track, frames, joints, zero = np.frombuffer(data, "<u4", 4)
        assert zero == 0
        at = 16

        def column(kind, *shape):
            nonlocal at
            values = np.frombuffer(data, kind, math.prod(shape), at).reshape(shape)  # noqa: B023
            at += values.nbytes
            return values

        names = ["time", "published", "age", "xyz", "sigma", "confidence", "flags"]
        columns = [column("<f8", frames) for _ in range(3)]
        columns += [column("<f4", frames, joints, 3), column("<f4", frames, joints)]
        columns += [column("u1", frames, joints), column("u1", frames)]
        found.append({"track": int(track), **dict(zip(names, columns, strict=True))})
        data = data[at + -at % 8 :]
    return found


def test_packets_hold_what_their_layout_says():
    rng = np.random.default_rng(0)
    xyz, sigma = rng.normal(size=(3, 7, 3)).astype(np.float32), rng.random((3, 7)).astype(np.float32)
    confidence = np.array([[0, 1e-6, 0.5, 1, 1, 1, 1]] * 3, np.float32)
    data = pack(5, [1, 2, 3], [4, 5, 6], [7, 8, math.nan], xyz, sigma, confidence, [0, 64, 3])
    assert len(data) % 8 == 0
    both = unpacked(data + pack(6, [1], [0], [0], xyz[:1], None, confidence[:1], [1]))
    first, second = both
    assert (first["track"], second["track"]) == (5, 6)
    np.testing.assert_array_equal(first["time"], [1, 2, 3])
    np.testing.assert_array_equal(first["published"], [4, 5, 6])
    np.testing.assert_array_equal(first["age"], [7, 8, math.nan])
    np.testing.assert_array_equal(first["xyz"], xyz)
    np.testing.assert_array_equal(first["sigma"], sigma)
    np.testing.assert_array_equal(first["confidence"][0], [0, 1, 128, 255, 255, 255, 255])
    np.testing.assert_array_equal(first["flags"], [0, 64, 3])
    np.testing.assert_array_equal(second["sigma"], np.zeros((1, 7)))


# --- feeds ------------------------------------------------------------------------------------------------------------


def texts(messages):
    return [json.loads(message) for message in messages if isinstance(message, str)]


def test_recordings_are_shown_with_the_refined_ones_of_their_name():
    raw = [recording("one", axes="RUA"), recording("two", 300)]
    feed = RecordingFeed([("raw.npz", raw), ("refined.npz", [recording("one", lookahead=4)])])
    messages = list(feed.backlog())
    tracks = [message for message in texts(messages) if message["type"] == "track"]
    assert [(track["stream"], track["lookahead"]) for track in tracks] == [("one", None), ("two", None), ("one", 4)]
    assert json.loads(messages[-1]) == {"type": "done"}
    packets = [unpacked(message)[0] for message in messages if isinstance(message, bytes)]
    np.testing.assert_array_equal(packets[0]["xyz"], to_canonical(raw[0].xyz, "RUA"))
    np.testing.assert_array_equal(packets[0]["time"], np.arange(60) * 40.0)
    assert [len(packet["time"]) for packet in packets if packet["track"] == 2] == [256, 44]
    assert packets[-1]["sigma"].min() == np.float32(0.01)


def test_files_with_one_recording_each_show_the_same_person():
    feed = RecordingFeed([("a.npz", [recording("a")]), ("b.npz", [recording("b", lookahead=4)])])
    tracks = [message for message in texts(feed.backlog()) if message["type"] == "track"]
    assert {track["stream"] for track in tracks} == {"a"}
    feed = RecordingFeed([("a.npz", [recording("a")]), ("b.npz", [recording("b")])])
    tracks = [message for message in texts(feed.backlog()) if message["type"] == "track"]
    assert [track["stream"] for track in tracks] == ["a", "a (b.npz)"]


def test_more_recordings_than_a_picture_shows():
    with pytest.raises(FormatError, match=r"many.npz: 65 sequences.*--stream"):
        RecordingFeed([("many.npz", [recording(f"p{number}", 2) for number in range(65)])])


@contextmanager
def live(sender):
    """A feed from that sender, running; gives what it emits as a list that grows, and a way to wait for more."""
    got, some, on = [], threading.Condition(), [True]

    def emit(messages):
        with some:
            got.extend(messages)
            some.notify_all()

    def wait(enough):
        with some:
            assert some.wait_for(lambda: enough(got), TIMEOUT)

    with Subscriber(sender.endpoint, heartbeats=True) as subscriber:
        thread = threading.Thread(target=LiveFeed(subscriber).run, args=(emit, lambda: on[0]))
        thread.start()
        sender.wait_for_subscriptions()
        try:
            yield got, wait
        finally:
            on[0] = False
            thread.join()


def packets_of(messages):
    return [packet for message in messages if isinstance(message, bytes) for packet in unpacked(message)]


def test_poses_of_a_server():
    event = wire.Event(stream="cam1", kind="stale", epoch=REFINED.epoch, seq=3, time_ns=5, detail="no frame for 1 s")
    poses = [refined(axes="RUA", mirrored=True), refined(lookahead=0), refined(seq=1, source_clock="camera")]
    with RefinedSender() as sender, live(sender) as (got, wait):
        sender.send(*poses, event, HEARTBEAT)
        wait(lambda got: any('"beat"' in message for message in got if isinstance(message, str)))
        first, second, third = packets_of(got)
    tracks = [message for message in texts(got) if message["type"] == "track"]
    assert [(track["stream"], track["lookahead"]) for track in tracks] == [("cam1", 4), ("cam1", 0)]
    assert [first["track"], second["track"], third["track"]] == [tracks[0]["id"], tracks[1]["id"], tracks[0]["id"]]
    np.testing.assert_array_equal(first["xyz"][0], to_canonical(poses[0].xyz, "RUA", True))
    assert first["time"][0] == poses[0].source_time_ns / 1e6
    assert first["published"][0] == poses[0].publish_ns / 1e6
    assert 100 <= first["age"][0] < 100 + 1000 * TIMEOUT
    assert math.isnan(third["age"][0]), "a clock that cannot be compared"
    (told,) = [message for message in texts(got) if message["type"] == "event"]
    assert (told["stream"], told["kind"], told["detail"]) == ("cam1", "stale", "no frame for 1 s")
    (beat,) = [message for message in texts(got) if message["type"] == "beat"]
    assert (beat["model"], beat["lookaheads"], beat["counts"]) == ("tiny-0123", [0, 4], {"late": 2})


def test_raw_poses_of_one_and_of_several_people():
    ones = np.ones((2, J), np.float32)
    batch = wire.RawBatch(
        "studio", ["a", "b"], 1, 0, 5_000_000, "monotonic", 25.0, body(2), ones, UPPER_BODY_50.id, "RUT"
    )
    alone = wire.RawPose("a", 1, 1, 45_000_000, "monotonic", 25.0, body(2)[1], ones[0], UPPER_BODY_50.id)
    feed = LiveFeed(SimpleNamespace(endpoint=""))
    got = [part for message in (batch, alone) for part in feed._translate(message, 50_000_000)]
    first, second, third = packets_of(got)
    np.testing.assert_array_equal(second["xyz"][0], to_canonical(body(2)[1], "RUT"))
    np.testing.assert_array_equal(third["xyz"][0], body(2)[1])
    assert first["track"] == third["track"] != second["track"]
    assert [track["lookahead"] for track in texts(got)] == [None, None]


def test_streams_beyond_what_a_picture_shows_are_counted_until_others_go(monkeypatch):
    monkeypatch.setattr(feeds, "MOST_STREAMS", 2)
    gone = wire.Event(stream="a", kind="evicted", epoch=REFINED.epoch, seq=None, time_ns=5)
    with RefinedSender() as sender, live(sender) as (got, wait):
        sender.send(*map(refined, "abc"), HEARTBEAT, gone, refined("c", 1), HEARTBEAT)
        wait(lambda got: sum('"beat"' in message for message in got if isinstance(message, str)) == 2)
    assert [message["stream"] for message in texts(got) if message["type"] == "track"] == ["a", "b", "c"]
    assert [message["unshown"] for message in texts(got) if message["type"] == "beat"] == [1, 0]


# --- the site ---------------------------------------------------------------------------------------------------------


class Given:
    """A live feed that emits what a test puts into it."""

    live, source = True, "a test"

    def __init__(self, backlog=(), error=None):
        self._backlog, self._error = backlog, error
        self.emit = None
        self.ready = threading.Event()

    def backlog(self):
        return self._backlog

    def run(self, emit, running):
        self.emit = emit
        self.ready.set()
        while running():
            if self._error:
                raise self._error
            time.sleep(0.01)


def at(site, path="", **headers):
    """Status, headers and body of what the site answers."""
    import http.client

    host, _, port = site.url.removeprefix("http://").partition("/")[0].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    connection.request("GET", f"/{path}", headers=headers)
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def dial(site, token=None, origin="own", **options):
    where = site.url.partition("#")[0]
    query = f"?token={token}" if token is not None else ""
    headers = {"origin": where.removesuffix("/")} if origin == "own" else {"origin": origin} if origin else {}
    return connect(
        where.replace("http", "ws") + "live" + query, open_timeout=TIMEOUT, max_size=None, **headers, **options
    )


def test_the_page_and_nothing_else_is_served():
    with Site(Given(), ANY) as site:
        status, headers, page = at(site)
        assert status == 200
        assert headers["Content-Type"].startswith("text/html")
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        for name in ("view.js", "scene.js", "poses.js", "traces.js", "style.css", "icon.svg"):
            assert at(site, name)[0] == 200
            assert name.encode() in page + at(site, "view.js")[2]
        for path in ("../site.py", "%2e%2e/site.py", "site.py", "view.js/", "page/view.js"):
            assert at(site, path)[0] == 404
        assert b"http:" not in page.replace(b"http://www.w3.org", b""), "nothing comes from elsewhere"


def test_pages_of_other_sites_get_nothing():
    with Site(Given(), ANY) as site:
        for origin in (None, "http://evil.example", site.url.replace("127.0.0.1", "localhost").removesuffix("/")):
            with pytest.raises(InvalidStatus, match="403"):
                dial(site, origin=origin).close()
        assert at(site, Host="evil.example")[0] == 403, "a foreign name that points here"
        assert at(site, Host="localhost:1")[0] == 200
        with dial(site) as socket:
            assert json.loads(socket.recv(TIMEOUT))["type"] == "hello"


def test_other_machines_need_the_token():
    with Site(Given(), SiteConfig("0.0.0.0", 0)) as site:
        token = site.url.partition("#")[2]
        assert len(token) >= 24
        for wrong in (None, "", token[:-1], "ü"):
            with pytest.raises(InvalidStatus, match="401"):
                dial(site, wrong).close()
        with dial(site, token) as socket:
            assert json.loads(socket.recv(TIMEOUT))["source"] == "a test"
    assert "#" not in site_url(ANY)
    assert not SiteConfig("example.org").local


def site_url(config):
    with Site(Given(), config) as site:
        return site.url


def test_a_page_hears_what_was_and_what_comes_and_what_time_it_is():
    feed = Given([json.dumps({"type": "track"})])
    with Site(feed, ANY) as site, dial(site) as socket:
        assert json.loads(socket.recv(TIMEOUT))["live"] is True
        assert json.loads(socket.recv(TIMEOUT)) == {"type": "track"}
        assert site.viewers == 1
        feed.ready.wait(TIMEOUT)
        feed.emit([b"12345678", b"abcdefgh", "{}"])
        assert [socket.recv(TIMEOUT), socket.recv(TIMEOUT)] == [b"12345678abcdefgh", "{}"]
        for nonsense in ("", "[]", '{"ping": "x"}', "3", b"\0"):
            socket.send(nonsense)
        before = time.monotonic() * 1000
        socket.send('{"ping": 7}')
        pong = json.loads(socket.recv(TIMEOUT))
        assert pong["ping"] == 7
        assert before <= pong["now"] <= time.monotonic() * 1000


def test_a_page_that_does_not_read_loses_its_oldest_poses_and_disturbs_nobody():
    feed = Given()
    packet = bytes(1 << 16)
    with Site(feed, ANY) as site, dial(site, max_queue=1) as stalled, dial(site) as reader:
        assert json.loads(stalled.recv(TIMEOUT))["type"] == json.loads(reader.recv(TIMEOUT))["type"] == "hello"
        feed.ready.wait(TIMEOUT)
        total = 0
        for number in range(1000):  # 64 MB, which no buffer on the way holds
            feed.emit([number.to_bytes(8, "little") + packet])
            total += len(reader.recv(TIMEOUT))
        assert total == 1000 * (8 + len(packet))
        feed.emit(['{"type": "last"}'])
        skipped, numbers = 0, []
        while True:
            message = stalled.recv(TIMEOUT)
            if message == '{"type": "last"}':
                break
            if isinstance(message, str):
                skipped += json.loads(message)["packets"]
            else:
                numbers += [
                    int.from_bytes(message[at : at + 8], "little") for at in range(0, len(message), 8 + len(packet))
                ]
        assert skipped > 0
        assert numbers == sorted(numbers)
        assert numbers[-1] == 999, "the newest are kept"
        assert skipped + len(numbers) == 1000


def test_ten_pages_get_the_same_and_one_that_goes_disturbs_no_other():
    feed = Given()
    with Site(feed, ANY) as site, ExitStack() as stack:
        pages = [stack.enter_context(dial(site)) for _ in range(10)]
        for page in pages:
            assert json.loads(page.recv(TIMEOUT))["type"] == "hello"
        feed.ready.wait(TIMEOUT)
        pages[0].socket.close()  # without a word, as a machine that is switched off
        for number in range(50):
            feed.emit([number.to_bytes(8, "little")])
        feed.emit(["last"])
        for page in pages[1:]:
            got = b""
            while (message := page.recv(TIMEOUT)) != "last":
                got += message
            assert got == b"".join(number.to_bytes(8, "little") for number in range(50))


def test_words_are_never_dropped_for_poses():
    viewer = sites._Viewer(None)
    viewer.put(["track"])
    for _ in range(5):
        viewer.put([bytes(4 << 20)])
    assert [message for message in viewer._waiting if isinstance(message, str)] == ["track"]
    assert isinstance(viewer._waiting, deque)
    assert viewer._bytes <= sites.MOST_WAITING


def test_a_port_in_use_is_one_clear_error():
    with Site(Given(), ANY) as site:
        port = int(site.url.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(ServeError, match=rf"127.0.0.1:{port}: .*in use.*--listen"),
            Site(Given(), SiteConfig(port=port)),
        ):
            pass


@pytest.mark.parametrize("at_once", [True, False])
def test_a_feed_that_fails_ends_the_site_with_its_error(at_once, monkeypatch):
    if at_once:  # before whoever enters goes on
        entered = Site.__enter__

        def enter(site):
            wait = site._started.wait
            monkeypatch.setattr(site._started, "wait", lambda: wait() and site._thread.join())
            return entered(site)

        monkeypatch.setattr(Site, "__enter__", enter)
    with Site(Given(error=RuntimeError("broken")), ANY) as site, pytest.raises(RuntimeError, match="broken"):
        site.wait()


def test_addresses():
    assert address("127.0.0.1:0") == SiteConfig("127.0.0.1", 0)
    assert address("[::1]:80") == SiteConfig("::1", 80)
    for wrong in ("", "8400", "localhost", "a:b", "a:65536", "a:-1"):
        with pytest.raises(ServeError, match="HOST:PORT"):
            address(wrong)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["none.npz"], ["none.npz"]),
        (["--listen", "nowhere"], ["'nowhere'", "HOST:PORT"]),
        (["--stream", "a b"], ["'a b'"]),
        (["take.npz", "--stream", "nobody"], ["take.npz", "nobody"]),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys, tmp_path, monkeypatch):
    from rtskel.formats import write

    monkeypatch.chdir(tmp_path)
    write("take.npz", recording("one"))
    assert main(["view", *argv, *([] if "--listen" in argv else ["--listen", "127.0.0.1:0"])]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    for word in words:
        assert word in error


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def state(page):
    return page.evaluate("rtskelStats")


def seek(page, seconds):
    page.fill("#time", str(seconds))


COLOURS = """() => {
  const canvas = document.getElementById("picture"), found = new Set();
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) found.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
  return [...found];
}"""
AMBER = 0xD97706


def test_recordings_in_the_browser(chromium):
    feed = RecordingFeed(
        [("raw.npz", [recording("one"), recording("two")]), ("refined.npz", [recording("one", lookahead=4)])]
    )
    with Site(feed, ANY) as site, page_at(chromium, site.url) as page:
        until(page, "rtskelStats.people === 2 && rtskelStats.drawn > 20")
        assert state(page)["poses"] == 180
        seek(page, 0.4)
        until(page, "document.getElementById('clock').value === '0.40 / 2.40 s'")
        assert AMBER not in page.evaluate(COLOURS), "nothing is filled in in the first half"
        seek(page, 2)
        until(page, "document.getElementById('clock').value === '2.00 / 2.40 s'")
        assert AMBER in page.evaluate(COLOURS)
        page.click("[data-toggle=filled]")
        until(page, f"!({COLOURS})().includes({AMBER})")
        page.press("#picture", "ArrowRight")
        until(page, "document.getElementById('clock').value === '2.04 / 2.40 s'")
        page.select_option("#joint", "4")
        assert page.inner_text("#traces figcaption").startswith("one · right wrist")
        page.click("[data-toggle=apart]")
        page.mouse.move(400, 300)
        page.mouse.down()
        page.mouse.move(480, 330)
        page.mouse.up()
        page.mouse.wheel(0, -200)
        page.click("#play")
        until(page, "document.getElementById('clock').value !== '2.04 / 2.40 s'")
        assert state(page)["errors"] == 0


def test_a_live_stream_in_the_browser(chromium):
    with (
        RefinedSender() as sender,
        Subscriber(sender.endpoint, heartbeats=True) as subscriber,
        Site(LiveFeed(subscriber), ANY) as site,
        page_at(chromium, site.url) as page,
    ):
        until(page, "document.getElementById('notice').textContent.startsWith('Waiting for a server')")
        sender.wait_for_subscriptions()
        sender.send(HEARTBEAT)
        until(page, "document.getElementById('state').textContent === 'serving 1 stream'")
        for seq in range(40):
            sender.send(refined(seq=seq), refined(seq=seq, lookahead=0), refined("cam2", seq))
            until(page, f"rtskelStats.poses === {3 * (seq + 1)}")
        until(page, "rtskelStats.people === 2 && rtskelStats.added >= 0")
        assert state(page)["drawn"] >= 40, "each pose was drawn when it came"
        assert "ms" in page.inner_text("#added")
        assert "ms" in page.inner_text("#age")
        assert page.inner_text("#counts") == "late 2"
        page.click("#lookaheads button >> nth=0")
        assert page.locator("#lookaheads button[aria-pressed=true]").inner_text().startswith("L0")
        page.click("#play")
        page.press("#picture", "ArrowLeft")
        until(page, "document.getElementById('clock').value === '-0.04 s'")
        page.click("#live")
        sender.send(wire.Event(stream="cam2", kind="stale", epoch=REFINED.epoch, seq=3, time_ns=5))
        until(page, "document.getElementById('people').textContent.includes('stale')")
        sender.send(wire.Event(stream="cam2", kind="evicted", epoch=REFINED.epoch, seq=3, time_ns=5))
        until(page, "rtskelStats.people === 1")


def test_a_server_that_falls_silent_and_speaks_again_is_seen(chromium):
    beat = dataclasses.replace(HEARTBEAT, interval_ns=50_000_000)
    with (
        RefinedSender() as sender,
        Subscriber(sender.endpoint, heartbeats=True) as subscriber,
        Site(LiveFeed(subscriber), ANY) as site,
        page_at(chromium, site.url) as page,
    ):
        sender.wait_for_subscriptions()
        sender.send(beat, refined())
        until(page, "document.getElementById('state').textContent === 'serving 1 stream'")
        until(page, "document.getElementById('state').textContent.startsWith('no heartbeat for')")
        assert page.get_attribute("#pulse", "class") == "dot bad"
        sender.send(HEARTBEAT, refined(seq=1))
        until(page, "document.getElementById('state').textContent === 'serving 1 stream'")
        until(page, "rtskelStats.poses === 2")


def test_a_page_that_is_loaded_again_sees_everybody_and_disturbs_no_other(chromium):
    with (
        RefinedSender() as sender,
        Subscriber(sender.endpoint, heartbeats=True) as subscriber,
        Site(LiveFeed(subscriber), ANY) as site,
        page_at(chromium, site.url) as page,
        page_at(chromium, site.url) as other,
    ):
        sender.wait_for_subscriptions()
        sender.send(HEARTBEAT, refined(), refined("cam2"))
        for each in (page, other):
            until(each, "rtskelStats.people === 2")
        page.reload()
        until(page, "document.getElementById('people').children.length === 2")
        sender.send(HEARTBEAT, refined(seq=1), refined("cam2", 1))
        until(page, "rtskelStats.people === 2 && rtskelStats.poses === 2")
        until(other, "rtskelStats.people === 2 && rtskelStats.poses === 4")


def test_a_page_goes_on_with_another_server_at_the_same_address(chromium):
    first = RefinedSender()
    with (
        Subscriber(first.endpoint, heartbeats=True) as subscriber,
        Site(LiveFeed(subscriber), ANY) as site,
        page_at(chromium, site.url) as page,
    ):
        with first:
            first.wait_for_subscriptions()
            first.send(HEARTBEAT, refined())
            until(page, "rtskelStats.people === 1 && rtskelStats.poses === 1")
        with RefinedSender(first.endpoint) as second:
            second.wait_for_subscriptions()
            epoch = HEARTBEAT.epoch + 1
            second.send(dataclasses.replace(HEARTBEAT, epoch=epoch), refined("cam9", epoch=epoch))
            until(page, "rtskelStats.people === 2 && rtskelStats.poses === 2")
            until(page, "document.getElementById('state').textContent === 'serving 1 stream'")
            until(page, "document.getElementById('log').textContent.includes('another server')")


def test_a_page_comes_back_after_the_view_was_restarted(chromium):
    with Site(Given(), ANY) as site:
        url = site.url
        page = chromium.new_page()
        page.goto(url)
        until(page, "document.getElementById('state').textContent === 'waiting for the server'")
    until(page, "document.getElementById('state').textContent !== 'waiting for the server'")
    port = int(url.rstrip("/").rpartition(":")[2])
    with Site(RecordingFeed([("raw.npz", [recording("one")])]), SiteConfig(port=port)):
        until(page, "rtskelStats.people === 1")
    page.close()


def test_serve_opens_a_view_beside_it_and_ends_it_too():
    ends = ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*", "--view", "127.0.0.1:0"]
    command = [sys.executable, "-P", "-m", "rtskel", "serve", "--engine", "null", *ends]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline().startswith("rtskel: raw poses at")
        url = server.stdout.readline().split()[3]
        with dial(SimpleNamespace(url=url)) as socket:
            messages = (json.loads(message) for message in socket if isinstance(message, str))
            assert next(message for message in messages if message["type"] == "beat")["lookaheads"] == [4]
        server.terminate()
        assert server.stdout.read() == "", "the pipe ends when both have ended"
        assert server.wait(TIMEOUT) == 0


def test_serve_says_what_keeps_it_from_viewing(capsys, monkeypatch):
    assert main(["serve", "--engine", "null", "--view", "nowhere"]) == 2
    assert "'nowhere': HOST:PORT expected" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("rtskel.view")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("websockets", "websockets.asyncio", "websockets.asyncio.server"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "--engine", "null", "--view"]) == 2
    assert "needs websockets, which is not installed: pip install 'rtskel[view]'" in capsys.readouterr().err


def test_serve_with_keys_says_how_to_view_it(capsys):
    assert main(["serve", "--view", "--keys", "keys/server"]) == 2
    assert "rtskel view" in capsys.readouterr().err


# --- raw poses through the server ------------------------------------------------------------------------------------


def test_a_server_passes_on_the_raw_poses_that_it_accepted_to_whom_asks():
    from tests.test_serve import PATIENCE, publisher, serving

    poses = np.arange(5 * J * 3, dtype=np.float32).reshape(5, J, 3)
    with (
        serving() as server,
        Subscriber(server.refined_endpoint, raw=True, lookahead=0) as curious,
        Subscriber(server.refined_endpoint, streams="a", raw=True) as of_one,
        Subscriber(server.refined_endpoint, lookahead=0) as other,
    ):
        for subscriber in (curious, of_one, other):
            subscriber.wait_for_server(PATIENCE)
        with (
            publisher(server) as a,
            publisher(server, "b") as b,
            GroupPublisher(server.raw_endpoint, group="studio", fps=25) as studio,
        ):
            studio.wait_for_subscriber(PATIENCE)
            for seq in range(5):
                a.send(poses[seq], seq=seq)
                b.send(poses[seq], seq=seq)
                studio.send(["c", "d"], np.stack([poses[seq], poses[seq] + 1]), seq=seq)
            a._uplink.socket.send_multipart([wire.raw_topic("a"), b"nonsense"])
        got = {}
        for name, subscriber, streams in (("all", curious, "abcd"), ("a", of_one, "a"), ("none", other, "abcd")):
            ended = set()
            got[name] = []
            while ended != set(streams):
                message = subscriber.recv(PATIENCE)
                got[name].append(message)
                if isinstance(message, wire.Event) and message.kind == "end":
                    ended.add(message.stream)
            assert subscriber.errors == 0, "what was refused is not passed on"
    raw = {name: [each for each in found if isinstance(each, wire.RawPose)] for name, found in got.items()}
    assert [(pose.stream, pose.seq) for pose in raw["all"] if pose.stream == "a"] == [("a", seq) for seq in range(5)]
    assert {pose.stream for pose in raw["all"]} == {"a", "b"}
    assert {pose.stream for pose in raw["a"]} == {"a"}
    assert raw["none"] == []
    np.testing.assert_array_equal(raw["a"][3].xyz, poses[3])
    batches = [each for each in got["all"] if isinstance(each, wire.RawBatch)]
    assert [(list(batch.streams), batch.seq) for batch in batches] == [(["c", "d"], seq) for seq in range(5)]
    assert any(isinstance(each, wire.StreamEnd) for each in got["all"])


def test_only_the_streams_that_were_chosen_are_shown_of_a_batch():
    ones = np.ones((2, J), np.float32)
    batch = wire.RawBatch("studio", ["a", "b"], 1, 0, 5, "monotonic", 25.0, body(2), ones, UPPER_BODY_50.id)
    feed = LiveFeed(SimpleNamespace(endpoint=""), ["b"])
    assert [track["stream"] for track in texts(feed._translate(batch, 6))] == ["b"]
    beat = list(feed._translate(HEARTBEAT, 6))
    assert json.loads(beat[0])["unshown"] == 0
