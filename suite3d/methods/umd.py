"""UMD: one auto-encoder that completes clean pictures with most patches hidden, and denoises noisy ones with some patches hidden.

Hansen-Estruch, Vishwanath, Zhang, Tomar, "Unified Auto-Encoding with Masked Diffusion", 2024 (figure 1, section 3).

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,     a_t: cosine schedule of T = 1000 steps,     (x, e') = decoder(encoder(visible patches of x_t, t), t)
    L = r L_0 + (1 - r) L_t
    L_0 = mean over hidden patches of (x - x_0)^2                                                t = 0, 75 % hidden
    L_t = ( mean over hidden patches of (x - x_0)^2 + mean over visible patches of (e' - e)^2 ) / 2,     t uniform in 1..T, 37.5 % hidden

The seven slots: one crop; uniform random masks, of two ratios; the visible patches are gathered before they are embedded; a plain ViT whose blocks
are modulated by the step of the noise; as wide a ViT over visible and mask tokens, which also reads the mean of the class tokens; pixels in [-1, 1]
and the noise; squared error. The first share r = 1/2 of a batch is clean.

Modulation is DiT's: a perceptron on t gives each block shifts, scales and gates of its two branches (adaLN). Here it is written so that it vanishes
at t = 0: with c(t) = silu(perceptron(t)), block b is modulated by W_b (c(t) - c(0)), W_b = 0 at first. What DiT's has left at t = 0 is in the blocks'
own LayerNorms and output weights. It is the same family of functions, and the clean encoder, the one that survives, is a vision transformer like
any other.

Differences to the released code: blocks start as those of a plain ViT, not with closed gates; the number of class tokens is the encoder's (there
four: ``encoder.registers=3``); no labels. ``encoder.checkpoint`` saves memory in the clean half only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.masked_pixels import token_mse
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.methods.gmml import repair_pictures
from suite3d.methods.looking import monitored_tokens
from suite3d.methods.masked_pixels import patch_values
from suite3d.nn.block import Block
from suite3d.nn.initialise import initialise
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.positions import Positions, sincos_flat
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output


@dataclass(kw_only=True)
class UMDConfig:
    """UMD.

    Attributes:
        clean: r, share of the batch without noise.
        mask_ratio, noisy_mask_ratio: share of the patches hidden of clean and of noisy pictures.
        steps: T.
    """

    clean: float = 0.5
    mask_ratio: float = 0.75
    noisy_mask_ratio: float = 0.375
    steps: int = 1000

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        hidden_count(2, self.noisy_mask_ratio)
        if not 0 < self.clean < 1 or self.steps < 1:
            raise ValueError(f"expected a clean share in (0, 1) and at least one step of noise, got {self.clean} and {self.steps}")


def cosine_schedule(steps: int) -> Tensor:
    """``(steps + 1,)`` float32 a_0 = 1, a_1, ..., a_T: cos^2 of (t / T + s) / (1 + s) pi / 2 over its first, s = 0.008, no single factor below 0.001.

    Source: Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, equation 17.
    """
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
    factors = (level[1:] / level[:-1]).clamp(min=0.001)  # 1 - beta_t, beta_t at most 0.999
    return torch.cat((torch.ones(1, dtype=torch.float64), factors.cumprod(0))).float()


class TimeModulation(nn.Module):
    """The step of the noise to shifts, scales and gates of blocks; all 0 at step 0 and, before training, at every step.

    Args:
        dim: channels. depth: blocks. steps: T.
        generator: source of the initial weights.
    """

    table: Tensor

    def __init__(self, dim: int, depth: int, steps: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(nn.Linear(dim, 6 * dim, bias=False) for _ in range(depth))
        self.final = nn.Linear(dim, 2 * dim, bias=False)
        self.register_buffer("table", sincos_flat(steps + 1, dim), persistent=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh; those of the blocks start at 0."""
        initialise(self, generator)
        for layer in (*self.blocks, self.final):
            nn.init.zeros_(layer.weight)

    def condition(self, time: Tensor) -> Tensor:
        """``(B,)`` int64 steps -> c(t) - c(0) ``(B, 1, dim)``."""
        with_zero = F.pad(time, (1, 0))  # [1 + B], the first one 0
        embedded = F.silu(self.fc2(F.silu(self.fc1(self.table[with_zero]))))
        return (embedded[1:] - embedded[:1])[:, None]


