"""How well translations agree with reference texts, on a scale of 0 to 100.

BLEU and chrF are sacrebleu's (`signature` says how they were computed, as publications should). Texts are taken as they
are: BLEU without smoothing and without a tokeniser equals the field's older code. ROUGE-L is that of this field's code:
the mean over sentences of an F score with beta 1.2, which the package `rouge-score` does not compute.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

SAMPLES = 1000
"""Bootstrap samples of a test set."""

SEED = 12345
"""Of the bootstrap; sacrebleu's."""

BETA = 1.2
"""How much more recall counts than precision in ROUGE-L."""


class Interval(NamedTuple):
    """A score and half the width of its 95% interval."""

    score: float
    margin: float

    def __str__(self) -> str:
        return f"{self.score:.2f} +- {self.margin:.2f}"


@dataclass(frozen=True)
class Scores:
    """Scores of a set of translations.

    Attributes:
        bleu: BLEU-1 to BLEU-4, each with a 95% interval over sentences (bootstrap).
        chrf, rouge: the same.
        wer: word error rate in percent of the glosses, or None.
        sentences: how many were scored.
    """

    bleu: tuple[Interval, Interval, Interval, Interval]
    chrf: Interval
    rouge: Interval
    wer: float | None
    sentences: int

    @property
    def bleu4(self) -> float:
        """BLEU-4."""
        return self.bleu[3].score


def bleu_metric(order: int = 4) -> BLEU:
    """BLEU of that order, as the field computes it."""
    return BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)


def bleu(translations: Sequence[str], references: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU of that order."""
    return float(bleu_metric(order).corpus_score(list(translations), [list(references)]).score)


def rouge_l(translation: str, reference: str) -> float:
    """ROUGE-L of a sentence, 0..100: (1 + b^2) P R / (R + b^2 P) of the longest common subsequence of words."""
    said, wanted = translation.split(), reference.split()
    common = _common(said, wanted)
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 100.0 * (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for k, other in enumerate(b, 1):
            diagonal, row[k] = row[k], diagonal + 1 if word == other else max(row[k], row[k - 1])
    return row[-1]


def edits(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Words to exchange, insert or delete between two texts, at least."""
    row = list(range(len(wanted) + 1))
    for n, word in enumerate(said, 1):
        diagonal, row[0] = row[0], n
        for k, other in enumerate(wanted, 1):
            diagonal, row[k] = row[k], min(row[k] + 1, row[k - 1] + 1, diagonal + (word != other))
    return row[-1]


def word_error_rate(texts: Sequence[str], references: Sequence[str]) -> float:
    """Edits in percent of the references' words."""
    words = sum(len(text.split()) for text in references)
    wrong = sum(edits(a.split(), b.split()) for a, b in zip(texts, references, strict=True))
    return 100.0 * wrong / max(words, 1)


def score(
    translations: Sequence[str],
    references: Sequence[str],
    glosses: tuple[Sequence[str], Sequence[str]] | None = None,
    samples: int = SAMPLES,
) -> Scores:
    """Scores of translations, with intervals from so many bootstrap samples.

    Args:
        glosses: recognised and true ones.
    """

    def interval(metric: Metric) -> Interval:
        found = metric.corpus_score(list(translations), [list(references)], n_bootstrap=samples)
        return Interval(float(found.score), float(found._ci))

    with _seeded():
        orders = [interval(bleu_metric(order)) for order in range(1, 5)]
        chrf = interval(CHRF())
    rouge = np.array([rouge_l(*pair) for pair in zip(translations, references, strict=True)])
    drawn = np.random.default_rng(SEED).integers(len(rouge), size=(samples, len(rouge)))
    low, high = np.percentile(rouge[drawn].mean(1), [2.5, 97.5])
    return Scores(
        bleu=(orders[0], orders[1], orders[2], orders[3]),
        chrf=chrf,
        rouge=Interval(float(rouge.mean()), float(high - low) / 2),
        wer=None if glosses is None else word_error_rate(*glosses),
        sentences=len(references),
    )


def signatures() -> dict[str, str]:
    """How sacrebleu computed its scores, by name."""
    made: dict[str, str] = {}
    metrics: dict[str, Metric] = {"BLEU-4": bleu_metric(), "chrF": CHRF()}
    for name, metric in metrics.items():
        metric.corpus_score(["a"], [["a"]])
        made[name] = str(metric.get_signature())
    return made


def compare(
    systems: Mapping[str, Sequence[str]], references: Sequence[str], samples: int = SAMPLES
) -> dict[str, tuple[float, float]]:
    """BLEU-4 of each system after the first, and the p-value that it differs from the first's (paired bootstrap).

    Where both reach the same it is 1, where sacrebleu's count of samples says almost 0.
    """
    named: list[tuple[str, Sequence[str]]] = [(name, list(said)) for name, said in systems.items()]
    with _seeded():
        test = PairedTest(named, {"BLEU": bleu_metric()}, [list(references)], test_type="bs", n_samples=samples)
        _, results = test()
    first, *rows = [row for row in results["BLEU"] if isinstance(row, Result)]
    p = [1.0 if row.score == first.score else float(row.p_value or 0.0) for row in rows]
    return {name: (row.score, of) for (name, _), row, of in zip(named[1:], rows, p, strict=True)}


class _seeded:
    """sacrebleu takes the seed of its bootstrap from the environment."""

    def __enter__(self) -> None:
        self._before = os.environ.get("SACREBLEU_SEED")
        os.environ["SACREBLEU_SEED"] = str(SEED)

    def __exit__(self, *error: object) -> None:
        if self._before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = self._before
