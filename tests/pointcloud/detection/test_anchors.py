"""Anchor layout and assignment against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.pointcloud.detection.anchors import BACKGROUND, IGNORED, AnchorConfig, AnchorGrid, kitti_anchors
from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.labels import BoxLabels

YAWS = (0.0, math.pi / 2)
SMALL = BevMap(point_range=(0.0, -8.0, -3.0, 17.6, 8.0, 1.0), height=20, width=22)
KITTI = BevMap(point_range=(0.0, -40.0, -3.0, 70.4, 40.0, 1.0), height=200, width=176)


def random_labels(generator: torch.Generator, scans: int, per_scan: int, *, area: BevMap = SMALL) -> BoxLabels:
    count = scans * per_scan
    kind = torch.randint(0, 3, (count,), generator=generator)
    x0, y0, _, x1, y1, _ = area.point_range
    boxes = torch.full((count, 9), float("nan"))
    boxes[:, 0] = torch.rand(count, generator=generator) * (x1 - x0) + x0
    boxes[:, 1] = torch.rand(count, generator=generator) * (y1 - y0) + y0
    boxes[:, 2] = -1.0
    boxes[:, 3:6] = torch.tensor([anchor.size for anchor in kitti_anchors()])[kind] * (0.6 + 0.8 * torch.rand(count, 3, generator=generator))
    boxes[:, 6] = torch.rand(count, generator=generator) * 12 - 6
    return BoxLabels(boxes=boxes, labels=kind, scan=torch.arange(scans).repeat_interleave(per_scan), batch_size=scans)


def loop_iou(a: list[float], b: list[float]) -> float:
    """IoU of two boxes turned to the nearest axis, one pair at a time."""

    def rectangle(box: list[float]) -> tuple[float, float, float, float]:
        turn = abs(math.remainder(box[6], math.pi))
        dx, dy = (box[3], box[4]) if turn < math.pi / 4 else (box[4], box[3])
        return box[0] - dx / 2, box[1] - dy / 2, box[0] + dx / 2, box[1] + dy / 2

    ax0, ay0, ax1, ay1 = rectangle(a)
    bx0, by0, bx1, by1 = rectangle(b)
    width, height = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def loop_assign(anchors: torch.Tensor, configs: list[AnchorConfig], boxes: torch.Tensor, labels: torch.Tensor) -> tuple[list[int], dict[int, int]]:
    """One scan, by the rules as written in the module docstring. Anchors ordered (y, x, class, yaw), two yaws."""
    target, matched = [], {}
    classes = [index // 2 % len(configs) for index in range(len(anchors))]
    ious = [
        [loop_iou(anchor, box) if kind == label else -1.0 for box, label in zip(boxes.tolist(), labels.tolist())]
        for anchor, kind in zip(anchors.double().tolist(), classes)
    ]
    best_of_box = [max((row[index] for row in ious), default=0.0) for index in range(len(boxes))]
    for index, row in enumerate(ious):
        config = configs[classes[index]]
        best = max(row, default=0.0)
        forced = any(value > 0 and value >= best_of_box[column] - 1e-6 for column, value in enumerate(row))
        if best >= config.matched or forced:
            target.append(classes[index])
            matched[index] = row.index(best)
        else:
            target.append(BACKGROUND if best < config.unmatched else IGNORED)
    return target, matched


def test_assignment_equals_a_plain_loop():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=SMALL)
    anchors = grid.boxes(torch.arange(len(grid)))
    generator = torch.Generator().manual_seed(3)
    labels = random_labels(generator, 3, 5)
    targets = grid.assign(labels)
    seen = set()
    for scan in range(3):
        mine = labels.scan == scan
        expected, matched = loop_assign(anchors, kitti_anchors(), labels.boxes[mine], labels.labels[mine])
        assert targets.labels[scan].tolist() == expected
        rows = mine.nonzero().flatten()
        positives = (targets.scan == scan).nonzero().flatten()
        assert {int(targets.anchor[p]): int(targets.box_rows[p]) for p in positives} == {anchor: int(rows[row]) for anchor, row in matched.items()}
        torch.testing.assert_close(targets.boxes[positives, :7], labels.boxes[targets.box_rows[positives], :7])
        seen |= set(expected)
    assert seen == {BACKGROUND, IGNORED, 0, 1, 2}  # the case exercised every outcome


def test_anchor_layout_is_y_x_class_yaw_from_edge_to_edge():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=KITTI)
    assert len(grid) == 200 * 176 * 6
    anchors = grid.boxes(torch.arange(len(grid))).view(200, 176, 3, 2, 7)
    torch.testing.assert_close(anchors[0, 0, 0, 0], torch.tensor([0.0, -40.0, -1.78 + 0.78, 3.9, 1.6, 1.56, 0.0]))
    torch.testing.assert_close(anchors[-1, -1, 2, 1], torch.tensor([70.4, 40.0, -0.6 + 0.865, 1.76, 0.6, 1.73, math.pi / 2]))
    torch.testing.assert_close(anchors[3, 10, 1, 0, :2], torch.tensor([10 * 70.4 / 175, -40 + 3 * 80 / 199]))
    assert grid.state_dict() == {}


def test_a_box_on_an_anchor_takes_it_and_a_lone_small_box_is_still_matched():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=SMALL)
    exact = grid.boxes(torch.tensor([(10 * 22 + 7) * 6 + 1]))[0]  # a car across
    tiny = torch.tensor([3.3, 2.2, -1.0, 0.2, 0.2, 1.0, 0.1])
    boxes = torch.nn.functional.pad(torch.stack([exact, tiny]), (0, 2), value=float("nan"))
    targets = grid.assign(BoxLabels(boxes=boxes, labels=torch.tensor([0, 1]), scan=torch.zeros(2, dtype=torch.int64), batch_size=1))
    assert targets.labels[0, (10 * 22 + 7) * 6 + 1] == 0
    assert (targets.labels[0] == 1).any()
    assert set(targets.box_rows.tolist()) == {0, 1}


def test_scans_without_boxes_are_background():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=SMALL)
    none = BoxLabels(boxes=torch.empty(0, 9), labels=torch.empty(0, dtype=torch.int64), scan=torch.empty(0, dtype=torch.int64), batch_size=2)
    targets = grid.assign(none)
    assert (targets.labels == BACKGROUND).all() and targets.labels.shape == (2, len(grid)) and len(targets.anchor) == 0
    labels = random_labels(torch.Generator().manual_seed(0), 1, 4)
    middle = BoxLabels(boxes=labels.boxes, labels=labels.labels, scan=labels.scan + 1, batch_size=3)
    targets = grid.assign(middle)
    assert (targets.labels[[0, 2]] == BACKGROUND).all() and set(targets.scan.tolist()) == {1}


def test_a_batch_is_its_scans():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=SMALL)
    labels = random_labels(torch.Generator().manual_seed(5), 4, 6)
    together = grid.assign(labels)
    for scan in range(4):
        mine = labels.scan == scan
        alone = grid.assign(BoxLabels(boxes=labels.boxes[mine], labels=labels.labels[mine], scan=torch.zeros(6, dtype=torch.int64), batch_size=1))
        assert torch.equal(together.labels[scan], alone.labels[0])


def test_flipping_the_boxes_flips_the_targets():
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=SMALL)
    labels = random_labels(torch.Generator().manual_seed(7), 2, 6)
    flipped = BoxLabels(boxes=labels.boxes.clone(), labels=labels.labels, scan=labels.scan, batch_size=2)
    flipped.boxes[:, [1, 6]] *= -1
    shape = (2, SMALL.height, SMALL.width, 3, 2)
    assert torch.equal(grid.assign(flipped).labels.view(shape), grid.assign(labels).labels.view(shape).flip(1))


def test_turning_the_boxes_by_90_degrees_turns_the_targets():
    square = BevMap(point_range=(-8.0, -8.0, -3.0, 8.0, 8.0, 1.0), height=20, width=20)
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=square)
    labels = random_labels(torch.Generator().manual_seed(8), 2, 6, area=square)
    turned = BoxLabels(boxes=labels.boxes.clone(), labels=labels.labels, scan=labels.scan, batch_size=2)
    turned.boxes[:, 0], turned.boxes[:, 1] = -labels.boxes[:, 1], labels.boxes[:, 0]
    turned.boxes[:, 6] += math.pi / 2
    shape = (2, 20, 20, 3, 2)
    before = grid.assign(labels).labels.view(shape)
    after = grid.assign(turned).labels.view(shape)
    assert torch.equal(after, before.transpose(1, 2).flip(2).flip(4))  # (y, x) <- (x, -y), and the two yaws change places


def test_assignment_looks_at_windows_only():
    """Twenty boxes on KITTI's 211,200 anchors: at most 600 IoUs a box and yaw (5 ms of one core) instead of 35,200."""
    grid = AnchorGrid(kitti_anchors(), yaws=YAWS, bev_map=KITTI)
    labels = random_labels(torch.Generator().manual_seed(0), 1, 20, area=KITTI)
    assert len(grid._pairs(labels).iou) < 20 * 2 * 600


@pytest.mark.parametrize("bad", [{"size": (3.9, 0.0, 1.5)}, {"matched": 0.4, "unmatched": 0.5}, {"unmatched": 0.0}])
def test_impossible_anchors_are_refused(bad):
    with pytest.raises(ValueError, match="AnchorConfig expected"):
        AnchorGrid([AnchorConfig(**bad)], yaws=YAWS, bev_map=SMALL)
