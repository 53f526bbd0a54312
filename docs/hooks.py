"""Runs when the site is built: draws the picture of error against delay from the accuracy bench's own results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- chart: error by lookahead -->"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 60, 44, 30


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the chart where a page asks for it."""
    return markdown.replace(MARK, chart(errors())) if MARK in markdown else markdown


def errors() -> list[tuple[str, float]]:
    """Lookahead, and the error that is left there in percent of that without lookahead.

    Errors are geometric means of the mean squared error over the protocol's ten conditions
    (bench/results/accuracy.json).
    """
    by_condition = json.loads((ROOT / "bench/results/accuracy.json").read_text())["by_lookahead"]["mse"]
    # Those of the protocol: nothing is to be refined in `clean`, and `estimator` is of other data.
    conditions = [errors for name, errors in by_condition.items() if name not in ("clean", "estimator")]
    names = list(conditions[0]["2"])
    means = [math.exp(sum(math.log(each["2"][name]) for each in conditions) / len(conditions)) for name in names]
    return [(name, 100 * mean / means[0]) for name, mean in zip(names, means, strict=True)]


def chart(points: list[tuple[str, float]]) -> str:
    """An SVG with a line through the points, in the colours of the page."""
    step = (WIDTH - LEFT - 30) / (len(points) - 1)

    def y(percent: float) -> float:
        return TOP + (100 - percent) / 100 * (HEIGHT - TOP - BOTTOM)

    def text(x: float, at: float, words: str, anchor: str = "middle") -> str:
        return (
            f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="{anchor}" font-size="12" fill="currentColor">{words}</text>'
        )

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Error by lookahead">']
    for percent in range(0, 101, 25):
        at = y(percent)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}" stroke="currentColor" opacity="0.15"/>'
        )
        parts.append(text(LEFT - 8, at + 4, f"{percent}%", "end"))
    places = [(LEFT + 10 + number * step, y(percent)) for number, (_, percent) in enumerate(points)]
    line = " ".join(f"{x:.1f},{at:.1f}" for x, at in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2f54d0" stroke-width="2.5"/>')
    for (x, at), (name, percent) in zip(places, points, strict=True):
        label = name if name == "offline" else f"{name} ({1000 * int(name) / 25:.0f} ms)"
        parts.append(f'<circle cx="{x:.1f}" cy="{at:.1f}" r="4" fill="#2f54d0"/>')
        parts += [text(x, at - 10, f"{percent:.0f}%"), text(x, HEIGHT - 22, label)]
    parts.append(text(WIDTH / 2, HEIGHT - 4, "lookahead in frames (delay at 25 frames a second)") + "</svg>")
    return "".join(parts)
