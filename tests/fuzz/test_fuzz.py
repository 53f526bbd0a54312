"""Mutated messages, and past ones that did harm, through all that reads them; tests/fuzz/run does it for longer."""

from __future__ import annotations

import pytest

from tests.fuzz.sessions import CORPUS, load, session
from tests.fuzz.targets import check


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.msgpack")))
def test_what_did_harm_before(name):
    check(load(CORPUS / f"{name}.msgpack"))


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_sessions_of_mutated_messages(first):
    for number in range(first, first + 10):
        check(session(f"test/{number}"), twin=number % 4 == 0)
