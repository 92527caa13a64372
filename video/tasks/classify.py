"""Action classification by fine-tuning, as VideoMAE does it: mean of the tokens, LayerNorm, linear; mixed and recoloured clips; many-view testing.

Tong et al., "VideoMAE", NeurIPS 2022, table 8; the recipe is that of BEiT and MAE.

Differences to the released code: a clip's frames lie exactly ``stride`` apart (there, between both ends of the window), every view of the test
counts (there, a list that is de-duplicated), and RandAugment works on the crop (see :mod:`suite3d.video.data.randaugment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from suite3d.nn.heads import ClassificationHead
from suite3d.output import Output
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.mix import MixConfig, draw_mix, mix_clips, soft_cross_entropy, soft_labels
from suite3d.video.data.randaugment import EraseConfig, RandAugmentConfig, draw_plan, erase, rand_augment


@dataclass(kw_only=True)
class ClassifierConfig:
    """The classifier and what training does to its input.

    Attributes:
        dropout: before the linear layer.
        head_scale: factor on the linear layer's initial weights.
        mix: mixup, CutMix, label smoothing.
        randaugment: changes of colour and place of each crop.
        erase: boxes of noise.
    """

    dropout: float = 0.0
    head_scale: float = 1e-3
    mix: MixConfig = field(default_factory=MixConfig)
    randaugment: RandAugmentConfig = field(default_factory=RandAugmentConfig)
    erase: EraseConfig = field(default_factory=EraseConfig)


class ClipClassifier(nn.Module):
    """An encoder with a classification head.

    Args:
        encoder: ``(B, 3, T, S, S)`` -> ``(B, N, embed_dim)`` tokens; a vision transformer without its final norm, as the head has one.
        class_names: what the logits stand for.
        config: see :class:`ClassifierConfig`.
    """

    def __init__(self, encoder: nn.Module, class_names: Sequence[str], config: ClassifierConfig | None = None) -> None:
        super().__init__()
        self.config, self.class_names = config or ClassifierConfig(), tuple(class_names)
        if len(self.class_names) < 2:
            raise ValueError(f"a classifier needs at least two classes, got {list(class_names)}")
        self.encoder = encoder
        width = encoder.embed_dim
        assert isinstance(width, int)
        self.head = ClassificationHead(width, len(self.class_names), dropout=self.config.dropout, scale=self.config.head_scale)

    def forward(self, batch: ClipBatch) -> Output:
        pixels, targets = self.prepare(batch)
        tokens = self.encoder(pixels)  # [B', N, D]
        logits = self.head(tokens)
        loss = soft_cross_entropy(logits, targets)
        right = (logits.argmax(1) == targets.argmax(1)).float().mean()
        return Output(
            loss=loss,
            metrics={"acc_mixed": right, "short_clips": batch.short.float().mean()},
            features=tokens.detach().mean(1),
            visuals=partial(training_pictures, batch, pixels.detach()),
        )

    @torch.compiler.disable
    @torch.no_grad()
    def prepare(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Training pixels ``(B * R, 3, T, S, S)`` and soft labels ``(B * R, K)`` of all crops, a function of the samples' seeds.

        Raises:
            ValueError: a clip without a label.
        """
        config, seeds = self.config, batch.view_seeds()
        if int(batch.labels.min()) < 0:
            raise ValueError(f"classification needs labels, {batch.names[int(batch.labels.argmin())]} has none")
        crops = batch.crops()
        if config.randaugment.layers:
            crops = rand_augment((crops.float() + 0.5).clamp(0, 255).to(torch.uint8), draw_plan(config.randaugment, seeds))
        pixels = erase(batch.normalised(crops), config.erase, seeds)
        mix = draw_mix(config.mix, seeds, (pixels.shape[-2], pixels.shape[-1]))
        labels = batch.labels.repeat_interleave(batch.repeats)
        targets = soft_labels(labels, classes=len(self.class_names), smoothing=config.mix.smoothing, mix=mix)
        return mix_clips(pixels, mix), targets

    @torch.no_grad()
    def predict(self, batch: ClipBatch) -> Tensor:
        """``(B, K)`` float32 probabilities: the softmax of every window and crop of a video, averaged."""
        total = torch.zeros(len(batch), len(self.class_names), device=batch.device)
        for window in range(batch.windows):
            logits = self.head(self.encoder(batch.pixels(window)))  # [B * R, K]
            total += logits.float().softmax(1).unflatten(0, (len(batch), batch.repeats)).sum(1)
        return total / (batch.windows * batch.repeats)


def training_pictures(batch: ClipBatch, pixels: Tensor) -> dict[str, Any]:
    """The first clip as it was cropped and as the model saw it, as strips of frames."""
    from suite3d.report.clip import draw_strip

    plain = batch.crops()[0] / 255  # [3, T, S, S]
    mean, std = (torch.tensor(value, device=pixels.device)[:, None, None, None] for value in (batch.mean, batch.std))
    rows = [(part.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).cpu().numpy() for part in (plain, pixels[0] * std + mean)]
    return {"augmented": draw_strip(rows, ("cropped", "trained on"), title=batch.names[0])}
