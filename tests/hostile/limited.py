"""Cases of hostile files, each in a process of its own with a limit of memory and of time:

    python tests/hostile/limited.py     reads cases from stdin, one JSON array [what, path, options] a line

and says for each, as one JSON object a line, how it ended: {"ok": ..., "said": ..., "seconds": ..., "MiB": ...}. The
library is imported once; each case runs in a fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from typing import Any

MEMORY = 1 << 30  # bytes beyond what the library itself takes
SECONDS = 20


def run(what: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    """One case, in this process."""
    from rtskel import formats
    from rtskel.engine import open_engine
    from rtskel.errors import RtskelError

    began = time.monotonic()
    try:
        if what == "read":
            formats.read(path, **options)
        else:
            open_engine(path, **options)
        said, ok = "", True
    except RtskelError as error:
        said = f"{type(error).__name__}: {error}"
        ok = len(said) < 600 and "Traceback" not in said
    except BaseException as error:
        said, ok = f"{type(error).__module__}.{type(error).__name__}: {error}", False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"ok": ok, "said": said[:300], "seconds": round(time.monotonic() - began, 1), "MiB": peak}


def limited(*case: Any) -> dict[str, Any]:
    """One case, in a fork."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there)
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        signal.alarm(SECONDS)
        try:
            os.write(here, json.dumps(run(*case)).encode())
        finally:
            os._exit(0)
    os.close(here)
    with os.fdopen(there) as answers:
        said = answers.read()
    _, status = os.waitpid(child, 0)
    if not said:
        return {"ok": False, "said": f"the process ended with status {status}: no answer in {SECONDS} s, or a crash"}
    answer: dict[str, Any] = json.loads(said)
    return answer


def main() -> None:
    import rtskel.formats

    assert rtskel.formats
    for line in sys.stdin:
        print(json.dumps(limited(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
