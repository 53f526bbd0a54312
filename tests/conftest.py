"""Tests run against the installed package, and report how many checks of the law ran.

A test run in which no check of the law ran must not pass for one: `.ci/run` reads that number.
"""

import signal
import sys
from pathlib import Path

# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# First on the path, the checkout's rtskel/ would be imported, without its compiled part; `tests` is found there too.
# (--import-mode=append keeps pytest from putting it there again, which processes that tests start would inherit.)
ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [path for path in sys.path if path not in ("", ROOT)] + [ROOT]

from tests import contract  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        f"contract checks run: {sum(contract.CHECKS.values())} "
        f"({', '.join(f'{name} {count}' for name, count in sorted(contract.CHECKS.items()))})"
    )
