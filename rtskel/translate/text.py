"""Texts as numbers: a vocabulary of words, or of glosses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

PAD, BEGIN, END, UNKNOWN = range(4)
"""Numbers of what is no word: padding (for CTC: the blank), the beginning and the end of a text, an unknown word."""

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, from `len(SPECIAL)` on; tokens of a text are what is between its spaces."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], least: int = 1) -> Self:
        """The words that occur at least so often, the most frequent first, then in alphabetical order."""
        counts = Counter(word for text in texts for word in text.split())
        kept = sorted((-count, word) for word, count in counts.items() if count >= least and word not in SPECIAL)
        return cls(tuple(word for _, word in kept))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, len(SPECIAL))}

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's words, without beginning and end."""
        return [self._numbers.get(word, UNKNOWN) for word in text.split()]

    def decode(self, numbers: Sequence[int]) -> str:
        """The words before the first end, without what is no word; unknown words as `<unk>`."""
        known = (*SPECIAL, *self.words)
        kept = list(numbers)[: numbers.index(END) if END in numbers else None]
        return " ".join(known[number] for number in kept if number not in (PAD, BEGIN))
