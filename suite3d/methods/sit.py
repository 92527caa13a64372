"""SiT: repair corrupted pictures (GMML) while two views of a picture find one another through a slow teacher.

Atito, Awais, Kittler, "SiT: Self-supervised vIsion Transformer", 2021 (figure 1; the version with a momentum teacher).

    L = r * L_GMML + 2 t * ( NCE(s(c_1), s'(x_2)) + NCE(s(c_2), s'(x_1)) )
    NCE(q, k) = mean over i of -log( exp(q_i.k_i / t) / sum_j exp(q_i.k_j / t) ),    s = head(class token) of unit length
    s' <- m s' + (1 - m) s    after every step

x_v are the views, c_v the corrupted ones. The student s sees only corrupted views, the teacher s' only clean ones. Corruption and the repair
head are GMML's (:mod:`suite3d.methods.gmml`), over both views. The factor 2 t keeps the gradient's size independent of t, as in MoCo v3.

The encoder that survives is the student. The teacher's batch norms use the statistics of their own batch, and it never skips a residual branch.

Open, chosen here: the projection head has two hidden layers with batch norm, of the released width; noise or another picture fills the groups
(zeros, the released default, are ``corruption.fill``). Differences to the released code: as GMML's; the weight decay is constant instead of
rising from 0.04 to 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.info_nce import check_temperature, info_nce
from suite3d.losses.masked_l1 import masked_l1
from suite3d.methods.corruption import CorruptionConfig, corrupt, repair_pictures
from suite3d.methods.looking import monitored_tokens
from suite3d.methods.masked_pixels import patch_values
from suite3d.methods.multi_view import check_views
from suite3d.nn.heads import PixelHead, projector
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


def sit_corruption() -> CorruptionConfig:
    """The released shares: half of a picture, or 30 % of it with another picture's patches."""
    return CorruptionConfig(ratio=(0.5, 0.5), image_ratio=(0.3, 0.3))


@dataclass(kw_only=True)
class SiTConfig:
    """SiT.

    Attributes:
        corruption: see :class:`suite3d.methods.corruption.CorruptionConfig`.
        temperature: t.
        reconstruction: r. The paper: 1 to 5.
        momentum: m at the first and the last step, a half cosine between. A run of a few hundred steps needs about 0.99 at first.
        pixel_hidden: channels of the two hidden layers of the repair head.
        hidden, dim: channels of the hidden layers and of the output of the projection head.
    """

    corruption: CorruptionConfig = field(default_factory=sit_corruption)
    temperature: float = 0.2
    reconstruction: float = 1.0
    momentum: tuple[float, float] = (0.996, 1.0)
    pixel_hidden: int = 2048
    hidden: int = 4096
    dim: int = 256

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1 or self.reconstruction < 0:
            raise ValueError(f"expected an increasing momentum in [0, 1] and reconstruction >= 0, got {self.momentum} and {self.reconstruction}")


class SiTBranch(nn.Module):
    """Encoder and projection head; one is the student's, one the teacher's."""

    def __init__(self, encoder: VisionTransformer, hidden: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector([encoder.embed_dim, hidden, hidden, dim])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 3, S, S)`` -> embedding ``(N, dim)`` of the class token, tokens ``(N, P, D)``."""
        prefix, tokens = self.encoder.encode(pixels)
        return self.projector(prefix[:, 0]), tokens


class SiT(nn.Module):
    """SiT around a vision transformer with a class token.

    Args:
        encoder: what is pretrained.
        config: see :class:`SiTConfig`.

    Raises:
        ValueError: an encoder without a class token.
    """

    def __init__(self, encoder: VisionTransformer, config: SiTConfig | None = None) -> None:
        super().__init__()
        if encoder.cls_token is None:
            raise ValueError("SiT contrasts the class token and the encoder has none: set encoder.class_token=true")
        self.config = config or SiTConfig()
        self.student = SiTBranch(encoder, self.config.hidden, self.config.dim)
        self.teacher = momentum_copy(self.student, drop_path=False)
        self.head = PixelHead(encoder.embed_dim, self.config.pixel_hidden, patch_values(encoder))

    @property
    def encoder(self) -> VisionTransformer:
        return self.student.encoder

    def forward(self, batch: ImageBatch) -> Output:
        check_views("SiT", batch, 2)
        pixels, (corrupted, mask) = self.corrupted(batch)
        embedding, tokens = self.student(corrupted)  # [2B, dim], [2B, N, D]
        with torch.no_grad():
            keys, _ = self.teacher(pixels)  # [2B, dim]
        predicted = self.head(tokens)  # [2B, N, 3 * p * q]
        repair = masked_l1(predicted, self.encoder.patchify(pixels[:, :, None]), mask)
        (q1, q2), (k1, k2) = embedding.chunk(2), keys.chunk(2)
        nce = partial(info_nce, temperature=self.config.temperature)
        contrast = 2 * self.config.temperature * (nce(q1, k2) + nce(q2, k1))
        return Output(
            loss=self.config.reconstruction * repair + contrast,
            metrics={"repair": repair.detach(), "contrast": contrast.detach()},
            features=monitored_tokens(tokens),
            visuals=partial(repair_pictures, pixels[0], corrupted[0], predicted[0].detach(), self.encoder, batch),
        )

    def corrupted(self, batch: ImageBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Pixels ``(2B, 3, S, S)`` of the first views, then of the second ones; the same corrupted, and which patches ``(2B, N)`` bool."""
        views = [batch.pixels(view) for view in (0, 1)]
        parts = [corrupt(pixels, batch.view_seeds(view), self.encoder, self.config.corruption) for view, pixels in enumerate(views)]
        return torch.cat(views), (torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher."""
        momentum_update(self.teacher, self.student, momentum_at(step, total, *self.config.momentum, shape="cosine"))
