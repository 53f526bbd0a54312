"""Beam search with a length penalty (Wu et al., Google's neural machine translation system, 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rtskel.translate.text import BEGIN, END, PAD


def penalty(length: int, alpha: float) -> float:
    """((5 + n) / 6)^alpha for n tokens, the end included: log-probabilities are divided by it."""
    return float(((5.0 + length) / 6.0) ** alpha)


def beam_search(
    step: Callable[[Tensor], Tensor], batch: int, *, beam: int, alpha: float, longest: int
) -> tuple[list[list[int]], list[float]]:
    """For each of a batch, the text with the best penalised log-probability that the search finds.

    The best 2 `beam` continuations are looked at: those among the first `beam` that end are finished texts, the best
    `beam` that do not end are continued. It goes on until no text that is continued can become the best, so that a beam
    wide enough for all texts finds the best of all; a beam of 1 with alpha 0 is greedy search. A text that has not
    ended after `longest` tokens counts only if none has.

    Args:
        step: tokens [batch beam, T] (the first is BEGIN), `beam` rows after one another for each of the batch ->
            log-probabilities [batch beam, words] of the next token.
        alpha: 0: log-probabilities themselves; larger: longer texts.

    Returns:
        Tokens without BEGIN and END, and their penalised log-probabilities.
    """
    tokens = torch.full((batch, beam, 1), BEGIN)
    score = torch.full((batch, beam), -math.inf, dtype=torch.float64)
    score[:, 0] = 0.0
    best: list[tuple[float, list[int]]] = [(-math.inf, [])] * batch
    for length in range(1, longest + 1):
        following = step(tokens.flatten(0, 1)).cpu().double().view(batch, beam, -1)
        following[..., [PAD, BEGIN]] = -math.inf
        words = following.shape[-1]
        value, index = (score[..., None] + following).flatten(1).topk(2 * beam, -1)
        source, word = index // words, index % words
        ends = word.eq(END)
        finished = ends & (value > -math.inf) & (torch.arange(2 * beam) < beam)
        for row, rank in torch.nonzero(finished).tolist():
            total = float(value[row, rank]) / penalty(length, alpha)
            if total > best[row][0]:
                best[row] = total, tokens[row, source[row, rank], 1:].tolist()
        score, kept = value.masked_fill(ends, -math.inf).topk(beam, -1)
        source, word = source.gather(1, kept), word.gather(1, kept)
        tokens = torch.cat([tokens.gather(1, source[..., None].expand(-1, -1, length)), word[..., None]], -1)
        # Log-probabilities only fall, and no penalty is larger than the longest text's.
        reach = (score[:, 0] / penalty(longest if alpha > 0 else length + 1, alpha)).tolist()
        if all(most <= found for most, (found, _) in zip(reach, best, strict=True)):
            break
    for row, (found, _) in enumerate(best):
        if found == -math.inf:  # nothing has ended
            best[row] = float(score[row, 0]) / penalty(longest, alpha), tokens[row, 0, 1:].tolist()
    return [text for _, text in best], [found for found, _ in best]
