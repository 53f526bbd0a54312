"""Evaluating a translator on a split, with its poses prepared in one or several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rtskel.translate.data import Sentence
from rtskel.translate.inputs import Inputs
from rtskel.translate.metrics import Scores, compare, score, signatures
from rtskel.translate.translator import Translator


@dataclass(frozen=True)
class Result:
    """Translations of a split from poses prepared in one way, and their scores.

    Attributes:
        p: that BLEU-4 differs from the first result's by chance (paired bootstrap); None: it is the first.
    """

    inputs: Inputs
    translations: tuple[str, ...]
    scores: Scores
    p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, without the translations."""
        return {"inputs": self.inputs.to_dict(), "p": self.p, **asdict(self.scores)}


def evaluate(
    translator: Translator,
    sentences: Sequence[Sentence],
    inputs: Sequence[Inputs],
    progress: Callable[[str, int], None] | None = None,
    threads: int | None = None,
) -> list[Result]:
    """Scores of the sentences for each way to prepare their poses; p-values are against the first.

    Args:
        progress: called with what is done and the number of sentences that are done.
        threads: of engines on the CPU; None: their default.

    Raises:
        RtskelError: recordings of another skeleton, an engine that cannot be opened.
    """
    tell = progress or (lambda what, done: None)
    texts = [sentence.text for sentence in sentences]
    glosses = [sentence.gloss or "" for sentence in sentences]
    results = []
    for chosen in inputs:
        frames = chosen.prepare(
            [sentence.poses for sentence in sentences],
            translator.network.config.skeleton,
            lambda done, chosen=chosen: tell(f"poses: {chosen}", done),  # type: ignore[misc]
            threads,
        )
        said = translator.translate(frames, progress=lambda done: tell("translating", done))
        signs = (translator.recognise(frames), glosses) if translator.glosses and all(glosses) else None
        results.append(Result(chosen, tuple(said), score(said, texts, signs)))
    if len(results) > 1:
        named = {str(number): result.translations for number, result in enumerate(results)}
        found = compare(named, texts)
        results[1:] = [
            Result(r.inputs, r.translations, r.scores, found[str(number)][1]) for number, r in enumerate(results[1:], 1)
        ]
    return results


def header() -> list[str]:
    """The columns of `rows`."""
    return ["poses", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "chrF", "ROUGE-L", "WER", "p"]


def rows(results: Sequence[Result]) -> list[list[str]]:
    """A table of the results: scores, those of BLEU-4, chrF and ROUGE-L with half their 95% interval."""
    made = []
    for result in results:
        s = result.scores
        cells = [f"{s.bleu[k].score:.2f}" for k in range(3)] + [str(s.bleu[3]), str(s.chrf), str(s.rouge)]
        cells.append("-" if s.wer is None else f"{s.wer:.2f}")
        made.append([str(result.inputs), *cells, "-" if result.p is None else f"{result.p:.3f}"])
    return made


__all__ = ["Result", "evaluate", "header", "rows", "signatures"]
