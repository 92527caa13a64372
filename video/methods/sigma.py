"""SIGMA: hide nine tenths of a clip in tubes, predict which prototype each hidden tube belongs to.

Salehi et al., "SIGMA: Sinkhorn-Guided Masked Video Modeling", ECCV 2024 (figure 2).

    z1 = decoder(encoder(visible))_i,  z2 = phi(tube_i)          for the hidden tubes i, both scaled to unit length
    s1 = z1 stop(C)^T,  s2 = z2 C^T                               C: K prototypes of unit length
    q  = argmax Sinkhorn(exp(s / 0.05)), 10 sweeps over the tubes of all ranks, each prototype used equally often
    L  = CE(s1 / 0.1, q2) + CE(s2 / 0.1, q1)

The seven slots are VideoMAE's (:mod:`suite3d.video.methods.videomae`) up to the target and the loss. phi is one of two modules: :class:`PixelTarget`
(a perceptron on the normalised pixels of a tube, trained jointly) or :class:`ImageTarget` (a frozen image transformer's features).

Differences to the released code, none of which changes the result: as :mod:`suite3d.video.methods.videomae`; the similarities and the sweeps are
in float32 under autocast too; the prototypes are brought back to unit length after each step instead of before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.losses.masked_pixels import normalised_patches
from suite3d.losses.rows import dots
from suite3d.losses.sinkhorn import swapped_prediction, usage
from suite3d.masking import generators_of, hidden_count, hidden_indices, tube_mask, visible_indices
from suite3d.methods.looking import monitored_tokens
from suite3d.methods.masked_pixels import Selection
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.patch_embed import gather_patches
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output
from suite3d.video.data.batch import ClipBatch
from suite3d.video.methods.latent import context_pictures
from suite3d.video.methods.videomae import TARGET_EPS


@dataclass(kw_only=True)
class SIGMAConfig:
    """SIGMA.

    Attributes:
        mask_ratio: share of the places hidden for the whole clip.
        prototypes: K.
        temperature: of the cross-entropy.
        eps: of the Sinkhorn kernel (the paper's one-node run on Something-Something used 0.03).
        sweeps: of Sinkhorn.
    """

    mask_ratio: float = 0.9
    prototypes: int = 3000
    temperature: float = 0.1
    eps: float = 0.05
    sweeps: int = 10

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if min(self.temperature, self.eps) <= 0 or min(self.prototypes, self.sweeps) < 1:
            raise ValueError(f"SIGMA expected positive temperature, eps, prototypes and sweeps, got {self}")


class PixelTarget(nn.Module):
    """phi as a perceptron with GELU on the pixels of a tube, normalised channel by channel; trained with the rest.

    Args:
        encoder: gives the patches.
        widths: hidden widths, then d. The paper's are 1024, 1024, 512, 256.
    """

    def __init__(self, encoder: VisionTransformer, widths: tuple[int, ...] = (1024, 1024, 512, 256)) -> None:
        super().__init__()
        self.patch, self.channels, self.dim = encoder.patch, encoder.config.channels, widths[-1]
        sizes = [encoder.patch_embed.proj.weight[0].numel(), *widths]
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, pixels: Tensor, index: Tensor, eps: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` normalised pixels, ``(B, M)`` tubes -> ``(B, M, d)``; ``eps``: see ``normalised_patches``."""
        with torch.no_grad():
            values = normalised_patches(gather_patches(pixels, index, self.patch), channels=self.channels, eps=eps)  # [B, M, K]
        return self.layers(values)


class ImageTarget(nn.Module):
    """phi as a frozen image transformer on the first frame of every tube, each channel standardised over the tokens of the clip.

    Args:
        image_encoder: weights loaded from a file (DINO's in the paper); frozen here.
        encoder: whose tubes it describes.
        allow_random: accept an image encoder without loaded weights, for tests.

    Raises:
        ValueError: initial weights, or patches that are not those of the tubes.
    """

    def __init__(self, image_encoder: VisionTransformer, encoder: VisionTransformer, *, allow_random: bool = False) -> None:
        super().__init__()
        if image_encoder.origin is None and not allow_random:
            raise ValueError("the image encoder of SIGMA's target has initial weights: load a file with suite3d.interop.vit.load_vit first")
        if image_encoder.clip != (1, *encoder.clip[1:]) or image_encoder.grid[1:] != encoder.grid[1:]:
            raise ValueError(
                f"the image encoder must cut frames of {encoder.clip[1:]} into {encoder.grid[1:]} patches, "
                f"it cuts clips of {image_encoder.clip} into {image_encoder.grid}"
            )
        self.image_encoder = image_encoder.requires_grad_(False).eval()
        self.tubelet, self.dim = encoder.patch[0], image_encoder.embed_dim

    def train(self, mode: bool = True) -> ImageTarget:
        """The image encoder stays in evaluation mode."""
        super().train(mode)
        self.image_encoder.eval()
        return self

    @torch.no_grad()
    def forward(self, pixels: Tensor, index: Tensor, eps: Tensor) -> Tensor:
        """As :meth:`PixelTarget.forward`; ``eps`` is not used."""
        frames = rearrange(pixels[:, :, :: self.tubelet], "b c t h w -> (b t) c 1 h w")
        tokens = rearrange(self.image_encoder(frames).float(), "(b t) p d -> b (t p) d", b=len(pixels))  # [B, N, d]
        variance, mean = torch.var_mean(tokens, dim=1, keepdim=True)
        tokens = (tokens - mean) / (variance.sqrt() + TARGET_EPS)
        return tokens.gather(1, index[..., None].expand(-1, -1, self.dim))  # [B, M, d]


class SIGMA(nn.Module):
    """SIGMA around a vision transformer.

    Args:
        encoder: what is pretrained.
        decoder: with as many outputs as the target has channels.
        target: phi.
        config: see :class:`SIGMAConfig`.
        generator: source of the initial prototypes.

    Attributes:
        prototypes: ``(K, d)`` rows of unit length.

    Raises:
        ValueError: a decoder whose outputs are not the target's channels.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder: SelfDecoder | CrossDecoder,
        target: PixelTarget | ImageTarget,
        config: SIGMAConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config or SIGMAConfig()
        self.encoder, self.decoder, self.target = encoder, decoder, target
        if decoder.head.out_features != target.dim:
            raise ValueError(f"the decoder must predict the {target.dim} channels of the target, it predicts {decoder.head.out_features}")
        self.prototypes = nn.Parameter(F.normalize(torch.randn(self.config.prototypes, target.dim, generator=generator), dim=1))

    def forward(self, batch: ClipBatch) -> Output:
        pixels, chosen = self.prepare(batch)
        tokens = self.encoder(pixels, chosen.visible)  # [B, V, D]
        predicted = self.decoder(tokens, chosen.visible, chosen.decoded)  # [B, M, d]
        described = self.target(pixels, chosen.decoded, TARGET_EPS / torch.tensor(batch.std, device=batch.device))  # [B, M, d]
        loss, metrics = self.contrast(predicted, described)
        metrics["short_clips"] = batch.short.float().mean()
        hidden = torch.ones(1, math.prod(self.encoder.grid), dtype=torch.bool, device=pixels.device).index_fill(1, chosen.visible[0], False)
        pictures = partial(context_pictures, pixels[0], hidden, self.encoder.patch, batch)
        return Output(loss=loss, metrics=metrics, features=monitored_tokens(tokens), visuals=pictures)

    @torch.compiler.disable
    def prepare(self, batch: ClipBatch) -> tuple[Tensor, Selection]:
        """Pixels ``(B', 3, T, S, S)`` of all crops, and which tokens of each are seen and predicted."""
        grid = self.encoder.grid
        places = grid[1] * grid[2]
        hidden = grid[0] * hidden_count(places, self.config.mask_ratio)
        mask = tube_mask(grid, self.config.mask_ratio, generators_of(batch.view_seeds(), "mask"), device=batch.device)
        return batch.pixels(), Selection(visible=visible_indices(mask, grid[0] * places - hidden), decoded=hidden_indices(mask, hidden))

    def contrast(self, predicted: Tensor, described: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Loss of ``(B, M, d)`` predictions z1 and descriptions z2, neither of unit length yet; how often the two agree, and the share of the
        prototypes each would use if Sinkhorn did not balance them (near 1 / K: it has collapsed and only Sinkhorn hides it)."""
        z1, z2 = (F.normalize(z.float(), dim=-1).flatten(0, 1) for z in (predicted, described))  # [BM, d]
        config = self.config
        s1, s2 = dots(z1, self.prototypes.detach()), dots(z2, self.prototypes)  # [BM, K]
        loss, (q1, q2) = swapped_prediction(s1, s2, temperature=config.temperature, eps=config.eps, sweeps=config.sweeps)
        used = [usage(scores.detach().argmax(dim=1), config.prototypes) for scores in (s1, s2)]
        return loss, {"agreement": (q1 == q2).float().mean(), "prototypes_predicted": used[0], "prototypes_described": used[1]}

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Bring the prototypes back to unit length."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
