"""What the demo measures: errors before and after, what was filled in, latencies; as JSON or tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rtskel.formats import Recording
from rtskel.formats.capture import slot_of
from rtskel.text import printable
from rtskel.tools.collect import percentiles
from rtskel.tools.demo.live import Arrival, DemoConfig, Run
from rtskel.tools.demo.truth import Truth
from rtskel.tools.replay import stated_fps, stream_ids
from rtskel.training.score import Errors, errors, joint_groups
from rtskel.wire import Flag

if TYPE_CHECKING:
    from rich.console import Console

BEFORE = "each joint where the raw stream last showed it: missing joints and dropped frames repeat the value before"

METRICS = {"mse": "MSE mm^2", "mpjpe": "MPJPE mm", "acceleration": "acceleration mm/frame^2"}


@dataclass(frozen=True)
class Row:
    """Errors before and after, in mm, of a group of joints at one lookahead."""

    lookahead: int
    joints: str
    before: Errors
    after: Errors

    @property
    def worse(self) -> list[str]:
        """Metrics on which refinement does not help."""
        return [name for name in METRICS if not getattr(self.after, name) < getattr(self.before, name)]


@dataclass(frozen=True)
class Result:
    """What the demo found. `asdict` of it, with `helps`, is what `--json` prints."""

    recording: str
    model: str
    streams: int
    frames: int
    dropped_frames: int
    missing_joints: int
    fps: float
    lookaheads: tuple[int, ...]
    rows: list[Row]
    filled: dict[int, dict[str, int]]
    latency_ms: dict[int, dict[str, dict[str, float]]]
    problems: list[str]

    @property
    def worse(self) -> list[str]:
        """What did not get better, row by row."""
        return [f"lookahead {row.lookahead}, {row.joints}: {', '.join(row.worse)}" for row in self.rows if row.worse]

    @property
    def helps(self) -> bool:
        """Every pose came exactly once and in order, and every error is smaller than before."""
        return not self.problems and not self.worse

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and words."""
        table = []
        for row in self.rows:
            entry: dict[str, Any] = {"lookahead": row.lookahead, "joints": row.joints}
            for name in METRICS:
                before, after = getattr(row.before, name), getattr(row.after, name)
                entry[name] = {"before": before, "after": after, "ratio": after / before if before else None}
            table.append(entry)
        facts = {key: value for key, value in asdict(self).items() if key != "rows"}
        return {
            **facts,
            "before": BEFORE,
            "units": METRICS,
            "errors": table,
            "exactly_once": not self.problems,
            "worse": self.worse,
            "helps": self.helps,
        }


def result_of(config: DemoConfig, truths: list[Recording], estimates: list[Recording], run: Run) -> Result:
    """What the poses that arrived say."""
    names = stream_ids(estimates)
    streams = [Truth.of(truth, estimate) for truth, estimate in zip(truths, estimates, strict=True)]
    problems = list(run.problems)
    rows: list[Row] = []
    filled: dict[int, dict[str, int]] = {}
    latencies: dict[int, dict[str, dict[str, float]]] = {}
    for lookahead in config.lookaheads:
        of_streams = [run.arrivals[number, lookahead] for number in range(len(streams))]
        for name, stream, arrivals in zip(names, streams, of_streams, strict=True):
            slots = [slot_of(arrival.pose) for arrival in arrivals]
            if slots != list(range(len(stream.xyz))):
                problems.append(f"stream {name}, lookahead {lookahead}: {_disorder(slots, len(stream.xyz))}")
        rows += _rows(lookahead, truths[0].skeleton, streams, of_streams)
        everything = [arrival for arrivals in of_streams for arrival in arrivals]
        filled[lookahead] = {
            "joints": sum(int(arrival.pose.missing.sum()) for arrival in everything),
            "frames": sum(Flag.INTERPOLATED in arrival.pose.flags for arrival in everything),
        }
        latencies[lookahead] = percentiles(arrival.spent for arrival in everything if arrival.spent is not None)
    frames = sum(len(stream.xyz) for stream in streams)
    return Result(
        recording=config.source,
        model=run.model,
        streams=len(truths),
        frames=frames,
        dropped_frames=frames - sum(estimate.frames for estimate in estimates),
        missing_joints=sum(int(estimate.missing.sum()) for estimate in estimates),
        fps=stated_fps(estimates[0], config.replay),
        lookaheads=config.lookaheads,
        rows=rows,
        filled=filled,
        latency_ms=latencies,
        problems=problems,
    )


def _rows(lookahead: int, skeleton: str, streams: list[Truth], arrivals: list[list[Arrival]]) -> list[Row]:
    """The errors at one lookahead, for each group of joints."""
    refined = []
    for stream, of_stream in zip(streams, arrivals, strict=True):
        poses = stream.raw.copy()  # remains only where no pose arrived, which is reported as a problem
        for arrival in of_stream:
            if slot_of(arrival.pose) < len(poses):
                poses[slot_of(arrival.pose)] = arrival.pose.xyz
        refined.append(poses)
    truth = [stream.in_mm(stream.xyz) for stream in streams]
    before = [stream.in_mm(stream.raw) for stream in streams]
    after = [stream.in_mm(poses) for stream, poses in zip(streams, refined, strict=True)]
    return [
        Row(lookahead, group, errors(before, truth, joints), errors(after, truth, joints))
        for group, joints in joint_groups(skeleton).items()
    ]


def _disorder(slots: list[int], expected: int) -> str:
    missing = expected - len(set(slots) & set(range(expected)))
    repeated = len(slots) - len(set(slots))
    order = "" if slots == sorted(slots) else ", out of order"
    return f"{missing} of {expected} poses are missing, {repeated} repeated{order}"


def print_result(out: Console, result: Result) -> None:
    """Print it as tables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
        for name in columns:
            made.add_column(name, justify="right")
        return made

    out.print(
        f"\n{result.frames} frames of {result.streams} stream(s), {result.fps:g} a second, "
        f"refined by {printable(result.model)}.\n"
        f"The estimator dropped {result.dropped_frames} frames and missed {result.missing_joints} joints in the others."
    )
    scores = table("Errors before and after (ratio)", "lookahead", "joints", *METRICS.values())
    for row in result.rows:
        cells: list[str | Text] = [str(row.lookahead), row.joints]
        for name in METRICS:
            before, after = getattr(row.before, name), getattr(row.after, name)
            ratio = f"{after / before:.2f}" if before else "-"
            cells.append(Text(f"{before:.1f} -> {after:.1f} ({ratio})", style="red" if name in row.worse else "green"))
        scores.add_row(*cells)
    out.print(scores)
    out.print(f"Before: {BEFORE}.\n")
    filled = table("Filled in", "lookahead", "joints", "whole frames")
    for lookahead, counts in result.filled.items():
        filled.add_row(str(lookahead), str(counts["joints"]), str(counts["frames"]))
    out.print(filled)
    names = ("total", "lookahead", "queue", "engine", "transport")
    spent = table("Latency in ms, p50 / p99, from the camera's clock to here", "lookahead ", *names)
    for lookahead, parts in result.latency_ms.items():
        spent.add_row(str(lookahead), *(f"{parts[name]['p50']:.1f} / {parts[name]['p99']:.1f}" for name in names))
    out.print(spent)
    if result.helps:
        out.print("Every pose came exactly once and in order, and refinement helped on every row.")
    for problem in [*result.problems, *(f"no help: {row}" for row in result.worse)]:
        out.print(printable(problem), style="red")
