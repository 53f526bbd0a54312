"""`python -m rtskel.cli`."""

import sys

from rtskel.cli import main

sys.exit(main())
