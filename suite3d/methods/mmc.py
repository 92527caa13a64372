"""MMC: repair a corrupted view, name its hidden patches as a slow teacher names them in the whole view, and find the other view by it.

Wu, Mo, Awais, Atito, Feng, Kittler, "Masked Momentum Contrastive Learning for Zero-shot Semantic Understanding", 2023.

    L = w_r L_repair + w_d L_distil + w_c L_contrast,     c_v: corrupted views, x_v: whole views, s: student, s': teacher
    L_repair = mean over corrupted patches of | pixels(s(c_v)_i) - x_vi |                        local features become alike
    L_distil = mean over views of the mean over corrupted patches i of -sum_k p'(s'(x_v)_i)_k log p(s(c_v)_i)_k
    L_contrast = ( NCE(g(s(c_1)), g'(s'(x_2))) + NCE(g(s(c_2)), g'(s'(x_1))) ) / 2,  g on the class token: global features stand apart
    s', g', heads' <- m s' + (1 - m) s    after every step

The seven slots: two augmented views; GMML's groups of connected patches, overwritten; nothing is left out of the encoder; a plain ViT with a class
token; no decoder, a head on the tokens for each loss; pixels, the teacher's centred and sharpened answers, the teacher's embeddings; absolute error,
cross-entropy, InfoNCE. The teacher sees whole views only, so what it says of a patch is said with the whole picture in mind.

The encoder that survives is the teacher.

We could read the paper's abstract, not its method section: it says that MMC is masked image modelling, momentum self-distillation from global to
local features and global contrast. Each of the three is here what the field and the same authors' earlier methods mean by it: GMML's corruption and
repair (:mod:`suite3d.methods.gmml`), iBOT's distillation of hidden patches with DINO's centre and schedules (:mod:`suite3d.methods.dino`), SiT's and
MoCo v3's contrast across views with a momentum teacher. The weights (1 each), temperatures and widths are choices made here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.info_nce import check_temperature, info_nce
from suite3d.losses.masked_l1 import masked_l1
from suite3d.losses.self_distillation import masked_distillation
from suite3d.methods.corruption import CorruptionConfig, corrupt, repair_pictures
from suite3d.methods.dino import DistillationConfig, SelfDistillation, distillation_metrics
from suite3d.methods.masked_pixels import patch_values
from suite3d.methods.multi_view import check_views
from suite3d.nn.heads import PixelHead, projector
from suite3d.nn.momentum import momentum_copy
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class MMCConfig(DistillationConfig):
    """MMC.

    Attributes:
        corruption: see :class:`suite3d.methods.corruption.CorruptionConfig`.
        repair_weight, distil_weight, contrast_weight: w_r, w_d, w_c.
        temperature: of the contrast.
        pixel_hidden: channels of the two hidden layers of the repair head.
        contrast_hidden, contrast_dim: channels of the hidden layers and of the output of g.
    """

    prototypes: int = 8192
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    repair_weight: float = 1.0
    distil_weight: float = 1.0
    contrast_weight: float = 1.0
    temperature: float = 0.2
    pixel_hidden: int = 2048
    contrast_hidden: int = 4096
    contrast_dim: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        if min(self.repair_weight, self.distil_weight, self.contrast_weight) < 0:
            raise ValueError(f"weights expected at least 0, got {self.repair_weight}, {self.distil_weight}, {self.contrast_weight}")


class MMC(SelfDistillation):
    """MMC around a vision transformer with a class token.

    Args:
        student: what the gradient trains.
        config: see :class:`MMCConfig`.

    Attributes:
        encoder: the teacher, the moving average of the student; starts equal.
        head, teacher_head: on patches. projector, teacher_projector: on the class token (g). pixels: the repair head.

    Raises:
        ValueError: an encoder without a class token.
    """

    def __init__(self, student: VisionTransformer, config: MMCConfig | None = None) -> None:
        config = config or MMCConfig()
        if student.cls_token is None:
            raise ValueError("MMC contrasts the class token and the encoder has none: set encoder.class_token=true")
        super().__init__(student, config)
        self.config = config
        self.projector = projector([student.embed_dim, config.contrast_hidden, config.contrast_hidden, config.contrast_dim])
        self.teacher_projector = momentum_copy(self.projector)
        self.pixels = PixelHead(student.embed_dim, config.pixel_hidden, patch_values(student))

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [*super().pairs(), (self.teacher_projector, self.projector)]

    def forward(self, batch: ImageBatch) -> Output:
        check_views("MMC", batch, 2)
        self.hold_prototypes()
        student, teacher = self.student, self.encoder
        assert isinstance(student, VisionTransformer) and isinstance(teacher, VisionTransformer)
        whole = [batch.pixels(view) for view in (0, 1)]
        parts = [corrupt(pixels, batch.view_seeds(view), student, self.config.corruption) for view, pixels in enumerate(whole)]
        pixels, corrupted, hidden = torch.cat(whole), torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])  # [2B, ...]
        prefix, tokens = student.encode(corrupted)  # [2B, 1, D], [2B, N, D]
        with torch.no_grad():
            seen_prefix, seen = teacher.encode(pixels)
            wanted = self.targets(self.teacher_head(seen), self.centre)  # [2B, N, K]
            keys = self.teacher_projector(seen_prefix[:, 0])  # [2B, dim]
        predicted = self.pixels(tokens)  # [2B, N, 3 * p * q]
        repair = masked_l1(predicted, student.patchify(pixels[:, :, None]), hidden)
        distil = masked_distillation(self.head(tokens), wanted, hidden, temperature=self.config.student_temperature)
        (q1, q2), (k1, k2) = self.projector(prefix[:, 0]).chunk(2), keys.chunk(2)
        nce = partial(info_nce, temperature=self.config.temperature)
        contrast = (nce(q1, k2) + nce(q2, k1)) / 2
        metrics: dict[str, Tensor | float] = {"repair": repair.detach(), "distil": distil.detach(), "contrast": contrast.detach()}
        return Output(
            loss=self.config.repair_weight * repair + self.config.distil_weight * distil + self.config.contrast_weight * contrast,
            metrics=metrics | distillation_metrics(wanted, self.teacher_temperature),
            features=prefix[:, 0].detach(),
            visuals=partial(repair_pictures, pixels[0], corrupted[0], predicted[0].detach(), student, batch),
        )
