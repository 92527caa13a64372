"""OBoW: from a few recoloured crops a student tells which visual words its teacher finds in the whole picture, by a vocabulary made on the go.

Gidaris et al., "OBoW: Online Bag-of-Visual-Words Generation for Self-Supervised Learning", CVPR 2021 (figure 1, section 3).

    y^l = normalised max over places u of softmax_k( -|t^l_u - v^l_k|^2 / delta_l )         the teacher's bag of level l
    L = mean over levels l and crops c of -sum_k y^l_k log softmax_k( gamma s_c . G^l(v^l_k) )

t^l are the teacher's features at the places of level l, s_c is the student's pooled feature of a crop scaled to unit length. The vocabulary v^l
is a queue: every step one place of each picture, averaged with its neighbours, joins and the oldest leaves; G makes the student's classifier from
the words, so that it follows them. delta_l is the running mean of the squared distance to the nearest word over a constant. The teacher is the
student's moving average. View 0 is the teacher's picture, plain; all others are the student's.

Chosen here where the paper leaves it open or we are not certain of the released code: the queue starts with random directions of the length of the
first features, which are gone after K / batch steps; both levels are told from the student's last pooled feature; the neighbourhood is 3 x 3, cut
at the border of the map, and no place at the border is left out. The student's small crops are drawn independently instead of from a grid of
overlapping patches. The optimiser is AdamW instead of SGD. A vision transformer has one level, its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.bag_of_words import WordScale, bag_of_words, bag_of_words_loss
from suite3d.losses.gather import sum_over_ranks
from suite3d.masking import generators_of
from suite3d.methods.multi_view import check_views, view_features
from suite3d.methods.places import map_side
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.nn.projection import WordPredictor
from suite3d.nn.queue import FeatureQueue
from suite3d.output import Output


@dataclass(kw_only=True)
class OBoWConfig:
    """OBoW.

    Attributes:
        words: K, of each level.
        inverse_delta: the running mean over delta, for the last level, the one before it, ...: as many levels as numbers.
        gamma: initial gain.
        momentum: of the teacher at the first and the last step, cosine between.
        scale_momentum: of the running mean of distances.
    """

    words: int = 8192
    inverse_delta: tuple[float, ...] = (10.0, 15.0)
    gamma: float = 5.0
    momentum: tuple[float, float] = (0.99, 1.0)
    scale_momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.words < 2 or not self.inverse_delta or min(self.inverse_delta) <= 0:
            raise ValueError(f"expected at least two words and positive inverse_delta of at least one level, got {self.words}, {self.inverse_delta}")
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


class OBoW(nn.Module):
    """OBoW around any image encoder; several levels need one with ``levels`` and ``level_dims`` (residual networks).

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`OBoWConfig`.

    Attributes:
        teacher: moving average of the encoder.
        words, scales, predictors: vocabulary, running distance and classifier of each level, the last level first.
        started: bool buffer, whether the vocabularies have the length of the features yet.
    """

    started: Tensor

    def __init__(self, encoder: nn.Module, config: OBoWConfig | None = None) -> None:
        super().__init__()
        self.config = config or OBoWConfig()
        self.encoder = encoder
        dim = int(encoder.embed_dim)  # type: ignore[arg-type]
        levels = len(self.config.inverse_delta)
        dims = list(getattr(encoder, "level_dims", [dim]))[::-1][:levels]
        if len(dims) < levels:
            raise ValueError(f"{type(encoder).__name__} has {len(dims)} levels, inverse_delta names {levels}: set method.inverse_delta=[10.0]")
        self.teacher = momentum_copy(encoder)
        self.words = nn.ModuleList(FeatureQueue(self.config.words, width) for width in dims)
        self.scales = nn.ModuleList(WordScale(momentum=self.config.scale_momentum) for _ in dims)
        self.predictors = nn.ModuleList(WordPredictor(dim, width, gamma=self.config.gamma) for width in dims)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, batch: ImageBatch) -> Output:
        check_views("OBoW", batch, 2)
        bags, vocabularies = self.bags(batch)
        features = view_features(self.encoder, batch, range(1, len(batch.views)))  # [V, B, D]
        losses = [
            bag_of_words_loss(predictor(features, words), bag) for predictor, words, bag in zip(self.predictors, vocabularies, bags, strict=True)
        ]
        entropy = torch.stack([torch.special.entr(bag).sum(dim=1).mean() for bag in bags]).mean()
        return Output(
            loss=torch.stack(losses).mean(),
            metrics={"bag_entropy": entropy, "largest_word": torch.stack([bag.amax(dim=1).mean() for bag in bags]).mean()},
            features=features[0].detach(),
        )

    @torch.no_grad()
    def bags(self, batch: ImageBatch) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's bag ``(B, K)`` of each level, and the words ``(K, D_l)`` it was made with. In training the vocabularies then move on."""
        bags, vocabularies = [], []
        places = self.teacher_places(batch.pixels(0))
        if not self.started:
            for queue, features in zip(self.words, places, strict=True):
                total, count = sum_over_ranks(torch.stack((features.norm(dim=2).sum(), features.new_tensor(features[..., 0].numel()))))
                queue.rows.mul_(total / count)  # type: ignore[operator, union-attr]
            self.started.fill_(True)
        for queue, scale, inverse, features in zip(self.words, self.scales, self.config.inverse_delta, places, strict=True):
            assert isinstance(queue, FeatureQueue) and isinstance(scale, WordScale)
            words = queue.rows.clone()
            if self.training or not scale.value > 0:
                scale.update(features, words)
            bags.append(bag_of_words(features, words, delta=scale.value.clamp(min=1e-12) / inverse))
            vocabularies.append(words)
            if self.training:
                queue.push(new_words(features, batch.view_seeds()))
        return bags, vocabularies

    def teacher_places(self, pixels: Tensor) -> list[Tensor]:
        """The teacher's features ``(B, N_l, D_l)``, the last level first."""
        if hasattr(self.teacher, "levels"):
            maps: Sequence[Tensor] = self.teacher.levels(pixels)  # type: ignore[operator]
            return [level.float().flatten(2).transpose(1, 2) for level in maps[::-1][: len(self.words)]]
        return [self.teacher(pixels).float()]

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher."""
        momentum_update(self.teacher, self.encoder, momentum_at(step, total, *self.config.momentum, shape="cosine"))


def new_words(features: Tensor, seeds: Sequence[int]) -> Tensor:
    """``(B, N, D)`` -> ``(B, D)``: of each picture one random place, averaged with its neighbours on the map."""
    side = map_side(features.shape[1])
    maps = rearrange(features, "b (h w) d -> b d h w", h=side)
    smooth = F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False).flatten(2)  # [B, D, N]
    picks = torch.stack([torch.randint(side * side, (), generator=generator) for generator in generators_of(seeds, "visual word")])
    return smooth[torch.arange(len(smooth), device=smooth.device), :, picks.to(smooth.device)]
