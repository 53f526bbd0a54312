"""`python -m rtskel`: the same as the `rtskel` command."""

import sys

from rtskel.cli import main

sys.exit(main())