def modulated(x: Tensor, blocks: Iterable[nn.Module], weights: Iterable[nn.Module], condition: Tensor | None, rotation: Any = None) -> Tensor:
    """Blocks one after the other, each shifted, scaled and gated by its weights' map of ``condition (B, 1, dim)``; None = plain blocks."""
    for block, weight in zip(blocks, weights, strict=True):
        assert isinstance(block, Block)
        if condition is None:
            x = block(x, rotation)
            continue
        shift1, scale1, gate1, shift2, scale2, gate2 = weight(condition).chunk(6, dim=-1)  # [B, 1, dim] each
        x = x + block.drop_path(block.ls1((1 + gate1) * block.attn(block.norm1(x) * (1 + scale1) + shift1, rotation)))
        x = x + block.drop_path(block.ls2((1 + gate2) * block.mlp(block.norm2(x) * (1 + scale2) + shift2)))
    return x


class UMDDecoder(nn.Module):
    """A ViT as wide as the encoder over [mean of the class tokens, visible tokens, mask tokens]; pixels of the hidden patches, noise of the visible.

    Args:
        encoder: gives width, heads, grid and patch.
        depth: blocks; 4 in the paper.
        generator: source of the initial weights.
    """

    def __init__(self, encoder: VisionTransformer, *, depth: int = 4, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"the decoder expected at least one block, got {depth}")
        dim = encoder.embed_dim
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = Positions("learned", encoder.grid, dim)
        self.blocks = nn.ModuleList(Block(dim, encoder.num_heads, qkv_bias="full") for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 2 * patch_values(encoder))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        initialise(self, generator)
        nn.init.trunc_normal_(self.mask_token, std=0.02, generator=generator)


