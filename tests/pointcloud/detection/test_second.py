"""SECOND's head: loss against naive sums, perfect predictions, decoding, checkpoint layout."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.pointcloud.detection.anchors import IGNORED, AnchorConfig
from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.boxes import direction_bin, encode_residual
from suite3d.pointcloud.detection.labels import BoxLabels
from suite3d.pointcloud.detection.presets import KITTI_CLASSES, kitti_second
from suite3d.pointcloud.detection.second import AnchorHead, AnchorHeadConfig, AnchorPredictions

MAP = BevMap(point_range=(0.0, -8.0, -3.0, 24.0, 8.0, 1.0), height=40, width=60)


def make_head(**settings) -> AnchorHead:
    torch.manual_seed(0)
    return AnchorHead(16, class_names=KITTI_CLASSES, bev_map=MAP, config=AnchorHeadConfig(**settings))


def labels_of(rows: list[list[float]], kinds: list[int], scans: list[int], batch_size: int) -> BoxLabels:
    boxes = torch.nn.functional.pad(torch.tensor(rows), (0, 2), value=float("nan"))
    return BoxLabels(boxes=boxes, labels=torch.tensor(kinds), scan=torch.tensor(scans), batch_size=batch_size)


def spread_labels() -> BoxLabels:
    rows = [
        [4.0, -4.0, -1.1, 4.1, 1.7, 1.5, 0.3],
        [14.0, 4.0, -0.9, 3.7, 1.6, 1.6, -1.7],
        [8.0, 3.0, 0.2, 0.8, 0.7, 1.8, 2.9],
        [19.0, -5.0, 0.3, 1.7, 0.6, 1.7, 1.2],
        [10.0, 0.0, -1.0, 4.4, 1.7, 1.5, -3.0],
    ]
    return labels_of(rows, [0, 0, 1, 2, 0], [0, 0, 0, 1, 1], 3)


def perfect_predictions(head: AnchorHead, labels: BoxLabels) -> AnchorPredictions:
    targets = head.anchors.assign(labels)
    count = len(head.anchors)
    classes = torch.full((labels.batch_size, count, 3), -15.0)
    classes[targets.scan, targets.anchor, labels.labels[targets.box_rows]] = 15.0
    boxes, directions = torch.zeros(labels.batch_size, count, 7), torch.zeros(labels.batch_size, count, 2)
    boxes[targets.scan, targets.anchor] = encode_residual(targets.boxes[:, :7], head.anchors.boxes(targets.anchor))
    bins = direction_bin(targets.boxes[:, 6], bins=2, offset=head.config.direction_offset)
    directions[targets.scan, targets.anchor] = torch.where(bins[:, None] == torch.arange(2), 15.0, -15.0)
    return AnchorPredictions(classes=classes, boxes=boxes, directions=directions)


def test_perfect_predictions_cost_nothing_and_decode_to_the_labels():
    head, labels = make_head(), spread_labels()
    predictions = perfect_predictions(head, labels)
    loss, metrics = head.loss(predictions, labels)
    assert float(loss) < 1e-4
    assert metrics["boxes"] == pytest.approx(5 / 3)
    found = head.decode(predictions)
    assert [len(part) for part in found] == [3, 2, 0]
    for scan in range(2):
        mine = labels.scan == scan
        order = torch.cdist(labels.boxes[mine][:, :2], found[scan].boxes[:, :2]).argmin(dim=1)
        torch.testing.assert_close(found[scan].boxes[order], labels.boxes[mine][:, :7], rtol=0, atol=2e-5)
        assert torch.equal(found[scan].labels[order], labels.labels[mine])


def test_a_half_turned_prediction_costs_only_its_direction_and_decodes_reversed():
    head, labels = make_head(), spread_labels()
    predictions = perfect_predictions(head, labels)
    targets = head.anchors.assign(labels)
    predictions.boxes[targets.scan, targets.anchor, 6] += math.pi
    loss, _ = head.loss(predictions, labels)
    assert float(loss) < 1e-4  # sin of the difference is unchanged
    torch.testing.assert_close(head.decode(predictions)[0].boxes, head.decode(perfect_predictions(head, labels))[0].boxes, rtol=0, atol=2e-5)
    predictions.directions.neg_()
    _, metrics = head.loss(predictions, labels)
    assert float(metrics["loss_box"]) < 1e-6
    assert float(metrics["loss_dir"]) == pytest.approx(0.2 * 30 * 2 / 3, rel=1e-4)  # two of the three scans have positives
    yaws = head.decode(predictions)[0].boxes[:, 6] - head.decode(perfect_predictions(head, labels))[0].boxes[:, 6]
    torch.testing.assert_close(yaws.cos(), torch.full_like(yaws, -1.0))


def test_loss_against_a_naive_sum():
    head = make_head(classification_weight=0.7, box_weight=1.9, direction_weight=0.4)
    labels = spread_labels()
    generator = torch.Generator().manual_seed(1)
    count = len(head.anchors)
    predictions = AnchorPredictions(
        classes=torch.randn(3, count, 3, generator=generator) - 2,
        boxes=torch.randn(3, count, 7, generator=generator) * 0.3,
        directions=torch.randn(3, count, 2, generator=generator),
    )
    targets = head.anchors.assign(labels)
    anchors = head.anchors.boxes(torch.arange(count)).double()
    total = 0.0
    for scan in range(3):
        assigned = targets.labels[scan]
        normaliser = max(int((assigned >= 0).sum()), 1)
        probability = predictions.classes[scan].double().sigmoid()
        wanted = torch.zeros(count, 3, dtype=torch.float64)
        for kind in range(3):
            wanted[assigned == kind, kind] = 1
        true = wanted * probability + (1 - wanted) * (1 - probability)
        alpha = wanted * 0.25 + (1 - wanted) * 0.75
        focal = -alpha * (1 - true) ** 2 * true.log()
        total += 0.7 * focal[assigned != IGNORED].sum().item() / normaliser / 3
        for position in (targets.scan == scan).nonzero().flatten().tolist():
            index = int(targets.anchor[position])
            box, anchor, got = targets.boxes[position].tolist(), anchors[index].tolist(), predictions.boxes[scan, index].tolist()
            diagonal = math.hypot(anchor[3], anchor[4])
            code = [(box[0] - anchor[0]) / diagonal, (box[1] - anchor[1]) / diagonal, (box[2] - anchor[2]) / anchor[5]]
            code += [math.log(box[k] / anchor[k]) for k in (3, 4, 5)]
            errors = [a - b for a, b in zip(got, code)] + [math.sin(got[6] - (box[6] - anchor[6]))]
            smooth = [0.5 * e * e * 9 if abs(e) < 1 / 9 else abs(e) - 0.5 / 9 for e in errors]
            total += 1.9 * sum(smooth) / normaliser / 3
            logits = predictions.directions[scan, index].tolist()
            bin_index = 0 if (box[6] - 0.78539) % (2 * math.pi) < math.pi else 1
            total += 0.4 * (math.log(sum(math.exp(v) for v in logits)) - logits[bin_index]) / normaliser / 3
    loss, _ = head.loss(predictions, labels)
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_head_outputs_are_ordered_like_the_anchors():
    """Channel (class * yaws + yaw) * entries + entry of the map, as OpenPCDet's permute and view."""
    head = make_head()
    features = torch.randn(2, 16, 40, 60, generator=torch.Generator().manual_seed(0))
    predictions, maps = head(features), head.conv_box(features)
    anchor = ((17 * 60) + 33) * 6 + 2 * 2 + 1  # y 17, x 33, cyclist, second yaw
    torch.testing.assert_close(predictions.boxes[1, anchor], maps[1, (2 * 2 + 1) * 7 : (2 * 2 + 2) * 7, 17, 33])
    torch.testing.assert_close(predictions.classes[1, anchor], head.conv_cls(features)[1, 15:18, 17, 33])
    assert predictions.classes.shape == (2, 40 * 60 * 6, 3) and predictions.directions.shape == (2, 40 * 60 * 6, 2)
    torch.testing.assert_close(predictions.classes.sigmoid().mean(), torch.tensor(0.01), rtol=0.6, atol=0)


