"""What several shards tell their operators, at one address: each one's figures, with the label `shard`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from rtskel.serve.metrics import Pages
from rtskel.serve.shards import Shards

PATIENCE_S = 1.0
"""How long a shard may take to tell its figures."""


class ShardMetrics(Pages):
    """`/metrics` asks every shard; `/healthz` is of the parent, which takes care of the shards'; `/readyz` is of all.

    Args:
        shards: to watch.
        host, port: as in `Pages`.
    """

    def __init__(self, shards: Shards, host: str, port: int) -> None:
        super().__init__(shards, [_Figures(shards)], host, port)


class _Figures(Collector):
    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is, the shards say."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("rtskel_shard_up", "1 if the shard tells its figures.", labels=["shard"])
        restarts = CounterMetricFamily(
            "rtskel_shard_restarts", "How often the shard was started again.", labels=["shard"]
        )
        found: dict[str, Metric] = {}
        for which, (url, started_again) in enumerate(self._shards.figures()):
            text = _asked(url)
            up.add_metric([str(which)], int(bool(text)))
            restarts.add_metric([str(which)], started_again)
            for family in text_string_to_metric_families(text):
                together = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                together.samples += [
                    sample._replace(labels={**sample.labels, "shard": str(which)}) for sample in family.samples
                ]
        yield up
        yield restarts
        yield from found.values()


def _asked(url: str) -> str:
    """A shard's figures; "" if it does not answer."""
    if not url:
        return ""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
