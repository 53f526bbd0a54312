"""A translator: a network, its vocabularies, what is done with its input, and how it searches; one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rtskel.errors import RtskelError
from rtskel.skeleton import skeleton
from rtskel.training.checkpoint import read_tensors, write_tensors
from rtskel.translate.inputs import Frames, Inputs
from rtskel.translate.network import TranslationNetwork, TranslatorConfig
from rtskel.translate.search import beam_search
from rtskel.translate.text import PAD, Vocabulary

BATCH = 64
"""Sentences that are translated together."""

HEADER = "rtskel.translator"


@dataclass(frozen=True)
class Search:
    """How the best translation is searched for; see `beam_search`."""

    beam: int = 1
    alpha: float = 0.0


@dataclass(frozen=True, eq=False)
class Translator:
    """Translates prepared sentences into text.

    Attributes:
        words, glosses: vocabularies; `glosses` is None without CTC.
        inputs: what was done with the poses that it has learned from.
        search: chosen on dev.
    """

    network: TranslationNetwork
    words: Vocabulary
    glosses: Vocabulary | None
    inputs: Inputs
    search: Search = Search()

    def translate(
        self, frames: Sequence[Frames], search: Search | None = None, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """A text for each sentence, in any order of lengths. `progress` gets the number that are done."""
        search, done = search or self.search, 0
        texts: list[str] = [""] * len(frames)
        with torch.inference_mode():
            for rows, h, hidden in self._encoded(frames):

                def step(tokens: Tensor, h: Tensor = h, hidden: Tensor = hidden) -> Tensor:
                    return self.network.decode(h, hidden, tokens.to(h.device))[:, -1]

                found, _ = beam_search(
                    step, len(rows), beam=search.beam, alpha=search.alpha, longest=self.network.config.longest
                )
                for row, text in zip(rows, found, strict=True):
                    texts[row] = self.words.decode(text)
                done += len(rows)
                if progress is not None:
                    progress(done)
        return texts

    def recognise(self, frames: Sequence[Frames]) -> list[str]:
        """The glosses of each sentence: of every frame the likeliest, repeated ones and blanks left out.

        Raises:
            RtskelError: a translator that has learned no glosses.
        """
        if self.glosses is None:
            raise RtskelError("this translator has learned no glosses")
        texts: list[str] = [""] * len(frames)
        with torch.inference_mode():
            for rows, h, hidden in self._encoded(frames):
                best = self.network.glosses(h).argmax(-1).masked_fill(hidden, PAD)
                for row, numbers in zip(rows, best.cpu(), strict=True):
                    texts[row] = self.glosses.decode(torch.unique_consecutive(numbers).tolist())
        return texts

    def _encoded(self, frames: Sequence[Frames]) -> list[tuple[list[int], Tensor, Tensor]]:
        """Batches of sentences of about one length: their numbers, encoded frames and padding."""
        network = self.network.eval()
        tree = skeleton(network.config.skeleton)
        order = sorted(range(len(frames)), key=lambda row: len(frames[row].xyz))
        batches = []
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            x, hidden = network.tokens(
                *zip(*(frames[row].features(tree, network.config.bones) for row in rows), strict=True)
            )
            batches.append((rows, network.encode(x, hidden), hidden))
        return batches

    def with_search(self, search: Search) -> Translator:
        """The same translator, searching otherwise."""
        return replace(self, search=search)

    def save(self, path: str | Path) -> None:
        """Writes the translator into one file (.safetensors), complete or not at all."""
        path = Path(path)
        about = {
            "config": self.network.config.to_dict(),
            "words": self.words.words,
            "glosses": None if self.glosses is None else self.glosses.words,
            "inputs": self.inputs.to_dict(),
            "search": vars(self.search),
        }
        write_tensors(path, self.network.state_dict(), {HEADER: json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Reads what `save` wrote.

        Raises:
            RtskelError: no such file, or not a translator.
        """
        tensors, header = read_tensors(path, HEADER, "translator")
        try:
            about = json.loads(header[HEADER])
            words = Vocabulary(tuple(about["words"]))
            glosses = None if about["glosses"] is None else Vocabulary(tuple(about["glosses"]))
            config = TranslatorConfig.from_dict(about["config"])
            network = TranslationNetwork(config, len(words), len(glosses) if glosses else 0)
            network.load_state_dict(tensors)
            inputs, search = Inputs.from_dict(about["inputs"]), Search(**about["search"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RtskelError(f"{path}: not a translator ({' '.join(str(error).split())[:200]})") from None
        return cls(network.eval(), words, glosses, inputs, search)
