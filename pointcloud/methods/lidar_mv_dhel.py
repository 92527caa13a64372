"""MV-DHEL over three views of a street: the camera picture, the LiDAR sweep, and a neighbouring sweep, place by place in one loss.

Koromilas et al., "A Principled Framework for Multi-View Contrastive Learning", 2025 (section IV); the loss is the core's
(:func:`suite3d.losses.multi_view.mv_dhel`), which takes any number of views of any sensors:

    L = mean over places i of -log( sum_{l < m} exp(u_il.u_im / t) / prod_l sum_{j != i} exp(u_il.u_jl / t) )

with u_i1 the unit embedding of the picture's features at the pixel of place i, u_i2 that of the sweep's features there and u_i3 that of the
neighbouring sweep's. Each view is spread evenly by itself and never pushed away from another view's places, so that picture and LiDAR embeddings
need not share one distribution.

A place is a cell of the LiDAR encoder's map that both sweeps occupy, the second one's moved through the poses (as in BEVContrast, but in all three
axes), and that a point of the first sweep chose which the camera sees; one point a cell (:mod:`suite3d.pointcloud.methods.matched`).

The paper has no such data, so all of this is ours: what a place is; one projection head for both sweeps and one for the picture; the picture is
read bilinearly at the last map of a convolutional encoder; the negatives are the other places of the batch and of all ranks, those of the same
scene among them; what moved between the sweeps is not left out. The picture's encoder is trained along and stays in the checkpoints; what is
saved as the encoder is the LiDAR one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.multi_view import mv_dhel
from suite3d.losses.rows import own_rows
from suite3d.masking import sub_generator
from suite3d.nn.heads import projector
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PairBatch, PointBatch
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.methods.looking import sample_rows
from suite3d.pointcloud.methods.matched import MatchedPlaces, one_per_cell, places_scene, project_rows, unit_keys
from suite3d.pointcloud.methods.prc import voxel_of_point
from suite3d.pointcloud.methods.units import unit_dim, unit_features, unit_shape, unit_size


@dataclass(kw_only=True)
class LidarMVDHELConfig:
    """MV-DHEL on camera, LiDAR and a neighbouring sweep.

    Attributes:
        places: compared places of each scan, at most.
        temperature: t.
        hidden, dim: channels of the hidden layer and of the output of the projection heads.
    """

    places: int = 512
    temperature: float = 0.1
    hidden: int = 512
    dim: int = 128

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.places < 2 or min(self.hidden, self.dim) < 1:
            raise ValueError(f"expected at least 2 places and positive widths, got {self}")


class LidarMVDHEL(nn.Module):
    """MV-DHEL around any LiDAR encoder and a convolutional image encoder.

    Args:
        encoder: what is pretrained.
        image_encoder: with ``levels`` and ``embed_dim``, trained along.
        config: see :class:`LidarMVDHELConfig`.

    Raises:
        ValueError: an image encoder without levels.
    """

    needs: frozenset[str] = frozenset({"pairs", "poses", "sequences"})

    def __init__(self, encoder: LidarEncoder, image_encoder: nn.Module, config: LidarMVDHELConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LidarMVDHELConfig()
        if not hasattr(image_encoder, "levels"):
            raise ValueError(f"expected a convolutional image encoder (image.kind=resnet or convnext), got a {type(image_encoder).__name__}")
        self.encoder, self.image_encoder = encoder, image_encoder
        self.lidar_projector = projector([unit_dim(encoder), config.hidden, config.dim])
        self.image_projector = projector([int(image_encoder.embed_dim), config.hidden, config.dim])  # type: ignore[arg-type]

    def forward(self, batch: PairBatch) -> Output:
        places, pixels = self.places(batch)
        image = self.image_features(batch.first, places.scan, pixels)  # [P, D']
        lidar = project_rows(self.lidar_projector, places.features())  # [2 P, dim]
        views = torch.stack((project_rows(self.image_projector, image), *lidar.chunk(2)))  # [3, P, dim]
        metrics: dict[str, Tensor | float] = {"places": float(len(pixels))}
        if own_rows(views[0])[1] < 2:
            loss = views.sum().float() * 0.0
        else:
            loss = mv_dhel(views, temperature=self.config.temperature)
        if len(pixels):
            metrics["camera_lidar_similarity"] = F.cosine_similarity(views[0].detach().float(), views[1].detach().float()).mean()
            metrics["sweeps_similarity"] = F.cosine_similarity(views[1].detach().float(), views[2].detach().float()).mean()
        return Output(
            loss=loss,
            metrics=metrics,
            features=sample_rows(places.first, batch.seeds),
            visuals=places_scene(self.encoder, batch, places, title="MV-DHEL: places that camera and both sweeps see (predicted)"),
        )

    def places(self, batch: PairBatch) -> tuple[MatchedPlaces, Tensor]:
        """The places with the LiDAR features of both sweeps there, and ``(P, 2)`` their pixels (u, v) as shares of width and height."""
        encoder, size = self.encoder, unit_size(self.encoder)
        first, second = encoder.voxelize(batch.first), encoder.voxelize(batch.second)
        scan = batch.first.batch_index()
        voxel = voxel_of_point(first, len(scan))
        pixels, seen = project_points(batch.first)
        moved = self.cells(move_points(batch, scan), scan)  # [N, 4] unit of the place in the second sweep
        shape = unit_shape(encoder.grid, size)
        strides = moved.new_tensor((shape[0] * shape[1] * shape[2], shape[1] * shape[2], shape[2], 1))
        inside = ((moved[:, 1:] >= 0) & (moved[:, 1:] < moved.new_tensor(shape))).all(dim=1)
        both = inside & torch.isin((moved * strides).sum(dim=1), unit_keys(second, size))
        usable = ((voxel >= 0) & seen & both).nonzero()[:, 0]
        cell = unit_keys(first, size)[voxel[usable]]
        chosen = []
        for index, seed in enumerate(batch.seeds):
            mine = scan[usable] == index
            chosen.append(usable[mine][one_per_cell(cell[mine], self.config.places, sub_generator(seed, "matched places"))])
        rows = torch.cat(chosen)
        places = MatchedPlaces(
            first=unit_features(encoder, encoder.encode(first), first.coords[voxel[rows]] // first.coords.new_tensor((1, *size))),
            second=unit_features(encoder, encoder.encode(second), moved[rows].to(second.coords.dtype)),
            points=rows,
            scan=scan[rows],
        )
        return places, pixels[rows]

    def cells(self, xyz: Tensor, scan: Tensor) -> Tensor:
        """``(N, 4)`` int64 [scan, z, y, x] units of positions ``(N, 3)``; outside of the grid too."""
        grid, size = self.encoder.grid, unit_size(self.encoder)
        steps = [grid.voxel_size[axis] * size[2 - axis] for axis in range(3)]
        cell = ((xyz - xyz.new_tensor(grid.point_range[:3])) / xyz.new_tensor(steps)).floor().long()
        return torch.stack([scan, cell[:, 2], cell[:, 1], cell[:, 0]], dim=1)

    def image_features(self, batch: PointBatch, scan: Tensor, pixels: Tensor) -> Tensor:
        """``(P, embed_dim)`` the last map of the pictures, bilinear at ``pixels (P, 2)`` of scans ``(P,)``."""
        feature_map = self.image_encoder.levels(pictures_of(batch))[-1]  # type: ignore[operator]  # [B, D', h, w]
        rows = []
        for index in range(batch.batch_size):
            grid = (2 * pixels[scan == index] - 1)[None, None].to(feature_map.dtype)  # [1, 1, P_b, 2]
            rows.append(F.grid_sample(feature_map[index : index + 1], grid, align_corners=False)[0, :, 0])  # [D', P_b]
        return torch.cat(rows, dim=1).T  # places are ordered by scan


def pictures_of(batch: PointBatch) -> Tensor:
    """``(B, 3, H, W)`` float32 normalised camera pictures that came with the scans.

    Raises:
        ValueError: scans without a picture, or pictures of unequal size.
    """
    pictures = [frame.meta.get("image") for frame in batch.frames]
    if len(pictures) != batch.batch_size or any(picture is None for picture in pictures):
        raise ValueError("expected a camera picture with every scan, got scans without: use the street world with data.street.images=true")
    arrays = [np.asarray(picture) for picture in pictures]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"expected pictures of one size, got {sorted({array.shape for array in arrays})}")
    # Contiguous, since torch 2.13 on the CPU can corrupt memory in the backward pass of a 1 x 1 convolution of stride 2 on channels-last maps.
    pixels = torch.from_numpy(np.stack(arrays)).to(batch.xyz.device).permute(0, 3, 1, 2).contiguous().float() / 255  # [B, 3, H, W]
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def project_points(batch: PointBatch) -> tuple[Tensor, Tensor]:
    """Where the camera sees each point: ``(N, 2)`` float32 (u, v) as shares of the picture's width and height, ``(N,)`` bool in the picture.

    The augmentation of each scan is undone first. Raises ValueError for scans without a calibrated camera.
    """
    matrices, sizes = [], []
    for frame in batch.frames:
        if "calibration" not in frame.meta or "image_size" not in frame.meta:
            raise ValueError(f"expected a calibrated camera with every scan, {frame.name} has none")
        undo = np.linalg.inv(frame.meta.get("augmentation", np.eye(4)))
        matrices.append(torch.from_numpy(frame.meta["calibration"].lidar_to_image @ undo))
        sizes.append(frame.meta["image_size"])
    scan = batch.batch_index()
    matrix = torch.stack(matrices).to(batch.xyz.device)[scan]  # [N, 3, 4]
    image = (matrix[:, :, :3] @ batch.xyz.double()[:, :, None])[:, :, 0] + matrix[:, :, 3]  # [N, 3] u * depth, v * depth, depth
    size = torch.tensor(sizes, device=scan.device, dtype=torch.float64)[scan]
    shares = (image[:, :2] / image[:, 2:].clamp(min=1e-6) + 0.5) / size  # a pixel's middle is half a pixel from its corner
    seen = (image[:, 2] > 0) & (shares >= 0).all(dim=1) & (shares < 1).all(dim=1)
    return shares.float(), seen


def move_points(batch: PairBatch, scan: Tensor) -> Tensor:
    """``(N, 3)`` float64: the first sweep's points in the frame of the second."""
    matrix = torch.linalg.inv(batch.second_to_first.double())[scan]  # [N, 4, 4]
    return (matrix[:, :3, :3] @ batch.first.xyz.double()[:, :, None])[:, :, 0] + matrix[:, :3, 3]
