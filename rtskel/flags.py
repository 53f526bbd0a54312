"""Flags on refined poses."""

from enum import IntFlag


class Flag(IntFlag):
    """Facts about a refined pose that its numbers do not show."""

    WARM_UP = 1
    """The window reaches back before the stream's first frame and is padded with copies of it."""
    INTERPOLATED = 2
    """No frame came for this slot; every joint is filled in."""
    PARTIAL_AVERAGE = 4
    """Fewer windows were averaged than lookahead and radius provide."""
    PASSTHROUGH = 8
    """The pose is the raw one, not refined."""
    GAP_BEFORE = 16
    """The first pose after a gap that was too long to fill."""
    RESET = 32
    """The first pose after the stream was restarted; it is not continuous with earlier poses."""
    FLUSHED = 64
    """The stream ended within the lookahead; the window is padded with copies of its last frame."""
    HELD = 128
    """Nobody is seen: the last known pose, held in its place."""
    UNSEEN = 256
    """Nobody has been seen for long, or at all: there are no coordinates, and `xyz` means nothing."""
