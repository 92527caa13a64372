"""DINO: a student that sees a part names it as a slow, centred teacher names the whole.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (figure 2, algorithm 1).

    L = mean over large views g and views v != g of -sum_k p_t(x_g)_k log p_s(x_v)_k
    p_s = softmax(s(x) / t_s),    p_t = softmax((s'(x) - c) / t_t),    s = cosines of head(class token) with K prototypes
    teacher <- m teacher + (1 - m) student,    c <- m_c c + (1 - m_c) mean(s')

The teacher sees the two large views, the student all of them. The centre keeps one prototype from winning always, the small t_t keeps the answer
from being even: each alone collapses. The temperature of the teacher rises over the first part of the run; the prototypes get no gradient at its
beginning. Views 0 and 1 are the large ones.

The encoder that survives is the teacher's, as in the published evaluations.

As in the released code, the teacher never skips a residual branch, its batch norms (where an encoder has them) use the statistics of their own
batch, and the centre is the one of the step before. Differences to it: the weight decay is constant instead of rising along a cosine; the gain of
the prototypes is always 1 (there an option); the two warm-ups are shares of the run, not epochs. ``targets="sinkhorn"`` balances instead of
centring (DINOv2's choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from suite3d.losses.info_nce import check_temperature
from suite3d.losses.self_distillation import Centre, self_distillation, sinkhorn_targets
from suite3d.methods.multi_view import Views, check_views, view_features
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.nn.projection import DistillationHead
from suite3d.output import Output

LARGE = 2
"""Views that the teacher sees."""


@dataclass(kw_only=True)
class DistillationConfig:
    """What DINO and its followers share.

    Attributes:
        prototypes: K.
        hidden, bottleneck: channels inside the head.
        student_temperature: t_s.
        teacher_temperature: t_t at the first step and after the warm-up, linear between.
        teacher_warmup: share of the run over which t_t rises.
        frozen: share of the run in which the prototypes get no gradient; the paper: one epoch of a hundred.
        momentum: m at the first and the last step, cosine between. These are for 10^5 steps: a run of a few hundred needs about 0.99.
        centre_momentum: m_c.
        targets: ``centre`` (DINO) or ``sinkhorn`` (DINOv2).
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    teacher_warmup: float = 0.3
    frozen: float = 0.01
    momentum: tuple[float, float] = (0.996, 1.0)
    centre_momentum: float = 0.9
    targets: Literal["centre", "sinkhorn"] = "centre"

    def __post_init__(self) -> None:
        for temperature in (self.student_temperature, *self.teacher_temperature):
            check_temperature(temperature)
        if self.prototypes < 2:
            raise ValueError(f"prototypes expected at least two, got {self.prototypes}")
        if not 0 <= self.teacher_warmup <= 1 or not 0 <= self.frozen < 1:
            raise ValueError(f"teacher_warmup and frozen expected shares of the run, got {self.teacher_warmup} and {self.frozen}")
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


@dataclass(kw_only=True)
class DINOConfig(DistillationConfig):
    """DINO; nothing beside what its followers share."""


class SelfDistillation(nn.Module):
    """Student, teacher, their schedules and the pieces of a loss: the base of DINO and its followers.

    Args:
        student: what the gradient trains.
        config: temperatures and schedules.

    Attributes:
        encoder: the teacher's encoder, the moving average of the student; starts equal.
        head, teacher_head: on one vector a view.
        centre: of the teacher's logits.
        step_share: share of the run that is done, a buffer, so that a resumed run goes on with the same temperature.
    """

    step_share: Tensor

    def __init__(self, student: nn.Module, config: DistillationConfig) -> None:
        super().__init__()
        self.distillation = config
        self.student = student
        self.head = self.make_head(config.prototypes)
        self.encoder, self.teacher_head = momentum_copy(student, drop_path=False), momentum_copy(self.head)
        self.centre = Centre(config.prototypes, momentum=config.centre_momentum)
        self.register_buffer("step_share", torch.zeros(()))

    def make_head(self, prototypes: int) -> DistillationHead:
        """A head on the student's features."""
        width = int(self.student.embed_dim)  # type: ignore[arg-type]
        return DistillationHead(width, prototypes, hidden=self.distillation.hidden, bottleneck=self.distillation.bottleneck)

    @property
    def teacher_temperature(self) -> float:
        """t_t of this step."""
        start, end = self.distillation.teacher_temperature
        warm = self.distillation.teacher_warmup
        return end if warm == 0 else start + (end - start) * min(float(self.step_share) / warm, 1.0)

    def targets(self, logits: Tensor, centre: Centre) -> Tensor:
        """The teacher's probabilities of ``(..., K)`` logits; the centre moves after it was used."""
        if self.distillation.targets == "sinkhorn":
            return sinkhorn_targets(logits, temperature=self.teacher_temperature)
        wanted = centre.targets(logits, temperature=self.teacher_temperature)
        if self.training:
            centre.update(logits)
        return wanted

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(teacher, student) of everything that follows the student."""
        return [(self.encoder, self.student), (self.teacher_head, self.head)]

    def heads(self) -> list[DistillationHead]:
        """The trained heads, whose prototypes are frozen at first."""
        return [self.head]

    def hold_prototypes(self) -> None:
        """No gradient for the prototypes at the beginning of the run; called before the backward pass."""
        for head in self.heads():
            head.prototypes.weight.requires_grad_(float(self.step_share) >= self.distillation.frozen)

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher and the schedules."""
        momentum = momentum_at(step, total, *self.distillation.momentum, shape="cosine")
        for teacher, student in self.pairs():
            momentum_update(teacher, student, momentum)
        self.step_share.fill_((step + 1) / max(total, 1))


class DINO(SelfDistillation):
    """DINO around any encoder that takes views of both sizes: of pictures, or of object clouds.

    Args:
        student: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``; of a vision transformer the class token is used. For clouds see
            :func:`suite3d.nn.pooling.pooled_features`.
        config: see :class:`DINOConfig`.
    """

    def __init__(self, student: nn.Module, config: DINOConfig | None = None) -> None:
        super().__init__(student, config or DINOConfig())

    def forward(self, batch: Views) -> Output:
        check_views("DINO", batch, LARGE)
        self.hold_prototypes()
        features = view_features(self.student, batch)  # [V, B, D]
        with torch.no_grad():
            logits = self.teacher_head(view_features(self.encoder, batch, range(LARGE)))  # [2, B, K]
            wanted = self.targets(logits, self.centre)
        loss = self_distillation(self.head(features), wanted, temperature=self.distillation.student_temperature)
        return Output(loss=loss, metrics=distillation_metrics(wanted, self.teacher_temperature), features=features[:LARGE].detach().flatten(0, 1))


@torch.no_grad()
def distillation_metrics(wanted: Tensor, temperature: float) -> dict[str, Tensor | float]:
    """Mean entropy of the teacher's answers, perplexity of their mean over K: 0 entropy with 1 prototype used is one collapse, log K the other."""
    rows = wanted.flatten(0, -2)
    entropy = torch.special.entr(rows).sum(dim=1).mean()
    used = torch.special.entr(rows.mean(dim=0)).sum().exp() / rows.shape[1]
    return {"teacher_entropy": entropy, "prototypes_used": used, "teacher_temperature": temperature}
