"""Mutated messages through everything that reads them, for so many seconds:

    tests/fuzz/run 150                        with AddressSanitizer and UndefinedBehaviorSanitizer
    python tests/fuzz/fuzz.py --seconds 30    on what is installed
    python tests/fuzz/fuzz.py --only 4711     one session again

The sessions are those of the seed, one after the other, so a run of another length sees the same ones. What fails is
made smaller, kept in the folder `--keep` (a file to put into tests/fuzz/corpus), and named; then the exit status is 1.
Where the process dies, the file `--progress` holds the number of the session, for `--only`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
sys.path[:] = [*sys.path[1:], ROOT]  # the installed rtskel, not the checkout's

from tests.fuzz.sessions import CORPUS, Session, load, save, session  # noqa: E402
from tests.fuzz.targets import check  # noqa: E402


class Hang(Exception):
    """A session took longer than any should."""


def failure(turns: Session, patience: int, twin: bool = True) -> str:
    """What is wrong, as one line that is the same for one defect; empty if nothing is."""

    def give_up(number: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(patience)
    try:
        check(turns, twin=twin)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}, {place.name}: {str(error).splitlines()[:1]}"[
            :400
        ]
    finally:
        signal.alarm(0)
    return ""


def smaller(turns: Session, what: str, patience: int, seconds: float = 20.0) -> Session:
    """As few turns and messages as still fail the same way."""
    until = time.monotonic() + seconds
    kind = what.split(":")[0]

    def fails(candidate: Session) -> bool:
        return time.monotonic() < until and failure(candidate, patience).split(":")[0] == kind

    step = max(1, len(turns) // 2)
    while step:
        for at in range(len(turns) - step, -1, -step):
            candidate = turns[:at] + turns[at + step :]
            if fails(candidate):
                turns = candidate
        step //= 2
    for k in range(len(turns)):
        for m in range(len(turns[k][1]) - 1, -1, -1):
            candidate = [*turns[:k], (turns[k][0], turns[k][1][:m] + turns[k][1][m + 1 :]), *turns[k + 1 :]]
            if fails(candidate):
                turns = candidate
    return turns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run that session alone")
    parser.add_argument("--patience", type=int, default=60, help="seconds that one session may take")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="folder for what fails")
    parser.add_argument("--progress", type=Path, help="file for the number of the session at work")
    parser.add_argument("--sanitized", action="store_true", help="fail if the native module is not")
    args = parser.parse_args()
    if args.sanitized:
        import rtskel._native as native

        assert native.__file__ is not None
        if b"__asan_init" not in Path(native.__file__).read_bytes():
            sys.exit(f"{native.__file__} is built without sanitizers")

    found: Counter[str] = Counter()
    began, done = time.monotonic(), 0
    sources = [(path.name, load(path)) for path in sorted(CORPUS.glob("*.msgpack"))] if args.only is None else []
    number = 0 if args.only is None else args.only
    while time.monotonic() - began < args.seconds or sources:
        name, turns = sources.pop(0) if sources else (str(number), session(f"{args.seed}/{number}"))
        if args.progress is not None:
            args.progress.write_text(f"{name}\n")
        if what := failure(turns, args.patience, twin=args.only is not None or not name.isdigit() or number % 4 == 0):
            if what not in found:
                args.keep.mkdir(exist_ok=True)
                path = args.keep / f"{name.removesuffix('.msgpack')}.msgpack"
                save(path, smaller(turns, what, args.patience))
                print(f"session {name}: {what}; kept as {path}", flush=True)
            found[what] += 1
        number += name.isdigit()
        done += 1
        if args.only is not None:
            break
    print(f"{done} sessions in {time.monotonic() - began:.0f} s, seed {args.seed}: {sum(found.values())} failed")
    for what, count in found.most_common():
        print(f"  {count} times {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
