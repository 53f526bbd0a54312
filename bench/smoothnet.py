"""SmoothNet as a peer (Zeng et al.: SmoothNet, a plug-and-play network for refining human poses in videos, ECCV 2022).

A network over one coordinate of one joint in a window of frames, the same for all coordinates: a linear layer, residual
blocks, a linear layer, in the sizes of its authors' configuration for Human3.6M and AIST++, over 32 frames. It is
trained here, on the windows and corruptions that Skeletor is trained on, after missing joints are filled in time.
Differences from the original make it better here, where it is trained for minutes: it sees each coordinate relative to
its mean and deviation over the window and predicts a correction; squared instead of absolute differences are minimised
(most corrections are 0, so that the median learns to do nothing); no dropout.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from measure.poses import Array, Mask
from peers import Body, Peer, Setting
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rtskel.filters import Lookahead, padded
from rtskel.model import interpolate
from rtskel.training.config import RECIPES, TrainConfig, present_sources
from rtskel.training.data import Corpus
from rtskel.training.train import Trainer

WINDOW, HIDDEN, INNER, BLOCKS = 32, 512, 128, 5
BENDING = 0.1
"""Weight of the second differences in the loss."""
BATCH, PARTS = 64, 8
"""Windows drawn at once; their coordinates are split at random into parts, half of which are used."""
RATE = 1e-3
UPDATES = 3000
CONFIG = RECIPES["realtime"]
"""Its windows and corruptions are used."""
ROWS = 1 << 13
"""Windows of one coordinate computed at once."""


class Block(nn.Module):
    """Two linear layers around a narrow middle, added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)

    def forward(self, h: Tensor) -> Tensor:
        """[..., HIDDEN] -> [..., HIDDEN]."""
        y = h
        for layer in (self.narrow, self.widen):
            y = nn.functional.leaky_relu(layer(y), 0.2)
        return h + y


class SmoothNet(nn.Module):
    """[..., WINDOW] of one coordinate -> the same, smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(WINDOW, HIDDEN), nn.Linear(HIDDEN, WINDOW)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., WINDOW] -> [..., WINDOW]."""
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        h = nn.functional.leaky_relu(self.encode(centred / spread), 0.1)
        y: Tensor = self.decode(self.blocks(h))
        return x + spread * y.float()


def learn(corpus: str | Path, updates: int, config: TrainConfig | None = None) -> SmoothNet:
    """A network trained on the windows that `config` (default: `CONFIG`) trains on."""
    config = config or CONFIG
    opened = Corpus(corpus)
    config = replace(config, model=replace(config.model, window=WINDOW), sources=present_sources(config, opened))
    trainer = Trainer(replace(config, batch=BATCH, triples=0), opened, "cpu")
    torch.manual_seed(config.seed)
    network = SmoothNet()
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    for step in range(updates):
        if step % (PARTS // 2) == 0:
            clean, x, missing = trainer.batches.draw()[:3]
            x, clean, there = x.permute(0, 2, 3, 1), clean.permute(0, 2, 3, 1), ~missing.transpose(1, 2)
            filled = interpolate(x, there, x.new_zeros(x.shape[1:3]))
            seen = there.any(-1)  # [B, J]: the others cannot be known
            inputs, wanted = (v[seen].flatten(0, 1) for v in (filled, clean))  # [rows, W]
            parts = torch.randperm(len(inputs)).chunk(PARTS)
        rows = parts[step % (PARTS // 2)]
        with torch.autocast("cpu", torch.bfloat16):
            off = network(inputs[rows]) - wanted[rows]
        loss = off.square().mean() + BENDING * off.diff(n=2).square().mean()
        optimiser.param_groups[0]["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / updates)))
        optimiser.zero_grad()
        torch.autograd.backward(100.0 * loss)  # so that gradients are well above Adam's epsilon
        optimiser.step()
    return network


def train(path: str | Path, corpus: str | Path, updates: int = UPDATES) -> str:
    """Trains a network on one thread into a file; returns a description."""
    threads, began = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(1)
    save_file(learn(corpus, updates).state_dict(), str(path))
    torch.set_num_threads(threads)
    return f"SmoothNet: {updates} updates in {time.process_time() - began:.0f} s of one thread"


class SmoothNetPeer(Peer):
    """SmoothNet over the plainly filled sequence.

    With a look-ahead, the window that ends that far ahead is read at the frame that it is for; offline, all windows
    with the frame are averaged, as its authors do.
    """

    name = "SmoothNet"
    settings: ClassVar[tuple[Setting, ...]] = (None, ())
    learns = True

    def __init__(self, body: Body, path: str | Path) -> None:
        super().__init__(body)
        self.network = SmoothNet().eval()
        self.network.load_state_dict(load_file(path))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        frames = len(xyz)
        if lookahead is None:
            filled = padded(self._fill(xyz, missing, None), WINDOW - 1, WINDOW - 1)
            out = self._run(np.lib.stride_tricks.sliding_window_view(filled, WINDOW, axis=0))  # [N + W - 1, J, 3, W]
            return np.asarray(np.mean([out[k : k + frames, ..., WINDOW - 1 - k] for k in range(WINDOW)], axis=0))
        past, windows = WINDOW - 1 - lookahead, []
        filled = padded(self._fill(xyz, missing, lookahead), past, lookahead)
        for k in range(-past, lookahead + 1):
            if missing.any():  # every frame of a window may be filled from all frames up to the window's end
                filled = padded(self._fill(xyz, missing, lookahead - k), past, lookahead)
            windows.append(filled[past + k : past + k + frames])
        return self._run(np.stack(windows, -1))[..., past]

    def _run(self, windows: Array) -> Array:
        """[N, J, 3, W] -> [N, J, 3, W]."""
        rows = torch.from_numpy(np.ascontiguousarray(windows, np.float32)).view(-1, WINDOW)
        with torch.inference_mode():
            out = torch.cat([self.network(part) for part in torch.split(rows, ROWS)])
        smoothed: Array = out.view(windows.shape).double().numpy()
        return smoothed
