"""A LiDAR detector: encoder -> neck -> head.

State-dict prefixes are ``encoder.``, ``neck.`` and ``head.``, which OpenPCDet calls ``backbone_3d.``, ``backbone_2d.`` and ``dense_head.``;
the keys after the prefix are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suite3d.output import Output
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.centerpoint import CenterHead, CenterHeadConfig
from suite3d.pointcloud.detection.detections import Detections
from suite3d.pointcloud.detection.labels import box_labels
from suite3d.pointcloud.detection.neck import BevNeck, NeckConfig
from suite3d.pointcloud.detection.second import AnchorHead, AnchorHeadConfig
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures

MONITOR_ROWS = 2048


@dataclass(kw_only=True)
class SecondConfig:
    """SECOND; the defaults are its KITTI configuration."""

    neck: NeckConfig = field(default_factory=NeckConfig)
    head: AnchorHeadConfig = field(default_factory=AnchorHeadConfig)


@dataclass(kw_only=True)
class CenterPointConfig:
    """CenterPoint; the defaults are its nuScenes voxel configuration with all classes in one head."""

    neck: NeckConfig = field(default_factory=NeckConfig)
    head: CenterHeadConfig = field(default_factory=CenterHeadConfig)


class Detector(nn.Module):
    """Single-stage detector.

    Attributes:
        encoder: the part that pretraining produces.
        neck: 2D backbone over the encoder's bird's-eye-view map.
        head: predictions, loss and decoding.
        class_names: what the labels index.
    """

    needs = frozenset({"boxes"})

    def __init__(self, *, encoder: LidarEncoder, neck: BevNeck, head: AnchorHead | CenterHead, class_names: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        self.head = head
        self.class_names = tuple(class_names)

    def forward(self, batch: PointBatch) -> Output:
        """Training loss of a labelled batch. Scans without points or without boxes are background.

        Raises:
            ValueError: no labels, or labels that cannot be targets (see :func:`box_labels`); the message names the scan.
        """
        labels = box_labels(batch, class_count=len(self.class_names), point_range=self.encoder.grid.point_range)
        features = self.encoder(batch)
        predictions = self.head(self.neck(features.bev))
        loss, metrics = self.head.loss(predictions, labels)
        found = predictions.detach()
        return Output(loss=loss, metrics=metrics, features=_monitor_rows(features), visuals=_picture(batch, lambda: self.head.decode(found)[0]))

    @torch.no_grad()
    def predict(self, batch: PointBatch) -> list[Detections]:
        """Detections of each scan, computed in evaluation mode whatever the module's current mode; labels are not read."""
        with _evaluation_mode(self):
            return self.head.decode(self.head(self.neck(self.encoder(batch).bev)))


def build_detector(
    kind: Literal["second", "centerpoint"],
    encoder: LidarEncoder,
    class_names: Sequence[str],
    config: SecondConfig | CenterPointConfig | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Detector:
    """A detector over ``encoder``; the map's stride follows from the encoder's and the neck's.

    Args:
        kind: which head.
        encoder: voxel, pillar or transformer encoder.
        class_names: what the labels index, in order; no repeats.
        config: of the matching type; None takes the defaults.
        generator: source of the neck's and the head's initial weights; None takes torch's default one. The encoder keeps its own.

    Raises:
        ValueError: unknown kind, config of the other kind, no or repeated classes, or a grid that the strides do not divide.
    """
    if kind not in ("second", "centerpoint"):
        raise ValueError(f"kind expected 'second' or 'centerpoint', got {kind!r}")
    config = config or (SecondConfig() if kind == "second" else CenterPointConfig())
    if isinstance(config, SecondConfig) != (kind == "second"):
        raise ValueError(f"kind {kind!r} expected a {'SecondConfig' if kind == 'second' else 'CenterPointConfig'}, got {type(config).__name__}")
    if not class_names or len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names expected at least one class and no repeats, got {list(class_names)}")
    neck = BevNeck(encoder.bev_dim, config.neck, generator=generator)
    BevMap.from_grid(encoder.grid, encoder.bev_stride * neck.divisor)
    stride = encoder.bev_stride * neck.stride
    if stride != int(stride):
        raise ValueError(f"the neck's output stride expected a whole number of voxels, got {float(stride):g}: change neck.upsample_strides")
    bev_map = BevMap.from_grid(encoder.grid, int(stride))
    head: AnchorHead | CenterHead
    if isinstance(config, SecondConfig):
        head = AnchorHead(neck.out_channels, class_names=class_names, bev_map=bev_map, config=config.head, generator=generator)
    else:
        head = CenterHead(neck.out_channels, class_names=class_names, bev_map=bev_map, config=config.head, generator=generator)
    return Detector(encoder=encoder, neck=neck, head=head, class_names=class_names)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each submodule's own mode again after (parts may be frozen in evaluation mode)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _picture(batch: PointBatch, decode: Callable[[], Detections]) -> Callable[[], dict[str, Any]]:
    """Draws the detections in the batch's first scan beside its labels."""
    points, labels = batch.xyz[: int(batch.offsets[1])], None if batch.boxes is None else batch.boxes[0]
    title = f"{batch.names[0]}: detections while training, and labels"

    def draw() -> dict[str, Any]:
        from suite3d.report.bev import BevScene

        found = decode()
        array = lambda tensor: tensor.float().cpu().numpy()  # noqa: E731
        scene = BevScene(
            points=array(points),
            boxes=array(found.boxes[:, :7]),
            scores=array(found.scores),
            labels_boxes=None if labels is None else array(labels[:, :7]),
            title=title,
        )
        return {"detections": scene}

    return draw


def _monitor_rows(features: LidarFeatures) -> Tensor | None:
    """An even sample of the coarsest sparse features for the collapse monitor."""
    if not features.levels or len(features.levels[-1].feats) == 0:
        return None
    rows = features.levels[-1].feats.detach()
    return rows[:: max(len(rows) // MONITOR_ROWS, 1)][:MONITOR_ROWS]
