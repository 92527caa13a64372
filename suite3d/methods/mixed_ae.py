"""MixedAE: pictures are mixed patch by patch, and each is rebuilt from its own patches, which have to find one another.

Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023 (figure 3).

    z = encoder(mixture of G pictures),    z_g = those of its tokens that are patches of picture g
    L = mean over pictures g and patches i not in the mixture of (decoder(z_g)_i - normalised pixels_i)^2  +  w L_homologous
    L_homologous = mean over tokens i of -1/|P_i| sum_{p in P_i} log( exp(h_i.h_p / t) / sum_{a != i} exp(h_i.h_a / t) )

P_i are the other tokens of i's picture in the same mixture, a all its other tokens, h = project(z) of unit length. The encoder has no mask
tokens and nothing is left out of its input; what a picture lacks is what the others' patches took the place of. Mixing alone would let the
others' patches help; so the tokens must recognise their own ("homologous recognition"): in every block a query attends only to the N / G keys
it attends to most (homologous attention), and the contrast checks that what it found is its own picture. A learned segment embedding, one for
each place in the group, is added to a picture's patches. Fine-tuning uses plain attention and no segments.

The seven slots: one crop; neighbours of the batch in groups of G share a token grid in equal parts at random; all patches of the mixture; a ViT;
MAE's decoder for each picture; normalised pixels; squared error and the contrast.

Open in the paper or not certain, chosen here: one mixture for a group (its "compose", as many tokens as MAE with a mask ratio of 1 - 1/G); the
segments are added before the first block; the class token attends to all and is attended to by all; the projection is one hidden layer with
LayerNorm; w and t. There is no released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.masked_pixels import jointly_normalised_patches, token_mse
from suite3d.losses.rows import dots, unit
from suite3d.masking import hidden_indices, sub_generator, visible_indices
from suite3d.methods.looking import clip_pictures, monitored_tokens, view_frames
from suite3d.methods.masked_pixels import MaskedPixels
from suite3d.nn.attention import Attention, Rotation
from suite3d.nn.block import Block
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.heads import projector
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class MixedAEConfig:
    """MixedAE.

    Attributes:
        group: G, pictures in a mixture; 2 is the paper's mixing ratio of 0.5.
        contrast: w.
        temperature: t.
        hidden, dim: channels of the hidden layer and of the output of the projection head.
    """

    group: int = 2
    contrast: float = 0.1
    temperature: float = 0.25
    hidden: int = 512
    dim: int = 128

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.group < 2 or self.contrast < 0:
            raise ValueError(f"expected at least two pictures in a mixture and contrast >= 0, got {self.group} and {self.contrast}")


class MixedAE(MaskedPixels):
    """MixedAE around a vision transformer.

    Args:
        encoder: what is pretrained.
        decoder: with one output for each value of a patch.
        config: see :class:`MixedAEConfig`.

    Raises:
        ValueError: a decoder whose outputs do not fit the encoder's patches; a token grid that a group cannot share equally.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: MixedAEConfig | None = None) -> None:
        super().__init__(encoder, decoder)
        self.config = config or MixedAEConfig()
        tokens = encoder.grid[1] * encoder.grid[2]
        if tokens % self.config.group or tokens // self.config.group < 2:
            raise ValueError(f"{self.config.group} pictures must share {tokens} patches equally, at least two each: change method.group")
        self.segments = nn.Parameter(torch.empty(self.config.group, encoder.embed_dim))
        nn.init.trunc_normal_(self.segments, std=0.02)
        self.projector = projector([encoder.embed_dim, self.config.hidden, self.config.dim], norm="layer")

    def forward(self, batch: ImageBatch) -> Output:
        pixels, group = batch.pixels(), self.config.group  # [B, 3, S, S]
        owner = self.owners(batch.view_seeds(), batch.device)  # [B / G, N]
        mixed = self.mix(pixels, owner)  # [B / G, 3, S, S]
        tokens, found = self.encode(mixed, owner)  # [B / G, N, D]

        place = torch.arange(group, device=batch.device).repeat(len(owner))  # [B] place of a picture in its group
        mask = owner.repeat_interleave(group, dim=0) != place[:, None]  # [B, N] True = not in the mixture
        kept = mask.shape[1] // group
        visible, targets = visible_indices(mask, kept), hidden_indices(mask, mask.shape[1] - kept)
        own = tokens.repeat_interleave(group, dim=0).gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))  # [B, N / G, D]
        predicted = self.decoder(own, visible, targets)  # [B, N - N / G, K]
        wanted = jointly_normalised_patches(gather_patches(pixels[:, :, None], targets, self.encoder.patch))
        rebuilt = token_mse(predicted, wanted)
        contrast = homologous_contrast(self.projector(tokens), owner, temperature=self.config.temperature)
        shown = (pixels[0], mixed[0], visible[0], targets[0], predicted[0].detach(), batch)
        return Output(
            loss=rebuilt + self.config.contrast * contrast,
            metrics={"rebuilt": rebuilt.detach(), "contrast": contrast.detach(), "homologous_attention": found},
            features=monitored_tokens(tokens),
            visuals=partial(self.pictures, *shown),
        )

    def owners(self, seeds: list[int], device: torch.device) -> Tensor:
        """``(B / G, N)`` int64: which picture of its group each patch of a mixture is from, all equally often.

        Raises ValueError for a batch that is not a whole number of groups.
        """
        group, tokens = self.config.group, self.encoder.grid[1] * self.encoder.grid[2]
        if len(seeds) % group:
            raise ValueError(f"pictures are mixed in groups of {group}, got a batch of {len(seeds)}: use a multiple, or change method.group")
        order = [torch.randperm(tokens, generator=sub_generator(seed, "mixture")) for seed in seeds[::group]]
        return (torch.stack(order) % group).to(device)

    def mix(self, pixels: Tensor, owner: Tensor) -> Tensor:
        """``(B, 3, S, S)`` pictures and ``(B / G, N)`` owners -> ``(B / G, 3, S, S)`` mixtures."""
        _, height, width = self.encoder.grid
        _, p, q = self.encoder.patch
        chosen = rearrange(owner, "b (h w) -> b 1 1 h w", h=height, w=width).repeat_interleave(p, 3).repeat_interleave(q, 4)
        groups = pixels.unflatten(0, (-1, self.config.group))  # [B / G, G, 3, S, S]
        return groups.gather(1, chosen.expand(-1, 1, groups.shape[2], -1, -1))[:, 0]

    def encode(self, mixed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(B / G, N, D)`` by homologous attention, and the share of its keys in the last block that are of the query's picture."""
        encoder, prefix = self.encoder, self.encoder.num_prefix
        x, rotation = encoder.embed(mixed)
        x = torch.cat((x[:, :prefix], x[:, prefix:] + self.segments[owner].to(x.dtype)), dim=1)  # [B / G, P + N, D]
        keys = owner.shape[1] // self.config.group
        attended = torch.ones(0)
        for block in encoder.blocks:
            if encoder.config.checkpoint and self.training:
                x, attended = checkpoint(_homologous_block, block, x, rotation, keys, prefix, use_reentrant=False)
            else:
                x, attended = _homologous_block(block, x, rotation, keys, prefix)
        same = (owner[:, :, None] == owner[:, None])[:, None]  # [B / G, 1, N, N]
        patches = attended[:, :, prefix:, prefix:]
        return encoder.norm(x)[:, prefix:], (patches & same).sum() / patches.sum()

    def pictures(self, pixels: Tensor, mixed: Tensor, visible: Tensor, targets: Tensor, predicted: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """The first mixture, and its first picture: whole, what of it is in the mixture, rebuilt."""
        from suite3d.report.clip import draw_strip

        rebuilt = clip_pictures(pixels[:, None], visible, targets, predicted, self.encoder.patch, batch, jointly=True)
        return rebuilt | {"mixture": draw_strip([view_frames(mixed[:, None], batch)], ["mixture"], title=batch.names[0])}


def _homologous_block(block: nn.Module, x: Tensor, rotation: Rotation | None, keys: int, prefix: int) -> tuple[Tensor, Tensor]:
    """A block whose queries attend to their ``keys`` strongest patches and to the prefix; what they attend to, ``(B, heads, N, N)`` bool."""
    assert isinstance(block, Block) and isinstance(block.attn, Attention)
    mask = block.attn.strongest(block.norm1(x), keys, rotation, prefix=prefix)
    return block(x, rotation, mask), mask


def homologous_contrast(features: Tensor, owner: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrast inside each mixture: the other patches of a patch's picture are its positives, the rest its negatives.

    Args:
        features: ``(M, N, D)`` of M mixtures.
        owner: ``(M, N)`` int64, at least two patches of each picture.
        temperature: t > 0.

    Returns:
        Scalar, at least float32; averaged over ranks it is the mean over all ranks' mixtures.

    Source: Chen et al., CVPR 2023, section 3.3 (after Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020).
    """
    check_temperature(temperature)
    z = unit(features)
    itself = torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device)  # [N, N]
    positive = (owner[:, :, None] == owner[:, None]) & ~itself  # [M, N, N]
    logits = dots(z, z) / temperature  # [M, N, N]
    energy = logits.masked_fill(itself, -torch.inf).logsumexp(dim=2)  # [M, N]
    losses = energy - (logits * positive).sum(dim=2) / positive.sum(dim=2)
    return mean_over_ranks(losses.sum(), losses.numel())
