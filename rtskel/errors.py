"""Errors that a user of rtskel can cause. Each message is one line and names the offender.

The command line prints the message and exits with 2. Any other exception that escapes is a bug in rtskel.
"""


class RtskelError(Exception):
    """Base class of every error that rtskel raises on purpose."""


class FormatError(RtskelError):
    """A recording cannot be read or written: unknown format, truncated file, wrong joint count."""


class EngineError(RtskelError):
    """An engine cannot be opened, built or run: foreign file, mismatch, no GPU, no driver."""


class WireError(RtskelError):
    """Bytes that are not a valid rtskel message, or an object that cannot become one.

    Attributes:
        kind: what is wrong, for counting: "malformed", "oversize", or "version" for another version of the format.
    """

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


class ServeError(RtskelError):
    """A server cannot start or continue: port in use, unsafe bind address, bad configuration."""
