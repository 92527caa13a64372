"""Point-MAE: hide most patches of an object, encode the rest, reconstruct the points of the hidden ones.

Pang et al., "Masked Autoencoders for Point Cloud Self-supervised Learning", ECCV 2022 (figure 2).

    L = mean over hidden patches of  mean_p min_q |p - q|^2 + mean_q min_p |p - q|^2     (p predicted, q true points relative to the centre)

The seven slots: one view; random patches hidden (or, their other choice, the patches nearest to one of them); only visible patches enter the
encoder; the decoder attends over visible tokens and mask tokens, with the code of the centre added before every block; the targets are the points
of the hidden patches; Chamfer distance with squared distances (their L2).

The encoder never sees hidden points: their mini-PointNet's batch norm does not either, while the released code embeds all patches first and drops
the hidden ones then. The centres of hidden patches are known to the decoder, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suite3d.losses.chamfer import chamfer_loss
from suite3d.masking import generators_of, hidden_count, hidden_indices, nearest_mask, random_mask, space_block_mask, visible_indices
from suite3d.methods.looking import monitored_tokens
from suite3d.output import Output
from suite3d.pointcloud.data.objects.batch import ObjectBatch
from suite3d.pointcloud.encoders.point_patch import Patches, PlacedBlocks, PointPatchTransformer, initialise_points, place_code
from suite3d.pointcloud.methods.object_dino import cloud_of

SHOWN = 3
"""Objects in the picture."""


@dataclass(kw_only=True)
class PointMAEConfig:
    """Point-MAE; the defaults are the published ones.

    Attributes:
        mask_ratio: share of the patches to hide.
        mask: ``random`` patches; ``nearest``: one region (the paper's block masks); ``block``: UniPAD's blocks of space, of side ``block_size``.
        block_size: radii of the object.
        depth, heads: of the decoder, which is as wide as the encoder.
        drop_path: of the decoder.
    """

    mask_ratio: float = 0.6
    mask: Literal["random", "nearest", "block"] = "random"
    block_size: float = 0.5
    depth: int = 4
    heads: int = 6
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if self.block_size <= 0 or self.depth < 1:
            raise ValueError(f"block_size and depth expected positive numbers, got {self.block_size} and {self.depth}")


class PointMAE(nn.Module):
    """Point-MAE around a point-patch transformer.

    Args:
        encoder: what is pretrained.
        config: see :class:`PointMAEConfig`.
    """

    def __init__(self, encoder: PointPatchTransformer, config: PointMAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PointMAEConfig()
        self.encoder = encoder
        dim, sizes = encoder.embed_dim, encoder.config
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_pos_embed = place_code(dim)
        self.decoder = PlacedBlocks(dim, config.depth, config.heads, mlp_ratio=sizes.mlp_ratio, drop_path=config.drop_path)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 3 * sizes.group_size)
        for part in (self.decoder_pos_embed, self.decoder, self.norm, self.head):
            initialise_points(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, batch: ObjectBatch) -> Output:
        patches = self.encoder.group(batch.views[0])
        mask = self.draw_mask(patches, batch.seeds)  # [B, G]
        visible, hidden = visible_indices(mask), hidden_indices(mask)
        tokens = self.encoder.encode(patches, visible)[1]  # [B, V, D]
        predicted = self.decode(tokens, patches.centers, visible, hidden)  # [B, M, n, 3]
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        target = patches.points[rows, hidden, :, :3]  # [B, M, n, 3]
        loss = self.loss(predicted, target)
        kept = predicted.detach()
        return Output(
            loss=loss,
            metrics={"hidden_patches": float(hidden.shape[1])},
            features=monitored_tokens(tokens),
            visuals=lambda: self.picture(batch, patches, visible, hidden, kept),
        )

    def draw_mask(self, patches: Patches, seeds: list[int]) -> Tensor:
        """``(B, G)`` bool, True = hidden, as many in every row."""
        clouds, groups = patches.centers.shape[:2]
        if groups < 2:
            raise ValueError(
                f"Point-MAE expected at least two patches of each cloud, got {groups}: more points (augment.points) or a smaller spacing"
            )
        offsets = torch.arange(0, clouds * groups + 1, groups, device=patches.centers.device)
        generators, centers, config = generators_of(seeds, "point_mae/mask"), patches.centers.flatten(0, 1), self.config
        if config.mask == "random":
            hidden = random_mask(offsets, config.mask_ratio, generators)
        elif config.mask == "nearest":
            hidden = nearest_mask(centers, offsets, config.mask_ratio, generators)
        else:
            hidden = space_block_mask(centers, offsets, config.block_size, config.mask_ratio, generators)
        return hidden.unflatten(0, (clouds, groups))

    def decode(self, tokens: Tensor, centers: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predicted points ``(B, M, n, 3)`` of the hidden patches, relative to their centres."""
        places = self.decoder_pos_embed(centers)  # [B, G, D]
        order = torch.cat([visible, hidden], dim=1)  # visible tokens first, as published
        places = places.gather(1, order[:, :, None].expand_as(places))
        x = torch.cat([tokens, self.mask_token.to(tokens.dtype).expand(len(tokens), hidden.shape[1], -1)], dim=1)
        x = self.decoder(x, places)[:, visible.shape[1] :]  # [B, M, D]
        points: Tensor = self.head(self.norm(x))
        return points.unflatten(2, (-1, 3))

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Chamfer distance of ``(B, M, n, 3)`` predicted and true points, mean over the patches."""
        sets = predicted.flatten(0, 1)
        offsets = torch.arange(0, len(sets) + 1, device=sets.device) * target.shape[2]
        return chamfer_loss(sets, target.reshape(-1, 3), offsets)

    def picture(self, batch: ObjectBatch, patches: Patches, visible: Tensor, hidden: Tensor, predicted: Tensor) -> dict[str, Any]:
        """The first objects: all points, the visible patches, and those with the predicted ones."""
        from suite3d.report.bev import PREDICTED
        from suite3d.report.clouds import CloudCell, draw_clouds

        rows = []
        for place in range(min(SHOWN, len(batch))):
            center = patches.centers[place].float()
            seen = (patches.points[place, visible[place], :, :3] + center[visible[place], None]).reshape(-1, 3).cpu()
            made = (predicted[place].float() + center[hidden[place], None]).reshape(-1, 3).cpu()
            whole = cloud_of(batch.views[0], place)
            middle = whole.mean(dim=0)
            radius = float((whole - middle).norm(dim=1).max().clamp(min=1e-6))
            parts = {"original": whole, "visible": seen, "predicted": made, "together": torch.cat([seen, made])}
            rows.append(
                [
                    CloudCell(points=((points - middle) / radius).numpy(), label=name, color=PREDICTED if name == "predicted" else None)
                    for name, points in parts.items()
                ]
            )
        return {"reconstruction": draw_clouds(rows, title="Point-MAE: hidden patches and their reconstruction")}
