"""SparK: masked modelling for convolutional networks, the hidden area left out by sparse convolution, all levels decoded.

Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023 (figure 2, section 3).

    L = mean over the hidden cells i and their values of (decoder(densify(encoder(visible)))_i - normalised pixels_i)^2

The seven slots: one crop; uniform random mask of cells as large as the encoder's stride (32 pixels for the published networks), 60 %; the encoder
is a convolutional network that computes at visible places only (masked dense convolution, or this project's sparse convolution: the same
numbers); a U-Net decoder that gets every level of the encoder, each normed, its hidden places filled with a learned mask embedding and projected;
the target is each cell's pixels with its own mean and deviation taken out; squared error.

    S_i = encoder level i,    S'_i = project(fill(norm(S_i))),    D_deepest = S'_deepest,    D_(i-1) = upsample(D_i) + S'_(i-1)

Chosen where we are not certain of the released code, or different from it:
- Widths halve from ``width`` at the deepest level; the projection is 1 x 1 there and 3 x 3 above, also where the channels are equal already.
- The norm before the fill is a batch norm for ResNet and a LayerNorm for ConvNeXt, each over visible places; the decoder has batch norms.
  All batch norms share their statistics over the ranks (the recipe converts them).
- Encoders whose finest level has the pictures' resolution (the small ResNet stem) add that level before the last projection.
- The optimiser is AdamW instead of LAMB, and weight decay stays constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.backbones.convnext import LayerNorm2d
from suite3d.image.backbones.sparse_resnet import sparse_levels
from suite3d.image.backbones.visible import VisibleCells, VisibleOnly, masked_levels
from suite3d.image.data.batch import ImageBatch
from suite3d.losses.masked_pixels import jointly_normalised_patches, token_mse
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.methods.looking import clip_pictures, monitored_tokens
from suite3d.nn.patch_embed import gather_patches
from suite3d.output import Output


@dataclass(kw_only=True)
class SparKConfig:
    """SparK; the defaults are the paper's.

    Attributes:
        mask_ratio: share of the cells hidden.
        width: channels of the decoder at the deepest level; they halve with every step up.
        convolution: how the encoder leaves the hidden area out: ``masked`` (dense maps, any encoder) or ``sparse`` (ResNet). Same result.
    """

    mask_ratio: float = 0.6
    width: int = 768
    convolution: Literal["masked", "sparse"] = "masked"

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class SparK(nn.Module):
    """SparK around a convolutional encoder.

    Args:
        encoder: with ``levels``, ``level_dims`` and a ``stride`` that is a power of two.
        config: see :class:`SparKConfig`.

    Raises:
        ValueError: an encoder without levels, a width that does not halve often enough, sparse convolution of anything but a ResNet.
    """

    def __init__(self, encoder: nn.Module, config: SparKConfig | None = None) -> None:
        super().__init__()
        self.config = config or SparKConfig()
        if not hasattr(encoder, "levels"):
            raise ValueError(f"SparK needs an encoder with levels (encoder.kind=resnet or convnext), got a {type(encoder).__name__}")
        self.encoder = encoder
        self.stride = int(encoder.stride)  # type: ignore[arg-type]
        batch_norms = any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
        if self.config.convolution == "sparse" and not batch_norms:
            raise ValueError(f"convolution=sparse is there for ResNet only, got {type(encoder).__name__}: use convolution=masked")
        dims = list(encoder.level_dims)[::-1]  # type: ignore[arg-type]
        self.decoder = LightDecoder(self.config.width, self.stride)
        widths = self.decoder.widths[: len(dims)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) if batch_norms else LayerNorm2d(dim) for dim in dims)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, dim, 1, 1)) for dim in dims)
        self.projections = nn.ModuleList(
            nn.Conv2d(dim, width, 1 if deepest == 0 else 3, padding=0 if deepest == 0 else 1)
            for deepest, (dim, width) in enumerate(zip(dims, widths, strict=True))
        )
        for token in self.mask_tokens:
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()  # [B, 3, S, S]
        mask = self.mask(batch.view_seeds(), pixels)  # [B, h, w]
        seen = mask[0].numel() - hidden_count(mask[0].numel(), self.config.mask_ratio)
        cells = VisibleCells(mask, seen)
        maps = self.levels(pixels, cells)
        picture = self.decoder(self.densify(maps, cells))  # [B, 3, S, S]
        patch, hidden = (1, self.stride, self.stride), hidden_indices(mask.flatten(1), mask[0].numel() - seen)
        predicted = gather_patches(picture[:, :, None], hidden, patch)  # [B, M, 3 * stride^2]
        with torch.no_grad():
            wanted = jointly_normalised_patches(gather_patches(pixels[:, :, None], hidden, patch))
        tokens = rearrange(cells.gather(maps[-1].detach()), "b c v -> b v c")
        visible = visible_indices(mask[:1].flatten(1), seen)[0]
        pictures = partial(clip_pictures, pixels[0][:, None], visible, hidden[0], predicted[0].detach(), patch, batch, jointly=True)
        return Output(loss=token_mse(predicted, wanted), features=monitored_tokens(tokens), visuals=pictures)

    def mask(self, seeds: list[int], pixels: Tensor) -> Tensor:
        """``(B, h, w)`` bool, True = hidden, equally many cells in each picture. Raises ValueError for a side that the stride does not divide."""
        height, width = pixels.shape[2:]
        if height % self.stride or width % self.stride or height * width < 2 * self.stride**2:
            raise ValueError(f"SparK needs pictures of at least two cells of {self.stride} pixels, got {height} x {width}: change augment.size")
        grid = (1, height // self.stride, width // self.stride)
        hidden = tube_mask(grid, self.config.mask_ratio, generators_of(seeds, "mask"), device=pixels.device)
        return hidden.unflatten(1, grid[1:])

    def levels(self, pixels: Tensor, cells: VisibleCells) -> list[Tensor]:
        """The encoder's maps, finest first, zero at hidden places."""
        return (sparse_levels if self.config.convolution == "sparse" else masked_levels)(self.encoder, pixels, cells)

    @torch.compiler.disable
    def densify(self, maps: list[Tensor], cells: VisibleCells) -> list[Tensor]:
        """S', deepest first: each level normed, filled with its mask embedding where it is hidden, and projected to the decoder's width."""
        with VisibleOnly(cells, self.norms):
            normed = [norm(level) for norm, level in zip(self.norms, maps[::-1], strict=True)]
        filled = [
            torch.where(cells.at(*level.shape[2:]), level, token.to(level.dtype)) for level, token in zip(normed, self.mask_tokens, strict=True)
        ]
        return [project(level) for project, level in zip(self.projections, filled, strict=True)]


