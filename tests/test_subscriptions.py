"""Subscriptions as an XPUB socket tells them, counted by reader; connections by descriptor; offences by publisher."""

from __future__ import annotations

import socket
import time

import pytest
import zmq

from rtskel.serve.connections import Connections, hang_up
from rtskel.serve.reports import MAX_NAMED, NAMED_FOR, SECOND, UNKNOWN, Reports
from rtskel.serve.sockets import MAX_TOPIC
from rtskel.serve.subscriptions import DOUBT_NS, MAX_BURST, MAX_TOPICS, NOBODY, RATE, Subscriptions
from tests.sockets import ANY_PORT, TIMEOUT


def told(*messages: tuple[bytes, int]) -> Subscriptions:
    subscriptions = Subscriptions()
    for message, reader in messages:
        assert not subscriptions.take(message, reader)
    return subscriptions


# --- who wants what ---


def test_prefixes_are_wanted():
    subscriptions = told((b"\1rts1/refined/a/", 1), (b"\1rts1/event/", 2))
    assert subscriptions.want(b"rts1/refined/a/L4/")
    assert not subscriptions.want(b"rts1/refined/b/L4/")
    assert subscriptions.want_some(b"rts1/refined/")
    assert not subscriptions.want_some(b"rts1/heartbeat/")


def test_the_empty_prefix_is_everything():
    assert told((b"\1", 1)).want(b"rts1/heartbeat/")


@pytest.mark.parametrize("times", [1, 3])
def test_a_reader_ends_only_what_it_began(times):
    subscriptions = told((b"\1x", 1), *[(b"\0x", 2)] * times)
    assert subscriptions.want(b"x/y")
    subscriptions.take(b"\0x", 1)
    assert not subscriptions.want(b"x/y")
    assert subscriptions.changed


def test_twice_is_once():
    subscriptions = told((b"\1x", 1), (b"\1x", 1), (b"\1x", 2), (b"\0x", 1))
    assert subscriptions.want(b"x")
    subscriptions.take(b"\0x", 2)
    assert not subscriptions.want(b"x")


def test_what_zeromq_says_of_itself_holds_for_all():
    """The last one that held a topic is gone: others that left before it were not told of."""
    subscriptions = told((b"\1x", 1), (b"\1x", 2), (b"\1y", 2), (b"\0x", -1))
    assert not subscriptions.want(b"x")
    assert subscriptions.want(b"y")


def test_a_reader_that_left_is_forgotten_and_its_number_is_another():
    subscriptions = told((b"\1x", 1), (b"\1y", 1), (b"\1y", 2))
    subscriptions.forget(1)
    assert not subscriptions.want(b"x")
    assert subscriptions.want(b"y")
    subscriptions.forget(1)
    subscriptions.take(b"\1x", 1)
    assert subscriptions.want(b"x")


def test_nothing_changes_with_what_is_no_subscription():
    subscriptions = told((b"\1x", 1))
    subscriptions.changed = False
    for message in (b"", b"\2x", b"x", b"\1x"):
        assert not subscriptions.take(message, 1)
    assert not subscriptions.changed


def test_what_a_reader_may_ask_for():
    subscriptions = Subscriptions()
    assert not subscriptions.take(b"\1" + bytes(MAX_TOPIC), 1)
    assert "more than any topic" in subscriptions.take(b"\1" + bytes(MAX_TOPIC + 1), 1)
    answers = [subscriptions.take(b"\1%d" % k, 2) for k in range(MAX_TOPICS + 1)]
    assert not any(answers[:-1])
    assert f"more than {MAX_TOPICS}" in answers[-1]
    assert not subscriptions.want(b"1")
    assert not subscriptions.take(b"\1" + bytes(MAX_TOPIC + 1), 2), "it is being cut off already"
    subscriptions.forget(2)
    assert not subscriptions.take(b"\1" + bytes(MAX_TOPIC + 1), 2, fresh=True), "it may be its predecessor's"
    assert "more than any topic" in subscriptions.take(b"\1" + bytes(MAX_TOPIC + 1), 2)
    assert not subscriptions.take(b"\1x", 3)