def test_decoding_respects_threshold_candidates_and_maximum():
    head = make_head(max_detections=2, nms_candidates=50, score_threshold=0.3)
    labels = spread_labels()
    predictions = perfect_predictions(head, labels)
    assert [len(part) for part in head.decode(predictions)] == [2, 2, 0]
    predictions.classes.clamp_(max=-1.0)  # 0.27
    assert [len(part) for part in head.decode(predictions)] == [0, 0, 0]
    predictions.classes.fill_(15.0)
    predictions.boxes[..., 3] = 1000.0  # exp overflows
    assert [len(part) for part in head.decode(predictions)] == [0, 0, 0]


def test_scan_without_boxes_only_pushes_scores_down():
    head = make_head()
    none = BoxLabels(boxes=torch.empty(0, 9), labels=torch.empty(0, dtype=torch.int64), scan=torch.empty(0, dtype=torch.int64), batch_size=1)
    features = torch.randn(1, 16, 40, 60, generator=torch.Generator().manual_seed(0))
    loss, metrics = head.loss(head(features), none)
    loss.backward()
    assert metrics["loss_box"] == 0 and metrics["loss_dir"] == 0 and loss > 0
    assert (head.conv_cls.bias.grad > 0).all() and head.conv_box.weight.grad.abs().max() == 0


def test_checkpoint_layout_is_openpcdets():
    preset = kitti_second()
    head = AnchorHead(512, class_names=preset.class_names, bev_map=MAP, config=preset.config.head)
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
        "conv_cls.weight": (18, 512, 1, 1),
        "conv_cls.bias": (18,),
        "conv_box.weight": (42, 512, 1, 1),
        "conv_box.bias": (42,),
        "conv_dir_cls.weight": (12, 512, 1, 1),
        "conv_dir_cls.bias": (12,),
    }
    torch.testing.assert_close(head.conv_cls.bias.sigmoid(), torch.full((18,), 0.01))


def test_class_without_an_anchor_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no anchor for the classes \['Tram'\]"):
        AnchorHead(16, class_names=("Car", "Tram"), bev_map=MAP, config=AnchorHeadConfig())
    one = AnchorHead(16, class_names=("Van",), bev_map=MAP, config=AnchorHeadConfig(anchors=[AnchorConfig(class_name="Van", size=(5.0, 1.9, 2.2))]))
    assert one.conv_cls.weight.shape[0] == 2
