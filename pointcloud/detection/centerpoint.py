"""CenterPoint (first stage): objects as centre points on the bird's-eye-view map.

Paper: Yin, Zhou, Krahenbuhl, Center-based 3D Object Detection and Tracking, CVPR 2021, section 4; constants of OpenPCDet's configs.

    L = sum over class groups of  gaussian focal(heat map) + box_weight * sum_k w_k |code_k - target_k| / number of boxes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from suite3d.ops import nms_rotated
from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.boxes import decode_center
from suite3d.pointcloud.detection.center_head import SeparateHead, shared_convolution
from suite3d.pointcloud.detection.center_targets import CenterTargets, center_targets
from suite3d.pointcloud.detection.detections import Detections
from suite3d.pointcloud.detection.labels import BoxLabels
from suite3d.pointcloud.detection.losses import gaussian_focal_loss
from suite3d.pointcloud.encoders.initialise import initialise


@dataclass(kw_only=True)
class CenterHeadConfig:
    """The defaults are those of CenterPoint on nuScenes, with all classes in one head.

    Attributes:
        groups: class names by head; empty means one head for all. Every class belongs to exactly one group.
        velocity: predict (vx, vy); boxes of unknown velocity do not train it.
        shared_channels: channels after the shared convolution.
        bias_before_norm: whether convolutions before a batch norm carry a bias (OpenPCDet: USE_BIAS_BEFORE_NORM).
        min_overlap, min_radius: of the target Gaussians (radius in cells).
        heatmap_weight, box_weight: of the loss parts.
        velocity_weight: weight of the velocity among the code entries; all others weigh 1.
        candidates: best heat map cells a head that are decoded.
        score_threshold: detections below it are dropped.
        center_margin: metres by which a predicted centre may leave the point range in x and y.
        nms_iou: boxes overlapping a better one of the same head by more (bird's-eye IoU) are dropped.
        nms_candidates: best boxes that enter non-maximum suppression.
        max_detections: boxes kept a head.
    """

    groups: list[list[str]] | None = None
    velocity: bool = True
    shared_channels: int = 64
    bias_before_norm: bool = True
    min_overlap: float = 0.1
    min_radius: int = 2
    heatmap_weight: float = 1.0
    box_weight: float = 0.25
    velocity_weight: float = 0.2
    candidates: int = 500
    score_threshold: float = 0.1
    center_margin: float = 10.0
    nms_iou: float = 0.2
    nms_candidates: int = 1000
    max_detections: int = 83


@dataclass(kw_only=True)
class CenterPredictions:
    """Raw outputs of each head, float32.

    Attributes:
        heatmaps: per head ``(B, classes of the head, H, W)`` logits.
        codes: per head ``(B, 8 | 10, H, W)`` as :func:`encode_center`.
    """

    heatmaps: list[Tensor]
    codes: list[Tensor]

    def detach(self) -> CenterPredictions:
        return CenterPredictions(heatmaps=[heatmap.detach() for heatmap in self.heatmaps], codes=[code.detach() for code in self.codes])


class CenterHead(nn.Module):
    """Shared convolution and one :class:`SeparateHead` per class group.

    Raises:
        ValueError: the groups do not partition the classes.
    """

    channel_of_class: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        class_names: Sequence[str],
        bev_map: BevMap,
        config: CenterHeadConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        groups = [list(group) for group in config.groups] if config.groups else [list(class_names)]
        grouped = [name for group in groups for name in group]
        if sorted(grouped) != sorted(class_names) or not all(groups):
            raise ValueError(f"head.groups expected every class exactly once and no empty group: classes {list(class_names)}, groups {groups}")
        self.config = config
        self.class_count = len(class_names)
        self.bev_map = bev_map
        self.box_columns = 9 if config.velocity else 7
        self.shared_conv = shared_convolution(in_channels, config.shared_channels, bias_before_norm=config.bias_before_norm)
        self.heads_list = nn.ModuleList(
            SeparateHead(config.shared_channels, classes=len(group), velocity=config.velocity, bias_before_norm=config.bias_before_norm)
            for group in groups
        )
        members = [[list(class_names).index(name) for name in group] for group in groups]
        channel = torch.full((len(groups), self.class_count), -1, dtype=torch.int64)
        for head, labels in enumerate(members):
            channel[head, labels] = torch.arange(len(labels))
        self.register_buffer("channel_of_class", channel, persistent=False)
        self.labels_of_head = members
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        initialise(self, generator)
        for head in self.heads_list:
            assert isinstance(head, SeparateHead)
            head.reset_parameters(generator)

    def forward(self, features: Tensor) -> CenterPredictions:
        self.bev_map.check(features)
        shared = self.shared_conv(features)
        heatmaps, codes = [], []
        for head in self.heads_list:
            maps = head(shared)
            heatmaps.append(maps.pop("hm").float())
            codes.append(torch.cat([maps[name].float() for name in ("center", "center_z", "dim", "rot", "vel") if name in maps], dim=1))
        return CenterPredictions(heatmaps=heatmaps, codes=codes)

    def targets(self, labels: BoxLabels) -> list[CenterTargets]:
        """Targets of each head."""
        config = self.config
        return [
            center_targets(labels, classes=channel, bev_map=self.bev_map, min_overlap=config.min_overlap, min_radius=config.min_radius)
            for channel in self.channel_of_class
        ]

    def loss(self, predictions: CenterPredictions, labels: BoxLabels) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Total loss and its parts (weighted, detached, summed over the heads)."""
        heat = box = predictions.heatmaps[0].new_zeros(())
        for heatmap, codes, target in zip(predictions.heatmaps, predictions.codes, self.targets(labels), strict=True):
            heat = heat + self.config.heatmap_weight * gaussian_focal_loss(heatmap, target.heatmap)
            box = box + self.config.box_weight * self._regression(codes, target)
        metrics: dict[str, Tensor | float] = {"loss_heatmap": heat.detach(), "loss_box": box.detach(), "boxes": len(labels) / labels.batch_size}
        return heat + box, metrics

    def _regression(self, codes: Tensor, target: CenterTargets) -> Tensor:
        """Weighted L1 at the centres; entries whose target is unknown (NaN velocity) cost nothing."""
        predicted = codes.flatten(2)[target.scan, :, target.cell]  # (M, 8 | 10)
        wanted = target.codes[:, : predicted.shape[1]]
        known = wanted.isfinite()
        error = functional.l1_loss(torch.where(known, predicted, 0.0), torch.where(known, wanted, 0.0), reduction="none")
        weight = error.new_ones(error.shape[1])
        weight[8:] = self.config.velocity_weight
        return (error * weight).sum() / max(len(wanted), 1)

    @torch.no_grad()
    def decode(self, predictions: CenterPredictions) -> list[Detections]:
        """Detections of each scan."""
        heads = [
            self._decode_head(heatmap, codes, labels)
            for heatmap, codes, labels in zip(predictions.heatmaps, predictions.codes, self.labels_of_head, strict=True)
        ]
        return [Detections.merge(parts) for parts in zip(*heads, strict=True)]

    def _decode_head(self, heatmap: Tensor, codes: Tensor, labels: list[int]) -> list[Detections]:
        config = self.config
        cells = heatmap.shape[2] * heatmap.shape[3]
        scores, index = heatmap.flatten(1).topk(min(config.candidates, heatmap[0].numel()), dim=1)  # (B, K)
        cell = index % cells
        code = codes.flatten(2).gather(2, cell[:, None].expand(-1, codes.shape[1], -1)).transpose(1, 2)  # (B, K, 8 | 10)
        position, rest = decode_center(code, torch.stack([cell % heatmap.shape[3], cell // heatmap.shape[3]], dim=-1).to(code.dtype))
        boxes = torch.cat([self.bev_map.to_metres(position), rest], dim=-1)  # (B, K, 7 | 9)
        scores = scores.sigmoid()
        label = torch.tensor(labels, device=index.device)[index // cells]

        x0, y0, _, x1, y1, _ = self.bev_map.point_range
        low, high = boxes.new_tensor([x0, y0]) - config.center_margin, boxes.new_tensor([x1, y1]) + config.center_margin
        keep = (scores >= config.score_threshold) & boxes.isfinite().all(dim=-1) & ((boxes[..., :2] >= low) & (boxes[..., :2] <= high)).all(dim=-1)
        found = []
        for scan in range(len(boxes)):
            rows = keep[scan].nonzero().flatten()[: config.nms_candidates]  # topk is sorted
            part = Detections(boxes=boxes[scan, rows], scores=scores[scan, rows], labels=label[scan, rows])
            found.append(part[nms_rotated(part.boxes[:, :7], part.scores, config.nms_iou, max_keep=config.max_detections)])
        return found
