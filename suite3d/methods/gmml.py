"""GMML: overwrite groups of connected patches with noise or with another picture, and repair the whole picture.

Atito, Awais, Kittler, "GMML is All you Need", 2022 (figure 1; group masked model learning, first in SiT, 2021).

    L = mean over the corrupted patches i and their values of | head(encoder(corrupted picture))_i - pixels_i |

The seven slots: one crop; rectangles of connected patches with sides up to 30 % of the picture's until a drawn share is covered; nothing is
left out, the corrupted picture goes through the whole encoder, which is not told where it is corrupted; a plain ViT; no decoder, only a
perceptron on each token; the target is the pixels as they are; absolute error on what was corrupted.

Open in the paper, chosen here: one filling for all of a picture's groups, each of those in ``fill`` equally often (as released; the paper
names noise, zeros and patches of another picture, at the same place); noise is standard normal and zero is the data's mean colour, since pixels
are normalised; the ranges of the shares, which are the defaults of SiT's released function. Differences to the released code: the share is exact
instead of at least what was drawn; the other picture is never the picture itself; groups lie on the grid of patches (there an option).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from torch import nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.masked_l1 import masked_l1
from suite3d.methods.corruption import CorruptionConfig, corrupt, repair_pictures
from suite3d.methods.looking import monitored_tokens
from suite3d.methods.masked_pixels import patch_values
from suite3d.nn.heads import PixelHead
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class GMMLConfig:
    """GMML.

    Attributes:
        corruption: see :class:`suite3d.methods.corruption.CorruptionConfig`.
        hidden: channels of the two hidden layers of the head.
    """

    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    hidden: int = 2048


class GMML(nn.Module):
    """GMML around a vision transformer.

    Args:
        encoder: what is pretrained.
        config: see :class:`GMMLConfig`.
    """

    def __init__(self, encoder: VisionTransformer, config: GMMLConfig | None = None) -> None:
        super().__init__()
        self.config = config or GMMLConfig()
        self.encoder = encoder
        self.head = PixelHead(encoder.embed_dim, self.config.hidden, patch_values(encoder))

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()  # [B, 3, S, S]
        corrupted, mask = corrupt(pixels, batch.view_seeds(), self.encoder, self.config.corruption)
        tokens = self.encoder(corrupted)  # [B, N, D]
        predicted = self.head(tokens)  # [B, N, 3 * p * q]
        loss = masked_l1(predicted, self.encoder.patchify(pixels[:, :, None]), mask)
        shown = partial(repair_pictures, pixels[0], corrupted[0], predicted[0].detach(), self.encoder, batch)
        return Output(loss=loss, metrics={"corrupted": mask.float().mean()}, features=monitored_tokens(tokens), visuals=shown)
