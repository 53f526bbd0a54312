"""What training needs so that the host never waits for a GPU: constants made once, choices and runs drawn there.

A GPU works behind the host, in the order of what it was told. The host waits whenever it asks for a value (`int`,
`bool`, `tolist`, indexing by a mask) or copies one from its own pageable memory (`torch.tensor(..., device=)`). Nothing
on the way of a batch may do that: then the host is several batches ahead, and a whole draw can be one CUDA graph. What
is made once is kept for good, since such a graph goes on reading it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

from rtskel.skeleton import Skeleton

log = logging.getLogger(__name__)


def behind(device: torch.device) -> bool:
    """Whether the device works behind the host, so that asking it for a value would wait."""
    return device.type != "cpu"


@cache
def constant(values: Hashable, device: torch.device) -> Tensor:
    """A tensor of (nested tuples of) numbers, made once. Nobody may write to it."""
    with torch.inference_mode(False):
        return torch.tensor(values).to(device)


@cache
def tree(skeleton: Skeleton, device: torch.device) -> Tree:
    """The `Tree` of a skeleton on a device, made once."""
    return Tree(skeleton, device)


class Tree:
    """A skeleton as tensors on a device. Nobody may write to them.

    Attributes:
        mirror, parents: [J] indices; the root is its own parent.
        chain: [J, J], see `Skeleton.chain`.
        movable: [J] bool, every joint but the root; `moving` are their indices.
        of_hands: [J] bool, joints that are not of the body.
        hands: of the left and the right one, the wrist's index, the hand's indices, and both as masks [J].
    """

    def __init__(self, skeleton: Skeleton, device: torch.device) -> None:
        self.skeleton, self.device = skeleton, device
        joints = range(skeleton.joints)
        with torch.inference_mode(False):
            self.mirror = torch.tensor(skeleton.mirror).to(device)
            self.parents = torch.tensor(skeleton.parents_or_self).to(device)
            self.chain = torch.tensor(skeleton.chain).to(device)
            self.movable = self.mask([j for j in joints if j != skeleton.root])
            self.moving = torch.tensor([j for j in joints if j != skeleton.root]).to(device)
            self.of_hands = self.mask([j for j in joints if j not in skeleton.groups["body"]])
            self.hands = [
                (wrist, torch.tensor(hand).to(device), self.mask([wrist]), self.mask(hand))
                for wrist, hand in skeleton.hands
            ]

    def mask(self, joints: Sequence[int]) -> Tensor:
        """[J] bool, True for these joints."""
        return self.per_joint(dict.fromkeys(joints, 1.0)) > 0

    def per_joint(self, values: dict[int, float], default: float = 0.0) -> Tensor:
        """[J] float32: values of some joints, the default for the others."""
        return torch.tensor([values.get(j, default) for j in range(self.skeleton.joints)]).to(self.device)

    @cached_property
    def bones(self) -> tuple[Tensor, Tensor]:
        """Indices of the joints at the outer end of each bone, and at the inner one: [J - 1] each."""
        return self.moving, self.parents[self.moving]


class Choice:
    """Chooses numbers below n at random, with replacement, with a chance [n] each."""

    def __init__(self, chance: Tensor) -> None:
        self._chance = chance
        upto = chance.double().cumsum(0)
        self._upto = upto / upto[-1]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Choices [count] on the device of the chances."""
        if not behind(self._chance.device):
            return torch.multinomial(self._chance, count, replacement=True, generator=generator)
        # `torch.multinomial` looks at the chances where it is to choose once.
        u = torch.rand(count, generator=generator, device=self._upto.device, dtype=torch.float64)
        return torch.searchsorted(self._upto, u).clamp(max=len(self._upto) - 1)


def covered(
    wanted: Tensor, draw: Callable[[int], tuple[Tensor, Tensor]], shortest: int, window: int, tries: int, inside: bool
) -> Tensor:
    """Runs that cover at least `wanted` [B] of the frames of rows, one after the other: bool [B, window].

    Args:
        draw: gives for the k-th of at most `tries` runs the length and where it lies, 0 to 1: [B, 1] each. It is not
            asked when no row lacks frames any more, if that can be known without waiting.
        inside: whole runs, never on the first frame; else they are cut at both ends.
    """
    taken = torch.zeros(len(wanted), window, dtype=torch.bool, device=wanted.device)
    time = torch.arange(window, device=wanted.device)
    for k in range(tries):
        left = (wanted - taken.sum(1))[:, None]
        if not behind(wanted.device) and not bool((left > 0).any()):
            break
        length, u = draw(k)
        length = torch.minimum(length, left.clamp(min=shortest))
        if inside:
            first = 1 + (u * (window - length).clamp(min=0)).long()
        else:
            first = (u * (window + length - 1)).long() - length + 1
        taken |= (left > 0) & (time >= first) & (time < first + length)
    return taken


def covered_at_once(wanted: Tensor, length: Tensor, u: Tensor, shortest: int, window: int, inside: bool) -> Tensor:
    """`covered` with all runs [B, tries] drawn before: one kernel on a GPU, if Triton works there (it comes with
    PyTorch on Linux), else hundreds.
    """
    if wanted.is_cuda and (kernel := _kernel()):
        return kernel(wanted, length, u, shortest, window, inside)
    return covered(wanted, lambda k: (length[:, k : k + 1], u[:, k : k + 1]), shortest, window, length.shape[1], inside)


@cache
def _kernel() -> Callable[[Tensor, Tensor, Tensor, int, int, bool], Tensor] | None:
    """What covers rows on a GPU, if it compiles."""
    try:
        from rtskel.training.kernels import cover

        few = torch.ones(1, 1, dtype=torch.int32, device="cuda")
        cover(few[0], few, few.float(), 1, 32, False)
    except Exception as error:  # Triton's, its compiler's, CUDA's
        log.warning("runs are drawn step by step, which takes long: %s", error)
        return None
    return cover
