"""What a recorded session publishes stays as it is, byte for byte; a change of behaviour shows here as a new golden."""

from __future__ import annotations

import json

import pytest

from tests.recorded import session


@pytest.mark.parametrize("name", session.NAMES)
def test_a_recorded_session_gives_the_same_messages(name):
    golden = json.loads(session.GOLDEN.read_text())[name]
    found = session.fingerprints(list(session.play(name)), exact=name in session.EXACT)
    assert found.keys() == golden.keys()
    assert {topic: found[topic] for topic in golden if found[topic] != golden[topic]} == {}
