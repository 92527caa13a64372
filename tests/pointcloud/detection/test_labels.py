"""Labels that cannot be targets are refused by the scan's name; labels out of range are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.pointcloud.detection.labels import box_labels

RANGE = (0.0, -12.8, -3.0, 25.6, 12.8, 1.0)


def test_boxes_are_joined_in_order_and_padded_with_unknown_velocity(toy_batch):
    toy_batch.boxes[1] = torch.cat([toy_batch.boxes[1], torch.ones(3, 2)], dim=1)
    labels = box_labels(toy_batch, class_count=2, point_range=RANGE)
    assert labels.scan.tolist() == [0] * 4 + [1] * 3 and labels.batch_size == 2
    assert labels.boxes[:4, 7:].isnan().all() and (labels.boxes[4:, 7:] == 1).all()
    torch.testing.assert_close(labels.boxes[:4, :7], toy_batch.boxes[0])
    assert labels.labels.tolist() == [0, 0, 0, 1, 0, 0, 1]


def test_boxes_centred_outside_the_range_are_no_targets(toy_batch):
    for row, (axis, value) in enumerate([(0, -0.1), (1, 12.8), (2, 1.5)]):
        toy_batch.boxes[0][row, axis] = value
    labels = box_labels(toy_batch, class_count=2, point_range=RANGE)
    assert labels.scan.tolist() == [0, 1, 1, 1] and labels.labels.tolist() == [1, 0, 0, 1]


def test_no_boxes_at_all(toy_batch):
    empty = replace(toy_batch, boxes=[torch.empty(0, 7), torch.empty(0, 9)], labels=[torch.empty(0, dtype=torch.int64)] * 2)
    labels = box_labels(empty, class_count=2, point_range=RANGE)
    assert len(labels) == 0 and labels.boxes.shape == (0, 9) and labels.batch_size == 2


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (3, 0.0, "positive sizes"),
        (4, -1.6, "positive sizes"),
        (0, float("nan"), "finite"),
        (6, float("inf"), "finite"),
        (5, float("nan"), "finite"),
    ],
)
def test_degenerate_boxes_are_refused_by_name(toy_batch, column, value, message):
    toy_batch.boxes[1][2, column] = value
    with pytest.raises(ValueError, match=f"toy/001.*{message}"):
        box_labels(toy_batch, class_count=2, point_range=RANGE)


@pytest.mark.parametrize("label", [-1, 2])
def test_unknown_labels_are_refused_by_name(toy_batch, label):
    toy_batch.labels[0][1] = label
    with pytest.raises(ValueError, match=rf"toy/000.*has label {label}, expected 0 to 1"):
        box_labels(toy_batch, class_count=2, point_range=RANGE)


def test_unlabelled_batches_and_wrong_shapes_are_refused(toy_batch):
    with pytest.raises(ValueError, match="needs boxes and labels"):
        box_labels(replace(toy_batch, boxes=None), class_count=2, point_range=RANGE)
    toy_batch.boxes[0] = toy_batch.boxes[0][:, :6]
    with pytest.raises(ValueError, match=r"toy/000.*got \(4, 6\)"):
        box_labels(toy_batch, class_count=2, point_range=RANGE)
