"""VideoMAE V2: dual masking, which hides tokens from the decoder as well.

Wang et al., "VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking", CVPR 2023 (figure 1).

    L = sum_{i decoded} w_i * mean_k (decoder(encoder(visible))_ik - normalised pixels_ik)^2 / sum_i w_i,    w_i = [encoder did not see i]

As VideoMAE (:mod:`suite3d.video.methods.videomae`), but only half of the tokens are decoded: those one of four fixed running-cell maps leaves
over, drawn for each clip. A decoded token gets a mask token also where the encoder saw it; such tokens do not count in the loss. Of 784
decoded tokens at 16 x 224 x 224 about 704 count.

What else the paper has is configuration, not algorithm: repeated crops of each decoded clip (``data.repeats=4``, the learning rate rule counts
clips, not crops), a decoder of depth 4 for every encoder, ViT-g (``encoder.size=g``), and progressive training: pretrain here on unlabelled
clips, then fine-tune on a large labelled mixture, then on the task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from suite3d.masking import decoded_cells, generators_of, hidden_count, tube_mask, visible_indices
from suite3d.methods.masked_pixels import Selection
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import VisionTransformer
from suite3d.video.methods.videomae import VideoMAE, VideoMAEConfig


@dataclass(kw_only=True)
class VideoMAEV2Config:
    """VideoMAE V2.

    Attributes:
        mask_ratio: share of the places hidden from the encoder for the whole clip.
    """

    mask_ratio: float = 0.9

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class VideoMAEV2(VideoMAE):
    """VideoMAE with dual masking.

    Args: as :class:`~suite3d.video.methods.videomae.VideoMAE`.

    Raises:
        ValueError: as there; or a token grid with an odd height or width, on which the four maps do not decode equally many tokens.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: VideoMAEV2Config | None = None) -> None:
        config = config or VideoMAEV2Config()
        if encoder.grid[1] % 2 or encoder.grid[2] % 2:
            raise ValueError(f"running-cell masks need an even number of tokens along height and width, got the grid {encoder.grid}")
        super().__init__(encoder, decoder, VideoMAEConfig(mask_ratio=config.mask_ratio))

    def select(self, seeds: list[int], device: torch.device) -> Selection:
        grid = self.encoder.grid
        places = grid[1] * grid[2]
        visible = grid[0] * (places - hidden_count(places, self.config.mask_ratio))
        hidden = tube_mask(grid, self.config.mask_ratio, generators_of(seeds, "mask"), device=device)
        decoded = visible_indices(decoded_cells(grid, generators_of(seeds, "decode"), device=device), grid[0] * places // 2)
        return Selection(visible=visible_indices(hidden, visible), decoded=decoded, weight=hidden.gather(1, decoded))
