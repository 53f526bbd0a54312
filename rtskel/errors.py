"""The errors a user of rtskel can cause. Each message is one line and names the offender.

The command line prints such a message and exits with 2; anything else that escapes is a bug of ours.
"""


class RtskelError(Exception):
    """Base class of every error that rtskel raises on purpose."""


class FormatError(RtskelError):
    """A recording that cannot be read or written: unknown format, truncated file, wrong joint count."""


class EngineError(RtskelError):
    """An engine that cannot be opened, built or run: foreign file, mismatch, no GPU, no driver."""


class WireError(RtskelError):
    """Bytes that are not a valid rtskel message, or an object that cannot become one.

    Attributes:
        kind: "version" (of the format, another one), "oversize" or "malformed".
    """

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


class ServeError(RtskelError):
    """A server that cannot start or go on: port in use, unsafe bind address, bad configuration."""
