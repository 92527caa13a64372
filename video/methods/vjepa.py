"""V-JEPA 2: predict, where a clip was hidden, the latents that a slow copy of the encoder has of the whole clip.

Assran et al., "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", 2025 (figure 2, section 2); after Bardes
et al., "Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA), 2024.

    L = mean_{g = 1, 2} mean_{i hidden by g} | predictor_g(student(context_g))_i - LN(encoder(clip)_i) |_1
    encoder <- m encoder + (1 - m) student    after every step

The seven slots: one crop; two masks a clip, of 8 boxes of 15 % and 2 boxes of 70 % of the frame, through all time; the visible patches are
gathered before they are embedded; a ViT with rotary positions; a narrow ViT over the grid with a mask token for each kind of mask; the moving
average's latents; absolute error.

The encoder that survives is the moving average, as in the published evaluations.

Differences to the released code:
- It cuts every sample's context and targets to the shortest of the batch, in (t, h, w) order, which always loses the latest frames. Here the
  contexts are padded to a constant length, nothing attends to the padding, and all hidden tokens are scored. The error is a mean over all
  hidden tokens of the batch, so a clip with more of them counts more.
- The box sizes are drawn for each clip, not once a step for the whole batch: sharing them only served the cutting. A clip's masks thus depend on
  its seed alone, not on its company.
- One draw in a hundred whose context exceeds the constant length is drawn again (``masks.fitting``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.nn.predictor import LatentPredictor
from suite3d.nn.vit import VisionTransformer
from suite3d.video.methods.latent import BlockMaskConfig, MaskedLatents


@dataclass(kw_only=True)
class VJEPAConfig:
    """V-JEPA 2.

    Attributes:
        masks: what is hidden.
        momentum: of the moving average at the first and the last step, linear between. V-JEPA 2: 0.99925 throughout; V-JEPA: 0.998 to 1. These
            are for 10^5 steps: a run of a few hundred needs about 0.99, or the encoder stays near its initial weights.
    """

    masks: BlockMaskConfig = field(default_factory=BlockMaskConfig)
    momentum: tuple[float, float] = (0.99925, 0.99925)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


class VJEPA(MaskedLatents):
    """V-JEPA 2 around a vision transformer.

    Args:
        student: what the gradient trains; rotary positions in the paper.
        predictor: from its latents to latents of the same width.
        config: see :class:`VJEPAConfig`.

    Attributes:
        encoder: moving average of the student; starts equal.
    """

    def __init__(self, student: VisionTransformer, predictor: LatentPredictor, config: VJEPAConfig | None = None) -> None:
        config = config or VJEPAConfig()
        super().__init__(predictor, student.grid, config.masks)
        self.config = config
        if predictor.proj.out_features != student.embed_dim:
            raise ValueError(f"the predictor must predict the {student.embed_dim} channels of the encoder, it predicts {predictor.proj.out_features}")
        self.student = student
        self.encoder = momentum_copy(student).eval()

    def branches(self) -> tuple[VisionTransformer, VisionTransformer]:
        return self.student, self.encoder

    def after_step(self, step: int, total: int) -> None:
        """Move the average."""
        momentum_update(self.encoder, self.student, momentum_at(step, total, *self.config.momentum))
