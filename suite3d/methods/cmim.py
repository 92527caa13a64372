"""cMIM: an auto-encoder with a Gaussian code that keeps what the picture says, and whose codes stand apart, without a second view.

Livne, "cMIM: A Contrastive Mutual Information Framework for Unified Generative and Discriminative Representation Learning", 2025 (section 2);
the machine it extends: Livne et al., "MIM: Mutual Information Machine", 2019.

    z ~ q(z|x) = N(mean(f(x)), variance(f(x))),   p(z) = N(0, 1),   p(x|z) = N(decoder(z), s^2)
    L = -mean_i ( log p(x_i|z_i) + log p_contrast(z_i) + (log q(z_i|x_i) + log p(z_i)) / 2 )
    p_contrast(z_i) = e_ii / (e_ii + mean_{j != i} e_ij),   e_ij = exp(cos(z_i, z_j) / t)

One plain view, no augmentation, no pairs. The term in q is that of a mutual information machine: certain codes are rewarded, not punished as in a
variational auto-encoder, which is why the code's variance needs a floor. :meth:`CMIM.informative` gives the paper's "informative embeddings":
hidden states of the decoder just before it speaks of pixels.

Where we are not certain of the paper's choices for pictures: the decoder is a transformer that sees the code in every patch's place (the paper
has small networks for digits); s is one learned number for all values, not below the step of eight-bit pixels; the
floor of the code's log-variance, approached smoothly, is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.contrastive_mim import contrastive_factor, contrastive_mim
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import full_precision
from suite3d.masking import generators_of
from suite3d.nn.block import Block
from suite3d.nn.initialise import initialise
from suite3d.nn.patch_embed import patch_grid, patchify
from suite3d.nn.pooling import pooled_features
from suite3d.nn.positions import Positions
from suite3d.output import Output

LEAST_LOG_SCALE = -4.0
"""Of s, in units of normalised pixels: the step of an eight-bit picture is 1 / 255 / 0.22 = exp(-4)."""
SHOWN = 8


@dataclass(kw_only=True)
class CMIMConfig:
    """cMIM.

    Attributes:
        latent: channels of the code.
        temperature: t.
        floor: of the log-variance of q.
        decoder_dim, decoder_depth, decoder_heads, decoder_patch: channels, blocks, heads and side of a patch of the decoder.
    """

    latent: int = 128
    temperature: float = 0.1
    floor: float = -6.0
    decoder_dim: int = 384
    decoder_depth: int = 6
    decoder_heads: int = 6
    decoder_patch: int = 16

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if min(self.latent, self.decoder_dim, self.decoder_depth, self.decoder_heads, self.decoder_patch) < 1:
            raise ValueError(f"expected positive sizes, got {self}")


class LatentDecoder(nn.Module):
    """A code to a picture: the code stands in every patch's place with that place's position, then blocks of self-attention.

    Args:
        latent: channels of the code.
        side: of the picture, pixels.
        dim, depth, heads, patch: channels, blocks, heads and side of a patch.
        generator: source of the initial weights.

    Raises:
        ValueError: a side that is not a whole number of patches.
    """

    def __init__(self, latent: int, side: int, *, dim: int, depth: int, heads: int, patch: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.patch = (1, patch, patch)
        self.grid = patch_grid((1, side, side), self.patch)
        self.embed = nn.Linear(latent, dim)
        self.pos_embed = Positions("sincos_2d", self.grid, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias="full") for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 3 * patch * patch)
        initialise(self, generator)

    def hidden(self, latents: Tensor) -> Tensor:
        """``(B, latent)`` -> ``(B, N, dim)``, the last states before pixels."""
        x: Tensor = self.embed(latents)[:, None] + self.pos_embed()  # [B, N, dim]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, latent)`` -> normalised pixels of all patches ``(B, N, 3 * p * p)``, in the order (channel, pixel)."""
        return self.head(self.hidden(latents))


class CMIM(nn.Module):
    """cMIM around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        side: S.
        config: see :class:`CMIMConfig`.
    """

    def __init__(self, encoder: nn.Module, side: int, config: CMIMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CMIMConfig()
        self.encoder = encoder
        self.posterior = nn.Linear(int(encoder.embed_dim), 2 * config.latent)  # type: ignore[arg-type]
        self.decoder = LatentDecoder(
            config.latent,
            side,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            patch=config.decoder_patch,
        )
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, batch: ImageBatch) -> Output:
        pixels = batch.pixels()
        features = pooled_features(self.encoder, pixels)  # [B, D]
        mean, log_variance = self.code(features)  # [B, latent] each
        noise = torch.stack([torch.randn(self.config.latent, generator=generator) for generator in generators_of(batch.view_seeds(), "code")])
        latents = mean + (log_variance / 2).exp() * noise.to(mean)
        predicted = full_precision(self.decoder(latents))  # [B, N, 3 * p * p]
        wanted = patchify(pixels[:, :, None], self.decoder.patch)
        log_p = log_normal(wanted, predicted, 2 * self.log_scale.clamp(min=LEAST_LOG_SCALE))  # [B]
        log_q, log_prior = log_normal(latents, mean, log_variance), log_normal(latents, torch.zeros_like(mean), torch.zeros_like(mean))
        loss = contrastive_mim(log_p, log_q, log_prior, latents, temperature=self.config.temperature)
        with torch.no_grad():
            metrics: dict[str, Tensor | float] = {
                "reconstruction_error": (predicted - wanted).square().mean(),
                "contrast": contrastive_factor(latents, temperature=self.config.temperature).mean(),
                "code_deviation": (log_variance / 2).exp().mean(),
            }
        pictures = partial(self._pictures, wanted[:SHOWN], predicted[:SHOWN].detach(), batch)
        return Output(loss=loss, metrics=metrics, features=features.detach(), visuals=pictures)

    def code(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q, ``(B, latent)`` each, from pooled features; the floor is approached smoothly."""
        mean, raw = full_precision(self.posterior(features)).chunk(2, dim=1)
        return mean, self.config.floor + F.softplus(raw - self.config.floor)

    def informative(self, pixels: Tensor) -> Tensor:
        """``(B, 3, S, S)`` -> ``(B, decoder_dim)``: mean over the patches of the decoder's last hidden states at the mean of q."""
        return self.decoder.hidden(self.code(pooled_features(self.encoder, pixels))[0]).mean(dim=1)

    @torch.no_grad()
    def _pictures(self, wanted: Tensor, predicted: Tensor, batch: ImageBatch) -> dict[str, Any]:
        """Some pictures, what comes back of them, and what the decoder makes of codes drawn from the prior."""
        from suite3d.report.clip import draw_strip

        prior = torch.randn(len(wanted), self.config.latent, generator=torch.Generator().manual_seed(0)).to(wanted.device)
        mean, std = (torch.tensor(value, device=wanted.device)[:, None, None] for value in (batch.mean, batch.std))
        _, height, width = self.decoder.grid
        rows = []
        for patches in (wanted, predicted, self.decoder(prior).float()):
            picture = rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=height, w=width, c=3, p=self.decoder.patch[1])
            whole = ((picture * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
            rows.append(rearrange(whole, "b c h w -> b h w c").cpu().numpy())
        return {"reconstruction": draw_strip(rows, ("original", "reconstructed", "drawn from the prior"), title=batch.names[0])}


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``(B,)`` log-density of each sample's values ``(B, ...)`` under independent normals."""
    log_density = -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
    return log_density.flatten(1).sum(dim=1)
