"""iBOT: DINO between views, and between the hidden patches a student guesses and those its teacher sees.

Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022 (figure 3, equations 1 to 3).

    L = w_c L_view + w_p L_patch + w_k L_koleo
    L_view = DINO's loss, the student's large views masked
    L_patch = mean over large views and samples of the mean over hidden patches i of -sum_k p_t(u)_ik log p_s(masked u)_ik

Half of the large views stay whole; of the others a share drawn from [0.1, 0.5] is hidden in boxes (BEiT's) by a learned vector that stands at
the patch's place. The teacher sees whole views only, so it is the tokenizer; class token and patches share one head, and each has a centre of
its own. Small views take part in L_view and are not masked. The encoder that survives is the teacher's.

``koleo`` adds the entropy of the student's class tokens of each large view, which spreads them (DINOv2; 0 = iBOT as published).

Differences to the released code: those of :mod:`suite3d.methods.dino`; the hidden share is met exactly. The paper's schedule that starts the patch
loss after some epochs (0 by default there) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.koleo import koleo
from suite3d.losses.self_distillation import Centre, masked_distillation, self_distillation
from suite3d.masking import blockwise_mask, drawn_ratio, generators_of
from suite3d.methods.dino import LARGE, DistillationConfig, SelfDistillation, distillation_metrics
from suite3d.methods.looking import view_frames
from suite3d.methods.multi_view import check_views, view_features
from suite3d.nn.momentum import momentum_copy
from suite3d.nn.projection import DistillationHead
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output

SHOWN = 8
"""Views whose masks are drawn."""


@dataclass(kw_only=True)
class IBOTConfig(DistillationConfig):
    """iBOT.

    Attributes:
        whole: share of the large views that are not masked.
        mask_ratio: range of the hidden share of the others.
        smallest: patches of the smallest box; iBOT: 16 of 196.
        view_weight, patch_weight, koleo: w_c, w_p, w_k.
        shared_head: one head for class token and patches.
    """

    prototypes: int = 8192
    whole: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    smallest: int = 16
    view_weight: float = 1.0
    patch_weight: float = 1.0
    koleo: float = 0.0
    shared_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.whole < 1:
            raise ValueError(f"whole expected a share in [0, 1): with all views whole there is nothing to guess, got {self.whole}")
        if not 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ValueError(f"mask_ratio expected an increasing range that hides neither nothing nor all, got {self.mask_ratio}")
        if min(self.view_weight, self.patch_weight, self.koleo) < 0 or self.smallest < 1:
            raise ValueError("expected weights of at least 0 and boxes of at least one patch")


class IBOT(SelfDistillation):
    """iBOT around a vision transformer with a class token.

    Args:
        student: what the gradient trains.
        config: see :class:`IBOTConfig`.

    Attributes:
        mask_token: what stands for a hidden patch, ``(dim,)``.
        patch_centre: of the teacher's logits of patches.
    """

    def __init__(self, student: VisionTransformer, config: IBOTConfig | None = None) -> None:
        config = config or IBOTConfig()
        if student.cls_token is None:
            raise ValueError("iBOT compares class tokens, the encoder has none: expected class_token=true")
        super().__init__(student, config)
        self.config = config
        self.mask_token = nn.Parameter(torch.zeros(student.embed_dim))
        self.own_patch_heads = nn.ModuleList()  # student, teacher; empty where class token and patches share theirs
        if not config.shared_head:
            own = self.make_head(config.prototypes)
            self.own_patch_heads.extend((own, momentum_copy(own)))
        self.patch_centre = Centre(config.prototypes, momentum=config.centre_momentum)

    @property
    def patch_head(self) -> nn.Module:
        return self.own_patch_heads[0] if self.own_patch_heads else self.head

    @property
    def teacher_patch_head(self) -> nn.Module:
        return self.own_patch_heads[1] if self.own_patch_heads else self.teacher_head

    def heads(self) -> list[DistillationHead]:
        return [head for head in dict.fromkeys((self.head, self.patch_head)) if isinstance(head, DistillationHead)]

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return super().pairs() + ([(self.teacher_patch_head, self.patch_head)] if self.own_patch_heads else [])

    def forward(self, batch: ImageBatch) -> Output:
        check_views("iBOT", batch, LARGE)
        self.hold_prototypes()
        assert isinstance(self.student, VisionTransformer) and isinstance(self.encoder, VisionTransformer)
        large = torch.cat([batch.pixels(view) for view in range(LARGE)])  # [2B, 3, S, S]
        hidden = torch.cat([self.mask(batch.view_seeds(view), batch.device) for view in range(LARGE)])  # [2B, N]
        prefix, patches = self.student.encode_replaced(large, hidden, self.mask_token)
        features = prefix[:, 0].unflatten(0, (LARGE, -1))  # [2, B, D]
        if len(batch.views) > LARGE:
            features = torch.cat((features, view_features(self.student, batch, range(LARGE, len(batch.views)))))  # [V, B, D]
        with torch.no_grad():
            whole, seen = self.encoder.encode(large)
            wanted = self.targets(self.teacher_head(whole[:, 0]).unflatten(0, (LARGE, -1)), self.centre)  # [2, B, K]
            wanted_patches = self.targets(self.teacher_patch_head(seen), self.patch_centre)  # [2B, N, K]
        temperature = self.config.student_temperature
        view_loss = self_distillation(self.head(features), wanted, temperature=temperature)
        patch_loss = masked_distillation(self.patch_head(patches), wanted_patches, hidden, temperature=temperature)
        loss = self.config.view_weight * view_loss + self.config.patch_weight * patch_loss
        metrics: dict[str, Tensor | float] = {"view_loss": view_loss.detach(), "patch_loss": patch_loss.detach(), "hidden": hidden.float().mean()}
        if self.config.koleo > 0:
            spread = koleo(features[0]) + koleo(features[1])
            loss = loss + self.config.koleo * spread
            metrics["koleo"] = spread.detach()
        metrics |= distillation_metrics(wanted, self.teacher_temperature)
        pictures = partial(self._pictures, large[: len(batch)], hidden[: len(batch)], batch)
        return Output(loss=loss, metrics=metrics, features=features[:LARGE].detach().flatten(0, 1), visuals=pictures)

    def _pictures(self, pixels: Tensor, hidden: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """A few large views as the teacher and as the student see them."""
        from suite3d.report.clip import draw_strip

        assert isinstance(self.student, VisionTransformer)
        chosen = hidden.any(dim=1).nonzero()[:SHOWN, 0] if hidden.any() else torch.arange(min(SHOWN, len(hidden)), device=hidden.device)
        views, (_, rows, columns), (_, p, q) = pixels[chosen], self.student.grid, self.student.patch
        gone = repeat(hidden[chosen], "v (h w) -> v 1 (h p) (w q)", h=rows, w=columns, p=p, q=q)
        seen = [view_frames(part.transpose(0, 1), batch) for part in (views, views.masked_fill(gone, 0))]
        return {"masks": draw_strip(seen, ["what the teacher sees", "what the student sees"], title=batch.names[int(chosen[0])])}

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        """``(B, N)`` bool, True = hidden: nothing of some views, of each other its own share in boxes."""
        assert isinstance(self.student, VisionTransformer)
        grid = self.student.grid
        rows = []
        for generator in generators_of(seeds, "iBOT mask"):
            if float(torch.rand((), generator=generator)) < self.config.whole:
                rows.append(torch.zeros(1, grid[0] * grid[1] * grid[2], dtype=torch.bool))
            else:
                ratio = drawn_ratio(*self.config.mask_ratio, generator)
                rows.append(blockwise_mask(grid, ratio, [generator], smallest=self.config.smallest))
        return torch.cat(rows).to(device)
