"""The `rtskel` command: `main` dispatches, and each subcommand is a module of its own.

In: a command line. Out: an exit status; an error is one line on stderr.
A command reads its options and calls the layer that does the work; nothing else is in here.
"""

from rtskel.cli.main import main
from rtskel.cli.options import positive

__all__ = ["main", "positive"]
