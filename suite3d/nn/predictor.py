"""From the latents of the visible tokens to the latents of the hidden ones: the predictor of joint-embedding prediction."""

from __future__ import annotations

import math

import torch
from einops import repeat
from torch import Tensor, nn

from suite3d.nn.positions import Grid, Rope
from suite3d.nn.vit import Block, initialise


class LatentPredictor(nn.Module):
    """A narrow transformer over the whole grid: projected latents where the context is, a mask token everywhere else (V-JEPA 2's predictor).

    Context and hidden tokens together are the grid, so however many of each a sample has, the sequence has N tokens: nothing is padded, cut or
    masked here. Rotary positions tell the tokens apart.

    Args:
        enc_dim: channels of the context's latents.
        out_dim: channels of the predicted latents.
        grid: tokens along (t, h, w).
        dim, depth, heads: channels, blocks, attention heads.
        masks: kinds of masks; each has a mask token of its own.
        mlp_ratio, eps: of the blocks.
        generator: source of the initial weights.

    Source: Assran et al., "V-JEPA 2", 2025, section 2.1 and appendix A.
    """

    def __init__(
        self,
        enc_dim: int,
        out_dim: int,
        grid: Grid,
        *,
        dim: int = 384,
        depth: int = 12,
        heads: int = 12,
        masks: int = 2,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(enc_dim, dim)
        self.mask_tokens = nn.Parameter(torch.empty(masks, dim))
        self.rope = Rope(grid, dim // heads)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias="full", eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.proj = nn.Linear(dim, out_dim)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh, see :func:`initialise_rescaled`; mask tokens start at 0."""
        initialise_rescaled(self, self.blocks, generator)
        nn.init.zeros_(self.mask_tokens)

    def forward(self, tokens: Tensor, index: Tensor, valid: Tensor, *, mask: int = 0) -> Tensor:
        """Predicted latents of the whole grid; only those of hidden tokens are meant to be used.

        Args:
            tokens: ``(B, L, enc_dim)`` latents of the context, padded.
            index: ``(B, L)`` int64 their places.
            valid: ``(B, L)`` bool, False = padding.
            mask: which mask token.

        Returns:
            ``(B, N, out_dim)``.
        """
        context = self.embed(tokens)  # (B, L, dim)
        places = math.prod(self.grid)
        slots = torch.where(valid, index, places)  # padding goes to a slot of its own, behind the grid
        x = repeat(self.mask_tokens[mask].to(context.dtype), "d -> b n d", b=len(tokens), n=places + 1)
        x = x.scatter(1, slots[..., None].expand_as(context), context)[:, :places]  # (B, N, dim)
        rotation = self.rope()
        for block in self.blocks:
            x = block(x, rotation)
        return self.proj(self.norm(x))  # (B, N, out_dim)


@torch.no_grad()
def initialise_rescaled(module: nn.Module, blocks: nn.ModuleList, generator: torch.Generator | None = None) -> None:
    """V-JEPA's initial weights, in place: linear layers normal with deviation 0.02, cut at 2, biases 0; the two layers that write to the
    residual stream of block i = 1, 2, ... divided by sqrt(2 i); the rest as :func:`suite3d.nn.vit.initialise`."""
    initialise(module, generator)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
    for number, block in enumerate(blocks, start=1):
        for name, weight in block.named_parameters():
            if name in ("attn.proj.weight", "mlp.fc2.weight", "mlp.w3.weight"):
                weight.div_(math.sqrt(2 * number))
