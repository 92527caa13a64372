"""Whole detectors: learning, hard inputs, configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.ops import box_iou_3d
from suite3d.pointcloud.detection.centerpoint import CenterHeadConfig
from suite3d.pointcloud.detection.detector import CenterPointConfig, Detector, SecondConfig, build_detector
from suite3d.pointcloud.detection.neck import NeckConfig

CLASSES = ("Car", "Pedestrian")
SMALL_NECK = NeckConfig(
    layer_nums=(1, 1), layer_strides=(1, 2), num_filters=(32, 32), upsample_strides=(1.0, 2.0), num_upsample_filters=(32, 32), norm_momentum=0.1
)


def small_detector(kind, encoder) -> Detector:
    torch.manual_seed(0)
    if kind == "second":
        return build_detector("second", encoder(), CLASSES, SecondConfig(neck=SMALL_NECK))
    head = CenterHeadConfig(shared_channels=32, velocity=False, box_weight=2.0)
    return build_detector("centerpoint", encoder(), CLASSES, CenterPointConfig(neck=SMALL_NECK, head=head))


@pytest.mark.parametrize("kind", ["second", "centerpoint"])
def test_overfits_two_scans_and_finds_their_boxes(kind, toy_encoder, toy_batch):
    model = small_detector(kind, toy_encoder)
    steps = 80
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        output = model(toy_batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.25 * losses[0]
    for found, boxes, labels in zip(model.predict(toy_batch), toy_batch.boxes, toy_batch.labels, strict=True):
        overlap, match = box_iou_3d(boxes, found.boxes).max(dim=1)
        assert (overlap > 0.5).all(), (overlap, losses[0], losses[-1])
        assert (found.labels[match] == labels).all()
        turn = found.boxes[match, 6] - boxes[:, 6]
        assert (turn[labels == 0].cos() > 0.7).all()
