"""Segmentation by looking patches up in a memory of labelled ones: no head, no training, only a few prompts or a whole set of them.

    label(q) = sum_k softmax_k(cos(q, f_k) / T) label(k)   over the K most similar tokens k of the memory

A cross-attention from the tokens of a picture to those of the reference pictures, whose values are the shares of each token's pixels by class.
Balazevic et al., "Towards In-Context Scene Understanding", NeurIPS 2023 (Hummingbird), section 3; the neighbours are exact here, and the
reference pictures are not augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(kw_only=True)
class InContextConfig:
    """Segmentation by retrieval; the defaults are the paper's 30 neighbours and temperature 0.02.

    Attributes:
        neighbours: tokens of the memory that a token attends to.
        temperature: of the softmax over their cosines.
        memory: most tokens kept (the paper: 10 million).
        references: numbers of reference pictures to try; 0 = all training pictures.
        draws: how often a number below all is drawn.
    """

    neighbours: int = 30
    temperature: float = 0.02
    memory: int = 200_000
    references: tuple[int, ...] = (0, 1, 8)
    draws: int = 3

    def __post_init__(self) -> None:
        if min(self.neighbours, self.memory, self.draws) < 1 or not self.temperature > 0:
            raise ValueError(f"in-context segmentation expected positive neighbours, memory, draws and temperature, got {self}")
        if not self.references or min(self.references) < 0:
            raise ValueError(f"references expected numbers of pictures, 0 = all, got {self.references}")


@dataclass(frozen=True, kw_only=True)
class LabelledTokens:
    """Tokens of one picture or many: unit ``features (N, D)`` float32 and ``shares (N, C)``, which sum to 1."""

    features: Tensor
    shares: Tensor

    def __len__(self) -> int:
        return len(self.features)


def labelled_tokens(features: Tensor, shares: Tensor, known: Tensor) -> LabelledTokens:
    """The tokens of a picture that say something: features ``(h, w, D)``, ``shares (h, w, C)``, share of pixels that count ``(h, w)``."""
    rows = (known > 0).flatten()
    return LabelledTokens(features=F.normalize(features.flatten(0, 1)[rows].float(), dim=1), shares=shares.flatten(0, 1)[rows])


def build_memory(pictures: Sequence[LabelledTokens], limit: int, *, generator: torch.Generator) -> LabelledTokens:
    """At most ``limit`` tokens, equally many of each picture.

    Of a picture with more, those with the smallest ``u * sum_c n_c [the token has class c]`` stay, u uniform in [0, 1) and n_c the tokens of
    the picture that have class c: rare classes stay rather than common ones (the paper, appendix).

    Raises:
        ValueError: no token.
    """
    if not any(len(picture) for picture in pictures):
        raise ValueError("a memory needs at least one labelled token: every pixel of the reference pictures is ignored")
    most = max(limit // len(pictures), 1)
    kept = [picture if len(picture) <= most else _rarest(picture, most, generator) for picture in pictures]
    return LabelledTokens(features=torch.cat([part.features for part in kept]), shares=torch.cat([part.shares for part in kept]))


def _rarest(picture: LabelledTokens, count: int, generator: torch.Generator) -> LabelledTokens:
    has = (picture.shares > 0).float()  # [N, C]
    common = has @ has.sum(dim=0)  # [N]
    draw = torch.rand(len(picture), generator=generator).to(common.device)
    rows = (draw * common).topk(count, largest=False).indices
    return LabelledTokens(features=picture.features[rows], shares=picture.shares[rows])


def retrieve_labels(queries: Tensor, memory: LabelledTokens, *, neighbours: int, temperature: float, block: int = 1 << 24) -> Tensor:
    """Class shares of tokens.

    Args:
        queries: ``(h, w, D)``.
        memory: where to look.
        neighbours, temperature: see :class:`InContextConfig`; a smaller memory is attended to as a whole.
        block: most cosines held at a time.

    Returns:
        ``(h, w, C)`` float32, which sums to 1.
    """
    unit = F.normalize(queries.flatten(0, 1).float(), dim=1)
    found = []
    for part in unit.split(max(block // len(memory), 1)):
        near, where = (part @ memory.features.T).topk(min(neighbours, len(memory)), dim=1)  # [n, K]
        weight = (near / temperature).softmax(dim=1)
        found.append((weight[..., None] * memory.shares[where]).sum(dim=1))  # [n, C]
    return torch.cat(found).view(*queries.shape[:2], -1)


def confusion(found: Tensor, truth: Tensor, classes: int, *, ignored: int) -> Tensor:
    """``(C, C)`` int64 pixels by true and found class; both maps int64 of one shape."""
    kept = truth != ignored
    return torch.bincount(truth[kept] * classes + found[kept], minlength=classes * classes).view(classes, classes)


def segmentation_scores(counts: Tensor) -> dict[str, float]:
    """mIoU over the classes that occur in the truth, and pixel accuracy, percent, of a :func:`confusion` over all pictures.

    Raises:
        ValueError: no pixel was counted.
    """
    counts = counts.double()
    true, right = counts.sum(dim=1), counts.diagonal()
    if not float(true.sum()):
        raise ValueError("segmentation: no pixel of the test pictures counts")
    overlap = right / (true + counts.sum(dim=0) - right).clamp(min=1)
    return {"mIoU": 100 * float(overlap[true > 0].mean()), "pixel accuracy": 100 * float(right.sum() / true.sum())}
