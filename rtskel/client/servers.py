"""Which servers an endpoint stands for: one, several with commas between them, or those in a file."""

from __future__ import annotations

from rtskel.errors import WireError

FILE = "file:"
"""How an endpoint begins that is the path of a list of servers."""

RAW, REFINED = 0, 1
"""Columns of such a list."""


def servers(endpoint: str, column: int) -> tuple[str, ...]:
    """The endpoints of the servers.

    A list has a line for each server: where it takes raw poses, and where it publishes refined ones. What follows a #
    is left out. It is read once: clients that run go on with the list as it was.

    Args:
        endpoint: "tcp://a:5555", "tcp://a:5555,tcp://b:5555" or "file:servers.txt".
        column: of the list: RAW or REFINED.

    Raises:
        WireError: the file cannot be read, holds something else, or no server; or one is named twice.
    """
    listed = endpoint.startswith(FILE)
    found = _listed(endpoint.removeprefix(FILE), column) if listed else tuple(endpoint.split(","))
    if len(set(found)) < len(found):
        raise WireError(f"{endpoint}: a server is named twice")
    return found


def _listed(path: str, column: int) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except (OSError, ValueError) as error:
        raise WireError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    rows = [words for words in lines if words]
    for words in rows:
        if len(words) != 2 or not all("://" in word for word in words):
            raise WireError(f"{path}: {' '.join(words)[:80]!r}: the raw and the refined endpoint of a server expected")
    if not rows:
        raise WireError(f"{path}: no server in this list")
    return tuple(words[column] for words in rows)
