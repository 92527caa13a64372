"""SECOND's anchor head.

Paper: Yan, Mao, Li, SECOND: Sparsely Embedded Convolutional Detection, Sensors 2018 (3.1.3-3.3); constants of OpenPCDet's KITTI config.

    L = 1 * focal(class) + 2 * smooth-L1(residual code, sin of the angle difference) + 0.2 * cross-entropy(direction)

each scan's terms divided by its number of positive anchors (at least 1), then averaged over the scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from suite3d.ops import nms_rotated
from suite3d.pointcloud.detection.anchors import IGNORED, AnchorConfig, AnchorGrid, AnchorTargets, kitti_anchors
from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.boxes import decode_residual, direction_bin, encode_residual, sin_difference, yaw_in_bin
from suite3d.pointcloud.detection.detections import Detections
from suite3d.pointcloud.detection.labels import BoxLabels
from suite3d.pointcloud.detection.losses import sigmoid_focal_loss
from suite3d.pointcloud.encoders.initialise import initialise


@dataclass(kw_only=True)
class AnchorHeadConfig:
    """The defaults are SECOND's on KITTI.

    Attributes:
        anchors: one entry per class of the detector (others are not used).
        yaws: anchor headings, radians.
        classification_weight, box_weight, direction_weight: weights of the loss parts.
        focal_alpha, focal_gamma: of the classification loss.
        smooth_l1_beta: error below which the box loss is quadratic.
        direction_offset: yaw at which the first direction bin starts, radians.
        direction_bins: number of bins.
        score_threshold: predictions below it are dropped.
        nms_iou: boxes overlapping a better one by more (bird's-eye IoU, over all classes) are dropped.
        nms_candidates: best predictions that enter non-maximum suppression.
        max_detections: boxes kept a scan.
    """

    anchors: list[AnchorConfig] = field(default_factory=kitti_anchors)
    yaws: tuple[float, ...] = (0.0, math.pi / 2)
    classification_weight: float = 1.0
    box_weight: float = 2.0
    direction_weight: float = 0.2
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    smooth_l1_beta: float = 1 / 9
    direction_offset: float = 0.78539
    direction_bins: int = 2
    score_threshold: float = 0.1
    nms_iou: float = 0.01
    nms_candidates: int = 4096
    max_detections: int = 500


@dataclass(kw_only=True)
class AnchorPredictions:
    """Raw outputs, float32; A anchors a scan, ordered (y, x, class, yaw).

    Attributes:
        classes: ``(B, A, number of classes)`` logits.
        boxes: ``(B, A, 7)`` residual codes.
        directions: ``(B, A, direction bins)`` logits.
    """

    classes: Tensor
    boxes: Tensor
    directions: Tensor

    def detach(self) -> AnchorPredictions:
        return AnchorPredictions(classes=self.classes.detach(), boxes=self.boxes.detach(), directions=self.directions.detach())


class AnchorHead(nn.Module):
    """Three 1x1 convolutions over the neck's map; the parameter names are OpenPCDet's AnchorHeadSingle.

    Raises:
        ValueError: a class without an anchor.
    """

    box_columns = 7

    def __init__(
        self,
        in_channels: int,
        *,
        class_names: Sequence[str],
        bev_map: BevMap,
        config: AnchorHeadConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        by_name = {anchor.class_name: anchor for anchor in config.anchors}
        missing = [name for name in class_names if name not in by_name]
        if missing:
            raise ValueError(
                f"no anchor for the classes {missing}; anchors are given for {sorted(by_name)}. Add them to head.anchors or change class_names"
            )
        self.config = config
        self.class_count = len(class_names)
        self.bev_map = bev_map
        self.anchors = AnchorGrid([by_name[name] for name in class_names], yaws=config.yaws, bev_map=bev_map)
        per_cell = self.anchors.per_cell
        self.conv_cls = nn.Conv2d(in_channels, per_cell * self.class_count, 1)
        self.conv_box = nn.Conv2d(in_channels, per_cell * self.box_columns, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, per_cell * config.direction_bins, 1)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        initialise(self, generator)
        nn.init.constant_(
            self.get_parameter("conv_cls.bias"), -math.log(99.0)
        )  # every anchor starts at a foreground probability of 0.01 (focal loss, 4.1)
        nn.init.normal_(self.conv_box.weight, std=0.001, generator=generator)

    def forward(self, features: Tensor) -> AnchorPredictions:
        self.bev_map.check(features)
        per_anchor = lambda maps: rearrange(maps.float(), "b (a c) h w -> b (h w a) c", a=self.anchors.per_cell)  # noqa: E731
        return AnchorPredictions(
            classes=per_anchor(self.conv_cls(features)), boxes=per_anchor(self.conv_box(features)), directions=per_anchor(self.conv_dir_cls(features))
        )

    def loss(self, predictions: AnchorPredictions, labels: BoxLabels) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Total loss and its parts (weighted, detached)."""
        targets = self.anchors.assign(labels)
        positives = torch.bincount(targets.scan, minlength=labels.batch_size).clamp(min=1).to(predictions.classes.dtype)  # (B,)
        scans = labels.batch_size
        per_positive = 1 / (positives[targets.scan] * scans)  # (P,)
        classification = self._classification(predictions.classes, targets.labels, 1 / (positives * scans))
        box, direction = self._regression(predictions, targets, per_positive)
        parts = {
            "loss_cls": self.config.classification_weight * classification,
            "loss_box": self.config.box_weight * box,
            "loss_dir": self.config.direction_weight * direction,
        }
        metrics: dict[str, Tensor | float] = {name: part.detach() for name, part in parts.items()}
        metrics["positive_anchors"] = len(targets.anchor) / scans
        metrics["boxes"] = len(labels) / scans
        return torch.stack(list(parts.values())).sum(), metrics

    def _classification(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        one_hot = labels[..., None] == torch.arange(self.class_count, device=labels.device)  # (B, A, C)
        focal = sigmoid_focal_loss(logits, one_hot, alpha=self.config.focal_alpha, gamma=self.config.focal_gamma).sum(dim=-1)  # (B, A)
        return (torch.where(labels == IGNORED, 0.0, focal).sum(dim=1) * weight).sum()

    def _regression(self, predictions: AnchorPredictions, targets: AnchorTargets, weight: Tensor) -> tuple[Tensor, Tensor]:
        anchors = self.anchors.boxes(targets.anchor)  # (P, 7)
        code = encode_residual(targets.boxes[:, :7], anchors)
        predicted, wanted = sin_difference(predictions.boxes[targets.scan, targets.anchor], code)
        box = functional.smooth_l1_loss(predicted, wanted, beta=self.config.smooth_l1_beta, reduction="none").sum(dim=1)
        bins = direction_bin(targets.boxes[:, 6], bins=self.config.direction_bins, offset=self.config.direction_offset)
        direction = functional.cross_entropy(predictions.directions[targets.scan, targets.anchor], bins, reduction="none")
        return (box * weight).sum(), (direction * weight).sum()

    @torch.no_grad()
    def decode(self, predictions: AnchorPredictions) -> list[Detections]:
        """Detections of each scan."""
        config = self.config
        found = []
        for logits, codes, directions in zip(predictions.classes, predictions.boxes, predictions.directions, strict=True):
            best, label = logits.max(dim=1)
            anchor = (best.sigmoid() >= config.score_threshold).nonzero().flatten()
            if len(anchor) > config.nms_candidates:
                anchor = anchor[best[anchor].topk(config.nms_candidates).indices]
            boxes = decode_residual(codes[anchor], self.anchors.boxes(anchor))
            yaw = yaw_in_bin(boxes[:, 6], directions[anchor].argmax(dim=1), bins=config.direction_bins, offset=config.direction_offset)
            boxes = torch.cat([boxes[:, :6], yaw[:, None]], dim=1)
            usable = boxes.isfinite().all(dim=1).nonzero().flatten()  # an untrained head can overflow exp()
            part = Detections(boxes=boxes[usable], scores=best[anchor][usable].sigmoid(), labels=label[anchor][usable])
            found.append(part[nms_rotated(part.boxes, part.scores, config.nms_iou, max_keep=config.max_detections)])
        return found