class LightDecoder(nn.Module):
    """The U-Net half that goes up: at each step the encoder's level is added, then the map doubles its sides and halves its channels.

    Args:
        width: channels at the deepest level.
        stride: pixels of the picture per place of the deepest level, a power of two.

    Raises:
        ValueError: another stride, or a width that cannot be halved as often.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        steps = int(math.log2(stride))
        if 2**steps != stride or width % stride:
            raise ValueError(f"the decoder expected a stride that is a power of two and a width that is a multiple of it, got {stride} and {width}")
        self.widths = [width // 2**step for step in range(steps + 1)]
        self.steps = nn.ModuleList(DoubleUp(before, after) for before, after in zip(self.widths[:-1], self.widths[1:]))
        self.head = nn.Conv2d(self.widths[-1], 3, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels ``(B, widths[i], h_i, w_i)``, deepest first, each twice as fine as the one before -> ``(B, 3, H, W)``."""
        x = levels[0]
        for number, step in enumerate(self.steps, start=1):
            x = step(x)
            if number < len(levels):
                x = x + levels[number]
        return self.head(x)


class DoubleUp(nn.Module):
    """Transposed 4 x 4 convolution of stride 2, then two 3 x 3 convolutions with batch norms, ReLU6 between."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 4, 2, 1)
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.up(x))
