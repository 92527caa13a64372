"""CAE: predict in the latent space what the hidden patches would be encoded as, and only then decode them.

Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", IJCV 2023 (figure 1, equations 1 to 5).

    Z_v = encoder(visible),   Z_m = regressor(mask queries; Z_v),   Y_m = decoder(Z_m)
    L = target loss(Y_m, hidden patches) + 2 * mean (Z_m - stop(encoder(hidden)))^2

The seven slots: one crop; half of the patches hidden in BEiT's blocks; the visible patches are gathered before they are embedded; a plain ViT;
blocks of cross-attention in which the queries of the hidden patches read the visible latents and themselves while the visible latents stay as they
are, then a ViT over the hidden patches alone; the patches and their own latents; a target loss and squared error.

Because regressor and decoder never touch the visible latents, and the prediction must lie where the encoder would have put the hidden patches, the
encoder need not help with the completion: it can do nothing but describe what it sees.

Differences to the paper: its target are the 8192 tokens of DALL-E's tokeniser, whose weights would have to be downloaded. Here the target is a part
passed in: :class:`PixelTarget` (normalised pixels, squared error; the default) or :class:`RandomTokens` (the tokens of a fixed random quantiser,
cross-entropy as in the paper). Each mask hides exactly as many patches, next to BEiT's number. Positions are added to queries and keys of the
regressor, and once before the decoder; the class token is not seen by the regressor: the paper leaves both open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.masked_pixels import jointly_normalised_patches, token_mse
from suite3d.losses.rows import dots
from suite3d.masking import blockwise_mask, generators_of, hidden_count, hidden_indices, visible_indices
from suite3d.methods.looking import clip_pictures, monitored_tokens
from suite3d.nn.attention import CrossAttention
from suite3d.nn.block import MLP, Block, LayerScale
from suite3d.nn.initialise import initialise
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class CAEConfig:
    """CAE.

    Attributes:
        mask_ratio: share of the patches hidden. The paper: 0.5.
        smallest_block: patches of the smallest box of a mask. BEiT, the paper: 16 of 196.
        align_weight: weight of the latents' error. The paper: 2.
    """

    mask_ratio: float = 0.5
    smallest_block: int = 16
    align_weight: float = 2.0

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if self.align_weight < 0 or self.smallest_block < 1:
            raise ValueError(f"expected align_weight >= 0 and smallest_block >= 1, got {self.align_weight} and {self.smallest_block}")


class PixelTarget(nn.Module):
    """Each hidden patch's pixels with its own mean and deviation taken out; squared error.

    Args: values: numbers of a patch.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.outputs = values

    def forward(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """``predicted (B, M, outputs)``, ``patches (B, M, values)`` -> scalar."""
        return token_mse(predicted, jointly_normalised_patches(patches))


class RandomTokens(nn.Module):
    """The number of the nearest of K random directions to a random projection of the normalised patch; cross-entropy.

    A tokeniser without weights to download or train (Chiu et al., "Self-supervised Learning with Random-projection Quantizer", ICML 2022).

    Args:
        values: numbers of a patch. codes: K. dim: of the projection.
        seed: of projection and codes, which are kept with the weights.
    """

    projection: Tensor
    codes: Tensor

    def __init__(self, values: int, codes: int = 8192, *, dim: int = 16, seed: int = 0) -> None:
        super().__init__()
        if codes < 2 or dim < 1:
            raise ValueError(f"RandomTokens expected at least two codes and a positive width, got {codes} and {dim}")
        self.outputs = codes
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection", torch.randn(values, dim, generator=generator) / values**0.5)
        self.register_buffer("codes", F.normalize(torch.randn(codes, dim, generator=generator), dim=1))

    @torch.no_grad()
    def tokens(self, patches: Tensor) -> Tensor:
        """``(B, M, values)`` -> ``(B, M)`` int64."""
        projected = dots(jointly_normalised_patches(patches), self.projection.T)  # [B, M, dim]
        return dots(projected, self.codes).argmax(dim=-1)

    def forward(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """``predicted (B, M, outputs)`` logits, ``patches (B, M, values)`` -> scalar."""
        tokens = self.tokens(patches)
        return mean_over_ranks(F.cross_entropy(predicted.float().flatten(0, 1), tokens.flatten(), reduction="sum"), tokens.numel())


class PlacedCrossAttention(CrossAttention):
    """Cross-attention whose keys know their places and whose values do not."""

    def attend_placed(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``x (B, Q, dim)``, ``keys, values (B, K, dim)`` -> ``(B, Q, dim)``."""
        (wk, wv), (bk, bv) = self.kv.weight.chunk(2), self.kv.bias.chunk(2)
        q, k, v = (
            part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for part in (self.q(x), F.linear(keys, wk, bk), F.linear(values, wv, bv))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class RegressorBlock(nn.Module):
    """x + cross(norm_q(x + p), norm_k([seen; x] + p), norm_v([seen; x])), then x + mlp(norm2(x)); both branches scaled."""

    def __init__(self, dim: int, heads: int, *, layer_scale: float, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm_q, self.norm_k, self.norm_v, self.norm2 = (nn.LayerNorm(dim, eps=eps) for _ in range(4))
        self.cross_attn = PlacedCrossAttention(dim, heads)
        self.mlp = MLP(dim, round(dim * mlp_ratio))
        self.ls1, self.ls2 = (LayerScale(dim, layer_scale) if layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, seen: Tensor, x_place: Tensor, seen_place: Tensor) -> Tensor:
        """``x (B, M, dim)`` at ``x_place``, ``seen (B, V, dim)`` at ``seen_place`` -> ``(B, M, dim)``."""
        context, place = torch.cat((seen, x), dim=1), torch.cat((seen_place, x_place), dim=1)  # [B, V + M, dim]
        x = x + self.ls1(self.cross_attn.attend_placed(self.norm_q(x + x_place), self.norm_k(context + place), self.norm_v(context)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class LatentRegressor(nn.Module):
    """From the visible latents to latents of the hidden patches, and from those to the target.

    Args:
        encoder: gives width, heads and grid.
        outputs: numbers predicted for a patch.
        depth, decoder_depth: blocks of the regressor and of the decoder; 4 and 4 in the paper.
        layer_scale: initial scale of the branches; 0.1 in the paper, 0 = none.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        outputs: int,
        *,
        depth: int = 4,
        decoder_depth: int = 4,
        layer_scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        dim, heads = encoder.embed_dim, encoder.num_heads
        if depth < 1 or decoder_depth < 1:
            raise ValueError(f"expected at least one block of regressor and decoder, got {depth} and {decoder_depth}")
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = Positions("sincos_2d", encoder.grid, dim)
        self.blocks = nn.ModuleList(RegressorBlock(dim, heads, layer_scale=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_blocks = nn.ModuleList(Block(dim, heads, qkv_bias="full", layer_scale=layer_scale) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, outputs)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        initialise(self, generator)
        nn.init.trunc_normal_(self.mask_token, std=0.02, generator=generator)

    def forward(self, tokens: Tensor, visible: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``tokens (B, V, D)`` at ``visible (B, V)`` -> latents ``(B, M, D)`` at ``targets (B, M)``, and what they decode to ``(B, M, outputs)``."""
        seen_place, place = self.pos_embed(visible).to(tokens.dtype), self.pos_embed(targets).to(tokens.dtype)
        x = self.mask_token.to(tokens.dtype).expand_as(place)  # [B, M, D]
        for block in self.blocks:
            x = block(x, tokens, place, seen_place)
        latents = self.norm(x)
        x = latents + place
        for block in self.decoder_blocks:
            x = block(x)
        return latents, self.head(self.decoder_norm(x))


class CAE(nn.Module):
    """CAE around a vision transformer.

    Args:
        encoder: what is pretrained.
        regressor: with as many outputs as the target wants.
        target: what the decoder predicts of a hidden patch, and how wrong it is.
        config: see :class:`CAEConfig`.

    Raises:
        ValueError: a regressor whose outputs do not fit the target.
    """

    def __init__(
        self, encoder: VisionTransformer, regressor: LatentRegressor, target: PixelTarget | RandomTokens, config: CAEConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config or CAEConfig()
        if regressor.head.out_features != target.outputs:
            raise ValueError(f"the regressor must predict the {target.outputs} outputs of the target, it predicts {regressor.head.out_features}")
        self.encoder, self.regressor, self.target = encoder, regressor, target

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()[:, :, None]  # [B, 3, 1, S, S]
        mask = self.mask(batch.view_seeds(), batch.device)
        hidden = int(mask[0].sum())
        visible, targets = visible_indices(mask, mask.shape[1] - hidden), hidden_indices(mask, hidden)
        tokens = self.encoder(pixels, visible)  # [B, V, D]
        latents, predicted = self.regressor(tokens, visible, targets)  # [B, M, D], [B, M, outputs]
        with torch.no_grad():
            aligned = self.encoder(pixels, targets)  # [B, M, D]
            patches = gather_patches(pixels, targets, self.encoder.patch)  # [B, M, 3 * p * q]
        decoding, alignment = self.target(predicted, patches), token_mse(latents, aligned)
        pictures = partial(clip_pictures, pixels[0], visible[0], targets[0], predicted[0].detach(), self.encoder.patch, batch, jointly=True)
        return Output(
            loss=decoding + self.config.align_weight * alignment,
            metrics={"decoding": decoding.detach(), "alignment": alignment.detach()},
            features=monitored_tokens(tokens),
            visuals=pictures if isinstance(self.target, PixelTarget) else None,
        )

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        """``(B, N)`` bool, True = hidden, equally many in each row."""
        generators = generators_of(seeds, "mask")
        return blockwise_mask(self.encoder.grid, self.config.mask_ratio, generators, smallest=self.config.smallest_block, device=device)