class UMD(nn.Module):
    """UMD around a vision transformer.

    Args:
        encoder: what is pretrained.
        decoder: see :class:`UMDDecoder`.
        config: see :class:`UMDConfig`.
        generator: source of the modulation's initial weights.

    Raises:
        ValueError: a decoder that does not fit the encoder's patches.
    """

    levels: Tensor

    def __init__(
        self, encoder: VisionTransformer, decoder: UMDDecoder, config: UMDConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config or UMDConfig()
        if decoder.head.out_features != 2 * patch_values(encoder):
            raise ValueError(
                f"the decoder must predict pixels and noise, {2 * patch_values(encoder)} values, it predicts {decoder.head.out_features}"
            )
        self.encoder, self.decoder = encoder, decoder
        self.time = TimeModulation(encoder.embed_dim, len(encoder.blocks) + len(decoder.blocks), self.config.steps, generator=generator)
        self.register_buffer("levels", cosine_schedule(self.config.steps), persistent=False)

    def forward(self, batch: ImageBatch) -> Output:
        clean = int(len(batch) * self.config.clean)
        if clean < 1 or clean == len(batch):
            raise ValueError(
                f"UMD needs clean and noisy pictures in every batch, and clean={self.config.clean} of {len(batch)} leaves none of one kind"
            )
        pixels, seeds = batch.pixels(), batch.view_seeds()  # [B, 3, S, S]
        noisy, noise, time = self.add_noise(pixels[clean:], seeds[clean:])
        completed = self.auto_encode(pixels[:clean], self.config.mask_ratio, seeds[:clean], None)
        denoised = self.auto_encode(noisy, self.config.noisy_mask_ratio, seeds[clean:], time)
        completion = self.error(completed[0], pixels[:clean], completed[2])
        pixel_error, noise_error = self.error(denoised[0], pixels[clean:], denoised[2]), self.error(denoised[1], noise, denoised[3])
        share = clean / len(batch)
        return Output(
            loss=share * completion + (1 - share) * (pixel_error + noise_error) / 2,
            metrics={"completion": completion.detach(), "noisy_completion": pixel_error.detach(), "noise": noise_error.detach()},
            features=monitored_tokens(completed[4]),
            visuals=partial(self.pictures, pixels[0], completed[0][0].detach(), completed[2][0], batch),
        )

    def add_noise(self, pixels: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """x_t like ``pixels (B, 3, S, S)``, the noise in it, and t ``(B,)`` int64 in 1..T."""
        noise, time = [], []
        for generator in generators_of(seeds, "noise"):
            time.append(torch.randint(1, self.config.steps + 1, (), generator=generator))
            noise.append(torch.randn(pixels.shape[1:], generator=generator))
        drawn, steps = torch.stack(noise).to(pixels), torch.stack(time).to(pixels.device)
        level = self.levels[steps][:, None, None, None]  # [B, 1, 1, 1]
        return level.sqrt() * pixels + (1 - level).sqrt() * drawn, drawn, steps

    def auto_encode(self, pixels: Tensor, ratio: float, seeds: Sequence[int], time: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode and decode one part of the batch; ``time`` None = clean.

        Returns:
            Predicted pixels ``(B, M, K)`` of the hidden patches and noise ``(B, V, K)`` of the visible ones, both index lists in that order, and the
            encoder's tokens ``(B, V, D)``.
        """
        mask = tube_mask(self.encoder.grid, ratio, generators_of(seeds, "mask"), device=pixels.device)
        hidden = int(mask[0].sum())
        visible, targets = visible_indices(mask, mask.shape[1] - hidden), hidden_indices(mask, hidden)
        condition = None if time is None else self.time.condition(time)
        prefix, tokens = self.encode(pixels, visible, condition)
        x0, noise = self.decode(prefix, tokens, visible, targets, condition)
        return x0, noise, targets, visible, tokens

    def encode(self, pixels: Tensor, visible: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`VisionTransformer.encode`, its blocks modulated."""
        encoder = self.encoder
        if condition is None:
            return encoder.encode(pixels, visible)
        x, rotation = encoder.embed(pixels, visible)
        x = encoder.norm(modulated(x, encoder.blocks, list(self.time.blocks)[: len(encoder.blocks)], condition, rotation))
        return x[:, : encoder.num_prefix], x[:, encoder.num_prefix :]

    def decode(self, prefix: Tensor, tokens: Tensor, visible: Tensor, targets: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pixels at ``targets (B, M)`` and noise at ``visible (B, V)``, ``(B, M, K)`` and ``(B, V, K)``."""
        decoder = self.decoder
        seen = tokens + decoder.pos_embed(visible).to(tokens.dtype)
        asked = (decoder.mask_token + decoder.pos_embed(targets)).to(tokens.dtype)
        summary = prefix.mean(dim=1, keepdim=True) if prefix.shape[1] else prefix  # [B, 1 or 0, D]
        x = torch.cat((summary, seen, asked), dim=1)
        x = decoder.norm(modulated(x, decoder.blocks, list(self.time.blocks)[len(self.encoder.blocks) :], condition)[:, summary.shape[1] :])
        if condition is not None:
            shift, scale = self.time.final(condition).chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        pixels, noise = decoder.head(x).chunk(2, dim=-1)  # [B, V + M, K] each
        return pixels[:, visible.shape[1] :], noise[:, : visible.shape[1]]

    def error(self, predicted: Tensor, wanted: Tensor, index: Tensor) -> Tensor:
        """Mean squared error of predictions ``(B, M, K)`` on the patches ``index (B, M)`` of ``wanted (B, 3, S, S)``."""
        return token_mse(predicted, gather_patches(wanted[:, :, None], index, self.encoder.patch))

    def pictures(self, pixels: Tensor, predicted: Tensor, targets: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """The first picture: whole, with its hidden patches grey, and completed."""
        patches = self.encoder.patchify(pixels[None, :, None])[0]  # [N, K]
        completed, mask = patches.clone(), torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
        completed[targets], mask[targets] = predicted.to(patches.dtype), True
        _, p, q = self.encoder.patch
        inside = mask.view(1, self.encoder.grid[1], self.encoder.grid[2]).repeat_interleave(p, 1).repeat_interleave(q, 2)  # [1, S, S]
        return repair_pictures(pixels, pixels.masked_fill(inside, 0), completed, self.encoder, batch)
