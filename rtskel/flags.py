"""Flags on refined poses."""

from enum import IntFlag


class Flag(IntFlag):
    """What a consumer should know about a refined pose beside its numbers."""

    WARM_UP = 1
    """The window reaches back beyond the stream's first frame, copies of which fill it."""
    INTERPOLATED = 2
    """No frame came for this slot: every joint is filled in."""
    PARTIAL_AVERAGE = 4
    """Fewer windows were averaged than lookahead and radius provide."""
    PASSTHROUGH = 8
    """The pose was not refined: it is the raw one."""
    GAP_BEFORE = 16
    """The first pose behind a gap that was too long to fill."""
    RESET = 32
    """The first pose of a stream that starts afresh: nothing before it is continuous with it."""
    FLUSHED = 64
    """The stream ended before the lookahead did: copies of its last frame fill the window."""
    HELD = 128
    """Nobody is seen: the last known pose, held in its place."""
    UNSEEN = 256
    """Nobody has been seen for long, or at all: there are no coordinates, and `xyz` means nothing."""
