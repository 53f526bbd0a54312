"""The translation network: an encoder of frames, a decoder of words (Camgoz et al., Sign Language Transformers, 2020).

    h_t = LayerNorm(ReLU(We x_t + be)) + p_t          frames, as equations 1 and 2 of the Skeletor paper
    h   = EncoderLayer(h)                             equations 3 to 5, n times: `rtskel.model.EncoderLayer`
    w_u = LayerNorm(E y_u) + p_u                      words so far
    a   = w + MultiHead(w, w, w)                      no word sees a later one
    b   = a + MultiHead(a, h, h)                      all see all frames
    w   = b + FeedForward(b)                          n times
    P(y_u+1 | y_1..u, x) = softmax(Wo w_u + bo)

What enters a part is normalised first (`pre_norm`), as in the authors' code. With a vocabulary of glosses, CTC on
softmax(Wg h_t + bg) is learned beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rtskel.configs import Config
from rtskel.model import Attention, EncoderLayer, sinusoids
from rtskel.skeleton import skeleton
from rtskel.translate.text import PAD


@dataclass(frozen=True)
class TranslatorConfig(Config, option="option of the network"):
    """Sizes of a translation network; the defaults are the Skeletor paper's (section 5.6).

    Attributes:
        skeleton: id of the skeleton of its input.
        heads: of the attention (the paper does not say; Camgoz et al. use 8).
        bones: it also sees each joint's bone vector: fingers span hundredths of a unit beside arms of half a unit, and
            would otherwise hardly be seen. Off: positions alone, as in the paper.
        stack: so many frames are one token, which makes training so much faster.
        longest: words of a translation, at most.
    """

    skeleton: str = "upper-body-50"
    d_model: int = 64
    heads: int = 8
    d_ff: int = 256
    layers: int = 2
    dropout: float = 0.1
    bones: bool = True
    stack: int = 1
    longest: int = 60

    def __post_init__(self) -> None:
        skeleton(self.skeleton)
        for name in ("d_model", "heads", "d_ff", "layers", "stack", "longest"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {getattr(self, name)}")
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} must be even and a multiple of heads ({self.heads})")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")

    @property
    def pre_norm(self) -> bool:
        """Whether what enters a part of a layer is normalised, rather than what leaves it."""
        return True

    @property
    def features(self) -> int:
        """Numbers that describe a frame, D."""
        return 3 * skeleton(self.skeleton).joints * (2 if self.bones else 1)


class DecoderLayer(nn.Module):
    """An encoder layer over words, with attention to the frames in its middle."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.words = EncoderLayer(config, config.dropout)
        self.frames = Attention(config.d_model, config.heads)
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, w: Tensor, h: Tensor, later: Tensor, hidden: Tensor) -> Tensor:
        """Words [k B, T, d] and frames [B, N, d] -> words; `later` [1, T, T] and `hidden` [B, 1, N] must not be seen.

        The k texts of a sentence lie together: all their words look at its frames at once.
        """
        words = self.words
        normed = words.norm1(w)
        w = w + words.drop(words.attend(normed, normed, later.expand(len(w), -1, -1)))
        asked = self.norm(w).reshape(len(h), -1, w.shape[-1])
        w = w + words.drop(self.frames.attend(asked, h, hidden).view(w.shape))
        y: Tensor = w + words.drop(words.feed_forward(words.norm2(w)))
        return y


class TranslationNetwork(nn.Module):
    """The network of the module's docstring, for vocabularies of `words` and `glosses` (0: no CTC)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: TranslatorConfig, words: int, glosses: int = 0) -> None:
        super().__init__()
        d = config.d_model
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("deviation", torch.ones(config.features))
        self.embed = nn.Linear(config.stack * config.features, d)
        self.embed_norm = nn.LayerNorm(d)
        self.encoder = nn.ModuleList(EncoderLayer(config, config.dropout) for _ in range(config.layers))
        self.encoder_norm = nn.LayerNorm(d)
        self.word = nn.Embedding(words, d, padding_idx=PAD)
        self.word_norm = nn.LayerNorm(d)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.decoder_norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, words)
        self.gloss = nn.Linear(d, glosses) if glosses else None
        self.drop = nn.Dropout(config.dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.word.weight[PAD] = 0.0

    def standardise(self, x: Sequence[NDArray[Any]], known: Sequence[NDArray[Any]]) -> None:
        """Learns mean and deviation of each feature from sequences x [N, D], where they are known [N, D]."""
        count, total, square = (torch.zeros(self.config.features, dtype=torch.float64) for _ in range(3))
        for values, where in zip(x, known, strict=True):
            v, k = torch.from_numpy(values).double(), torch.from_numpy(where)
            count += k.sum(0)
            total += v.sum(0)
            square += v.square().sum(0)
        count = count.clamp(min=1.0)
        mean = total / count
        deviation = (square / count - mean.square()).clamp(min=0.0).sqrt()
        # A feature that does not vary, such as a coordinate of the neck, says nothing.
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-4, deviation, 1.0))

    def tokens(self, x: Sequence[NDArray[Any]], known: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
        """Sequences x [N, D], where known [N, D], as a batch [B, N / stack, stack D]; what is padding [B, N / stack].

        Unknown features are 0, which is their mean.
        """
        device, stack = self.mean.device, self.config.stack
        longest = -(-max(len(values) for values in x) // stack) * stack
        batch = torch.zeros(len(x), longest, self.config.features)
        hidden = torch.ones(len(x), longest // stack, dtype=torch.bool)
        for row, (values, where) in enumerate(zip(x, known, strict=True)):
            scaled = (torch.from_numpy(values) - self.mean.cpu()) / self.deviation.cpu()
            batch[row, : len(values)] = scaled * torch.from_numpy(where)
            hidden[row, : -(-len(values) // stack)] = False
        return batch.view(len(x), longest // stack, -1).to(device), hidden.to(device)

    def encode(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Frames [B, N, stack D] of which those `hidden` [B, N] are padding -> [B, N, d]."""
        h = self.drop(self.embed_norm(F.relu(self.embed(x))) + self._positions(x.shape[1]))
        for layer in self.encoder:
            h = layer(h, None, hidden[:, None])
        y: Tensor = self.encoder_norm(h)
        return y

    def decode(self, h: Tensor, hidden: Tensor, words: Tensor) -> Tensor:
        """Log-probabilities of the next words [B, T, words], or [k B, T, words].

        Args:
            h, hidden: encoded frames [B, N, d], and which are padding [B, N].
            words: so far [B, T], from BEGIN on; or [k B, T], k texts of each sentence after one another.
        """
        length = words.shape[1]
        later = torch.ones(1, length, length, dtype=torch.bool, device=words.device).triu(1)
        w = self.drop(self.word_norm(self.word(words)) + self._positions(length))
        for layer in self.decoder:
            w = layer(w, h, later, hidden[:, None])
        return F.log_softmax(self.out(self.decoder_norm(w)).float(), -1)

    def glosses(self, h: Tensor) -> Tensor:
        """Encoded frames [B, N, d] -> log-probabilities of glosses [B, N, glosses]."""
        return F.log_softmax(cast(nn.Linear, self.gloss)(h).float(), -1)

    def _positions(self, length: int) -> Tensor:
        return sinusoids(length, self.config.d_model).to(self.mean.device)