def test_who_sent_too_long_a_topic_is_known_in_the_end():
    """A number that was another reader's before: ZeroMQ takes back what its predecessor had said, and nothing else."""
    long, subscriptions = bytes(MAX_TOPIC + 1), Subscriptions()
    for reader, topic in ((1, long + b"1"), (2, long + b"2"), (3, long + b"3")):
        assert not subscriptions.take(b"\1" + topic, reader, now=0, fresh=True)
    assert not subscriptions.take(b"\0" + long + b"1", NOBODY, now=0)
    subscriptions.forget(3)
    assert [*subscriptions.overdue(DOUBT_NS)] == []
    ((reader, why),) = subscriptions.overdue(DOUBT_NS + 1)
    assert reader == 2
    assert "more than any topic" in why
    assert not subscriptions.take(b"\1x", 2), "it is being cut off already"
    assert [*subscriptions.overdue(9 * DOUBT_NS)] == []


def test_how_often_a_reader_may_ask():
    subscriptions = Subscriptions()
    answers = [subscriptions.take(b"\1x" if k % 2 else b"\0x", 1, now=0) for k in range(MAX_BURST + 1)]
    assert not any(answers[:-1])
    assert "a second" in answers[-1]
    slowly = [subscriptions.take(b"\1x", 2, now=k * SECOND // RATE) for k in range(3 * MAX_BURST)]
    assert not any(slowly)
    subscriptions.forget(1)
    assert not subscriptions.take(b"\1x", 1)


# --- connections ---


def test_connections_are_told_in_order_and_can_be_ended(monkeypatch):
    from contextlib import ExitStack

    with ExitStack() as stack:
        context = zmq.Context()
        stack.callback(context.term)
        server = context.socket(zmq.SUB)
        stack.callback(server.close, 0)
        connections = Connections(stack, context, server, "test")
        server.bind(ANY_PORT)
        host, port = server.last_endpoint.rstrip(b"\0").decode().removeprefix("tcp://").split(":")

        def until(done):
            give_up = time.monotonic() + TIMEOUT
            seen = []
            while not done():
                seen += list(connections.changed())
                assert time.monotonic() < give_up
                server.poll(10)
            return seen

        with socket.create_connection((host, int(port))) as peer:
            ((descriptor, came),) = until(lambda: connections.open)
            assert came
            peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03")
            hang_up(descriptor)
            assert until(lambda: not connections.open) == [(descriptor, False)]
        hang_up(descriptor)  # it is gone: nothing happens


# --- offences ---


def test_many_names_of_one_publisher_are_told_together():
    reports = Reports(1)
    reports.source = 5
    for k in range(300):
        reports.offend(f"n{k}", "late", f"frame of n{k}", now=k)
    events = reports.take()
    assert [event.stream for event in events[:-1]] == [f"n{k}" for k in range(MAX_NAMED)]
    assert events[-1].stream == ""
    reports.tell(2 * SECOND)
    (rest,) = reports.take()
    assert (rest.stream, rest.counts) == ("", {"late": 300 - MAX_NAMED})
    assert "and 282 more" in rest.detail
    assert reports.counts == {"late": 300}


def test_another_publisher_is_told_of_by_name():
    reports = Reports(1)
    for source in (5, 6):
        reports.source = source
        for k in range(100):
            reports.offend(f"{source}-{k}", "late", "", now=0)
    assert sum(event.stream.startswith("6-") for event in reports.take()) == MAX_NAMED


def test_a_name_has_its_turn_when_others_are_silent():
    reports = Reports(1)
    reports.source = 5
    for k in range(MAX_NAMED):
        reports.offend(f"n{k}", "late", "", now=0)
    reports.take()
    reports.offend("new", "late", "", now=NAMED_FOR)
    assert [event.stream for event in reports.take()] == ["new"]


def test_without_a_publisher_each_name_is_one():
    reports = Reports(1)
    assert reports.source == UNKNOWN
    for k in range(100):
        reports.offend(f"n{k}", "late", "", now=0)
    assert len(reports.take()) == 100
