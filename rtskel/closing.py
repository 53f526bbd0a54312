"""What is held until it is closed."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that calls `close` at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what is held."""
        raise NotImplementedError
