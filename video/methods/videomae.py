"""VideoMAE: hide nine tenths of a clip in tubes, rebuild the hidden pixels from the rest.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", NeurIPS 2022 (figure 2).

    L = mean over the hidden tokens i and their 2 * 16 * 16 * 3 values of (decoder(encoder(visible))_i - normalised pixels_i)^2

The seven slots: one crop; tube mask (the same places hidden at all times); the visible patches are gathered before they are embedded; a plain
ViT with fixed sine positions; a narrow ViT over the visible tokens and one mask token per hidden one; the target is each tube's pixels,
normalised channel by channel; mean squared error.

Differences to the released code, none of which changes the result:
- It embeds all patches and then throws the hidden ones away, and takes the targets from un-normalised pixels of the whole clip; here only
  what is used is touched, and the target's epsilon is scaled instead (see :func:`suite3d.losses.masked_pixels.normalised_patches`).
- It picks tokens by boolean masks, whose size the host must wait for; here by index lists of known length.
- It hides int(ratio * places) places; here that is rounded (176 of 196 either way).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suite3d.losses.masked_pixels import normalised_patches
from suite3d.masking import (
    ColourNoise,
    ColourNoiseConfig,
    generators_of,
    hidden_count,
    hidden_indices,
    tube_mask,
    visible_indices,
)
from suite3d.methods.looking import clip_pictures, monitored_tokens
from suite3d.methods.masked_pixels import MaskedPixels, Selection
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output
from suite3d.video.data.batch import ClipBatch

TARGET_EPS = 1e-6
"""Added to the standard deviation of a tube, for pixels in [0, 1]."""


@dataclass(kw_only=True)
class VideoMAEConfig:
    """VideoMAE.

    Attributes:
        mask_ratio: share of the places hidden for the whole clip. The paper: 0.9, and 0.75 on UCF101.
        decode_ratio: share of the hidden tokens that are decoded and scored, drawn anew for each clip; 1 is VideoMAE. Less is cheap with a
            cross-attention decoder, whose targets do not see one another (CrossMAE, Fu et al., 2024).
        mask: ``tube`` (places uniformly at random, VideoMAE's) or ``colour_noise`` (the places are the smallest values of a window of filtered
            noise, so that hidden tubes clump or spread: ColorMAE, Hinojosa et al., ECCV 2024, lifted to tubes).
        noise: that ``colour_noise`` masks are cut from.
    """

    mask_ratio: float = 0.9
    decode_ratio: float = 1.0
    mask: Literal["tube", "colour_noise"] = "tube"
    noise: ColourNoiseConfig = field(default_factory=ColourNoiseConfig)

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if not 0 < self.decode_ratio <= 1:
            raise ValueError(f"decode_ratio must lie in (0, 1], got {self.decode_ratio}")


class VideoMAE(MaskedPixels):
    """VideoMAE around a vision transformer. The state dict has the names of the published pre-training files.

    Args:
        encoder: what is pretrained; its input size and patch decide the token grid.
        decoder: :class:`~suite3d.nn.decoder.SelfDecoder` (the paper's) or :class:`~suite3d.nn.decoder.CrossDecoder` with one output for
            each value of a patch.
        config: see :class:`VideoMAEConfig`.

    Raises:
        ValueError: a decoder whose outputs do not fit the encoder's patches.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: VideoMAEConfig | None = None) -> None:
        super().__init__(encoder, decoder)
        self.config = config or VideoMAEConfig()
        self.noise = ColourNoise(self.config.noise, encoder.grid) if self.config.mask == "colour_noise" else None
        self.register_state_dict_post_hook(_publish_names)
        self.register_load_state_dict_pre_hook(_accept_names)

    def forward(self, batch: ClipBatch) -> Output:
        pixels, chosen = self.prepare(batch)
        loss, tokens, predicted = self.reconstruct(pixels, chosen, self.target_eps(batch))
        metrics: dict[str, Tensor | float] = {"short_clips": batch.short.float().mean()}
        pictures = partial(clip_pictures, pixels[0], chosen.visible[0], chosen.decoded[0], predicted[0].detach(), self.encoder.patch, batch)
        return Output(loss=loss, metrics=metrics, features=monitored_tokens(tokens), visuals=pictures)

    @torch.compiler.disable
    def prepare(self, batch: ClipBatch) -> tuple[Tensor, Selection]:
        """Pixels ``(B', 3, T, S, S)`` of all crops, and which tokens of each are seen and predicted."""
        return batch.pixels(), self.select(batch.view_seeds(), batch.device)

    def select(self, seeds: list[int], device: torch.device) -> Selection:
        """Visible and decoded tokens of one crop per seed; static shapes."""
        grid = self.encoder.grid
        places = grid[1] * grid[2]
        hidden = grid[0] * hidden_count(places, self.config.mask_ratio)
        mask = self.mask(seeds, device)
        decoded = hidden_indices(mask, hidden)
        if self.config.decode_ratio < 1:
            decoded = _subset(decoded, max(round(self.config.decode_ratio * hidden), 1), seeds)
        return Selection(visible=visible_indices(mask, grid[0] * places - hidden), decoded=decoded)

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        """``(B, N)`` bool, True = hidden: the same places at all times, equally many in each row."""
        grid, ratio, generators = self.encoder.grid, self.config.mask_ratio, generators_of(seeds, "mask")
        if self.noise is not None:
            return self.noise.mask(ratio, generators, device=device)
        return tube_mask(grid, ratio, generators, device=device)

    def reconstruct(self, pixels: Tensor, chosen: Selection, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the encoder's tokens ``(B, V, D)`` and the predictions ``(B, M, K * 3)``, for normalised ``pixels (B, 3, T, H, W)``."""
        return self.predict(pixels, chosen, partial(normalised_patches, channels=pixels.shape[1], eps=eps))

    def target_eps(self, batch: ClipBatch) -> Tensor:
        """``(3,)`` epsilon of the target for pixels that were divided by ``batch.std``."""
        return TARGET_EPS / torch.tensor(batch.std, device=batch.device)


def _subset(index: Tensor, count: int, seeds: list[int]) -> Tensor:
    """``(B, M)`` -> ``(B, count)`` of its columns, others for each row, in increasing order."""
    generators = generators_of(seeds, "decode")
    columns = torch.stack([torch.randperm(index.shape[1], generator=generator)[:count].sort().values for generator in generators])
    return index.gather(1, columns.to(index.device))


_OUTSIDE = ("encoder_to_decoder.weight", "mask_token")
"""Parameters that live in our decoder and stand beside it in the published files."""


def _publish_names(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in _OUTSIDE:
        state[prefix + name] = state.pop(f"{prefix}decoder.{name}")


def _accept_names(_module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    for name in _OUTSIDE:
        if prefix + name in state:
            state[f"{prefix}decoder.{name}"] = state.pop(prefix + name)
