"""SlotCon: places are grouped by learned prototypes, alike in two crops, and a group is told from all other groups by what it holds.

Wen et al., "Self-Supervised Visual Representation Learning with Semantic Grouping", NeurIPS 2022 (figure 2, equations 1 to 7).

    A = softmax_k(cos(z, s_k) / t_t)                        which of K groups each place of a crop belongs to
    L_group = mean over the shared region of -sum_k p'_k log p_k,    p = softmax(cos(z, s) / t_s),  p' = softmax((cos(z', s') - c) / t_t)
    L_slot  = InfoNCE of predictor(slots of one crop) with the teacher's slots of the other, over all groups that occur in the batch
    L = w L_group + (1 - w) L_slot,    each the mean of both directions

z = projector(encoder(crop)) of the student, z' and s' of its moving average. The shared region is cut out of both maps of scores with RoIAlign and
mirrored back, so that row i is the same spot in both; pictures whose crops do not meet take part in L_slot only.

Chosen here where the paper is silent or we are not certain of the released code: the slots of student and teacher are both pooled with the
teacher's temperature and without its centre; the predictor has one hidden layer; the centre is the mean over all places of both crops. The
optimiser is AdamW instead of LARS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch, relative_box
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.self_distillation import Centre, self_distillation
from suite3d.losses.slot_contrast import slot_contrast, slots
from suite3d.methods.looking import view_frames
from suite3d.methods.pixpro import by_place
from suite3d.methods.places import map_side
from suite3d.nn.heads import projector
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.nn.projection import Prototypes
from suite3d.nn.roi_align import roi_align
from suite3d.output import Output

SHOWN = 4
"""Pictures whose groups are drawn."""


@dataclass(kw_only=True)
class SlotConConfig:
    """SlotCon.

    Attributes:
        groups: K; the paper: 256 for COCO, 2048 for ImageNet.
        hidden, dim: channels of the hidden layers and of the outputs of projector and predictor.
        student_temperature, teacher_temperature: t_s, t_t.
        slot_temperature: of the InfoNCE.
        group_weight: w.
        momentum: of the moving average at the first and the last step, cosine between.
        centre_momentum: of c.
    """

    groups: int = 256
    hidden: int = 4096
    dim: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    slot_temperature: float = 0.2
    group_weight: float = 0.5
    momentum: tuple[float, float] = (0.99, 1.0)
    centre_momentum: float = 0.9

    def __post_init__(self) -> None:
        for temperature in (self.student_temperature, self.teacher_temperature, self.slot_temperature):
            check_temperature(temperature)
        if self.groups < 2 or not 0 <= self.group_weight <= 1:
            raise ValueError(f"expected at least two groups and a weight in [0, 1], got {self.groups} and {self.group_weight}")
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


class SlotCon(nn.Module):
    """SlotCon around any image encoder with a square feature map.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``, N places row by row.
        config: see :class:`SlotConConfig`.

    Attributes:
        projector, prototypes, predictor: of the student.
        teacher: moving average of encoder, projector and prototypes.
        centre: c.
    """

    def __init__(self, encoder: nn.Module, config: SlotConConfig | None = None) -> None:
        super().__init__()
        self.config = config or SlotConConfig()
        hidden, dim = self.config.hidden, self.config.dim
        self.encoder = encoder
        self.projector = projector([int(encoder.embed_dim), hidden, hidden, dim])  # type: ignore[arg-type]
        self.prototypes = Prototypes(dim, self.config.groups)
        self.predictor = projector([dim, hidden, dim])
        self.teacher = momentum_copy(nn.ModuleDict(self._followed()))
        self.centre = Centre(self.config.groups, momentum=self.config.centre_momentum)

    def _followed(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector, "prototypes": self.prototypes}

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels(0), batch.pixels(1)
        tokens = [self.encoder(view) for view in pixels]  # [B, N, D] each
        student = [self._grouped(self.projector, self.prototypes, view) for view in tokens]
        with torch.no_grad():
            teacher = [self._grouped(self.teacher["projector"], self.teacher["prototypes"], self.teacher["encoder"](view)) for view in pixels]
        group_loss, met = self._group_loss(batch, [scores for scores, _, _ in student], [scores for scores, _, _ in teacher])
        one_way = []
        for (_, queries, occurs), (_, keys, key_occurs) in zip(student, reversed(teacher), strict=True):
            guessed = by_place(self.predictor, queries)  # [B, K, dim]
            one_way.append(slot_contrast(guessed, keys, occurs, key_occurs, temperature=self.config.slot_temperature))
        slot_loss = (one_way[0] + one_way[1]) / 2
        weight = self.config.group_weight
        return Output(
            loss=weight * group_loss + (1 - weight) * slot_loss,
            metrics={
                "group_loss": group_loss.detach(),
                "slot_loss": slot_loss.detach(),
                "crops_that_meet": met,
                "groups_of_a_crop": torch.cat([occurs for _, _, occurs in student]).sum(dim=1).float().mean(),
            },
            features=torch.cat(tokens).detach().mean(dim=1),
            visuals=partial(group_pictures, [view[:SHOWN] for view in pixels], [scores[:SHOWN].detach() for scores, _, _ in student], batch),
        )

    def _grouped(self, head: nn.Module, prototypes: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores ``(B, N, K)`` of the places, slots ``(B, K, dim)`` and which groups occur, ``(B, K)``."""
        z = by_place(head, tokens)  # [B, N, dim]
        scores: Tensor = prototypes(z)
        return scores, *slots(z, (scores / self.config.teacher_temperature).softmax(dim=2))

    def _group_loss(self, batch: ImageBatch, student: list[Tensor], teacher: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Distillation between the shared regions of the two crops, and the share of pictures that have one."""
        boxes, meet = shared_boxes(batch)
        flips = [batch.views[view].flips for view in (0, 1)]
        ours, theirs = (
            torch.stack([shared_region(part, box, flip)[meet].flatten(0, 1) for part, box, flip in zip(scores, boxes, flips, strict=True)])
            for scores in (student, teacher)
        )  # [2, M N, K] each
        wanted = self.centre.targets(theirs, temperature=self.config.teacher_temperature)
        if self.training:
            self.centre.update(torch.cat(teacher))
        return self_distillation(ours, wanted, temperature=self.config.student_temperature), meet.float().mean()

    def after_step(self, step: int, total: int) -> None:
        """Move the average."""
        momentum = momentum_at(step, total, *self.config.momentum, shape="cosine")
        for name, student in self._followed().items():
            momentum_update(self.teacher[name], student, momentum)


@torch.no_grad()
def shared_boxes(batch: ImageBatch) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The rectangle that views 0 and 1 both show, in shares of each, ``(B, 4)`` x1, y1, x2, y2 as each view is mirrored; who has one, ``(B,)``."""
    found = []
    for view in (0, 1):
        top, left, height, width = relative_box(batch, 1 - view, view).unbind(1)  # [B] each
        found.append(torch.stack((left, top, left + width, top + height), dim=1).clamp(0, 1))
    meet = ((found[0][:, 2:] - found[0][:, :2]) > 1e-6).all(dim=1)
    return (found[0], found[1]), meet


def shared_region(scores: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """``(B, N, K)`` scores of a view's places, resampled to N places of the box ``(B, 4)`` and mirrored back where the view is mirrored."""
    side = map_side(scores.shape[1])
    maps = rearrange(scores, "b (h w) k -> b k h w", h=side)
    cut = roi_align(maps, boxes, torch.arange(len(maps), device=maps.device), output=side)
    return rearrange(torch.where(flips[:, None, None, None], cut.flip(3), cut), "b k h w -> b (h w) k")


def group_pictures(pixels: list[Tensor], scores: list[Tensor], batch: ImageBatch) -> dict[str, Any]:
    """Both crops of a few pictures ``(P, 3, S, S)``, and below them the group of each place, one colour a group in all of them."""
    from suite3d.report.clip import draw_strip

    crops = torch.stack(pixels, dim=1).flatten(0, 1)  # [2P, 3, S, S], the two crops of a picture side by side
    groups = torch.stack(scores, dim=1).flatten(0, 1).argmax(dim=2)  # [2P, N]
    side = map_side(groups.shape[1])
    hue = (groups.cpu() * 0.618034 % 1)[:, :, None] + torch.tensor([0, 1 / 3, 2 / 3])  # golden steps keep neighbouring numbers apart
    colors = (0.55 + 0.45 * torch.cos(2 * torch.pi * hue)).clamp(0, 1)  # [2P, N, 3]
    cell = max(crops.shape[-1] // side, 1)
    drawn = repeat((colors * 255).to(torch.uint8), "v (h w) c -> v (h p) (w q) c", h=side, p=cell, q=cell)
    framed = view_frames(crops.transpose(0, 1)[:, :, : side * cell, : side * cell], batch)
    return {"groups": draw_strip([framed, drawn.numpy()], ["two crops of each picture", "groups of places"], title=batch.names[0])}
