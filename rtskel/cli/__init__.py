"""The `rtskel` command.

In: a command line. Out: an exit status; errors are one line on stderr.
A command reads its options and calls the layer that does the work.
"""

from rtskel.cli.main import main, positive

__all__ = ["main", "positive"]
