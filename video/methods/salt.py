"""SALT: predict, where a clip was hidden, the latents of a frozen encoder that was trained on pixels.

Li et al., "Rethinking JEPA: Compute-Efficient Video SSL with Frozen Teachers" (SALT: static-teacher asymmetric latent training), 2025.

    stage 1:  teacher = a masked autoencoder on pixels (here ``suite3d pretrain videomae``), frozen from then on
    stage 2:  L = mean_g mean_{i hidden by g} | predictor_g(encoder(context_g))_i - LN(teacher(clip)_i) |_1

Stage 2 is V-JEPA 2 (:mod:`suite3d.video.methods.vjepa`) with a teacher that does not move: nothing can collapse, no momentum is to be tuned,
the loss can be compared between runs, and teacher and student may differ in size and positions. It is the baseline for what a moving teacher
adds.

Differences to the paper: its teacher was trained with the same block masks; any of ours will do, and VideoMAE's tubes are what
:mod:`suite3d.video.methods.videomae` trains with. Contexts are padded, not cut, as in :mod:`suite3d.video.methods.vjepa`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from suite3d.nn.predictor import LatentPredictor
from suite3d.nn.vit import VisionTransformer
from suite3d.video.methods.latent import BlockMaskConfig, MaskedLatents


@dataclass(kw_only=True)
class SALTConfig:
    """SALT.

    Attributes:
        masks: what is hidden from the student.
    """

    masks: BlockMaskConfig = field(default_factory=BlockMaskConfig)


class SALT(MaskedLatents):
    """A student of a frozen teacher.

    Args:
        encoder: the student; what is trained and survives.
        predictor: from its latents to the teacher's.
        teacher: trained before; on the same clip size with as many tokens along each axis. It is frozen here.
        config: see :class:`SALTConfig`.

    Raises:
        ValueError: another clip or grid of the teacher, or a predictor that does not fit.
    """

    def __init__(self, encoder: VisionTransformer, predictor: LatentPredictor, teacher: VisionTransformer, config: SALTConfig | None = None) -> None:
        config = config or SALTConfig()
        super().__init__(predictor, encoder.grid, config.masks)
        self.config = config
        if (teacher.grid, teacher.clip) != (encoder.grid, encoder.clip):
            raise ValueError(
                f"teacher and student must cut the same clip into the same grid, got {teacher.grid} tokens of {teacher.clip} "
                f"and {encoder.grid} of {encoder.clip}"
            )
        if predictor.proj.out_features != teacher.embed_dim:
            raise ValueError(f"the predictor must predict the {teacher.embed_dim} channels of the teacher, it predicts {predictor.proj.out_features}")
        self.encoder = encoder
        self.teacher = teacher.requires_grad_(False).eval()

    def branches(self) -> tuple[VisionTransformer, VisionTransformer]:
        return self.encoder, self.teacher
