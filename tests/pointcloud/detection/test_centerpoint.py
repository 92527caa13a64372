"""CenterPoint: targets against a loop, loss and decoding of perfect predictions, checkpoint layout."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.center_targets import center_targets, gaussian_radius
from suite3d.pointcloud.detection.centerpoint import CenterHead, CenterHeadConfig, CenterPredictions
from suite3d.pointcloud.detection.labels import BoxLabels
from suite3d.pointcloud.detection.presets import NUSCENES_CLASSES, NUSCENES_GROUPS

MAP = BevMap(point_range=(-10.0, -8.0, -3.0, 14.0, 8.0, 3.0), height=20, width=30)
CLASSES = ("car", "truck", "pedestrian", "bicycle")
GROUPS = [["truck", "car"], ["bicycle", "pedestrian"]]


def make_head(**settings) -> CenterHead:
    torch.manual_seed(0)
    return CenterHead(16, class_names=CLASSES, bev_map=MAP, config=CenterHeadConfig(groups=GROUPS, shared_channels=8, **settings))


def spread_labels(*, velocity: bool = True) -> BoxLabels:
    """Boxes far enough apart to survive suppression; one of unknown velocity."""
    boxes = torch.tensor(
        [
            [-7.3, -5.2, -0.5, 4.1, 1.8, 1.5, 0.4, 3.0, -1.0],
            [5.1, 3.3, 0.2, 9.0, 2.6, 3.1, -2.9, 0.5, 0.1],
            [-2.2, 6.1, 0.1, 0.7, 0.6, 1.7, 1.9, 1.0, 1.0],
            [11.9, -6.6, 0.0, 1.8, 0.5, 1.6, 3.0, 0.0, 4.0],
            [0.9, 0.3, -0.4, 4.5, 1.9, 1.6, -0.7, float("nan"), float("nan")],
        ]
    )
    return BoxLabels(boxes=boxes, labels=torch.tensor([0, 1, 2, 3, 0]), scan=torch.tensor([0, 0, 0, 1, 1]), batch_size=3)


def loop_heatmap(labels: BoxLabels, channels: dict[int, int], *, min_overlap: float, min_radius: int) -> torch.Tensor:
    """Draws one Gaussian at a time, one cell at a time."""
    heat = torch.zeros(labels.batch_size, len(channels), MAP.height, MAP.width, dtype=torch.float64)
    size = 24.0 / 30, 16.0 / 20
    for box, label, scan in zip(labels.boxes.tolist(), labels.labels.tolist(), labels.scan.tolist()):
        if label not in channels:
            continue
        cx, cy = math.floor((box[0] + 10) / size[0]), math.floor((box[1] + 8) / size[1])
        w, h = box[3] / size[0], box[4] / size[1]
        r1 = ((h + w) + math.sqrt((h + w) ** 2 - 4 * w * h * (1 - min_overlap) / (1 + min_overlap))) / 2
        r2 = (2 * (h + w) + math.sqrt(4 * (h + w) ** 2 - 16 * (1 - min_overlap) * w * h)) / 2
        r3 = (-2 * min_overlap * (h + w) + math.sqrt(4 * min_overlap**2 * (h + w) ** 2 + 16 * min_overlap * (1 - min_overlap) * w * h)) / 2
        radius = max(int(min(r1, r2, r3)), min_radius)
        sigma = (2 * radius + 1) / 6
        for y in range(MAP.height):
            for x in range(MAP.width):
                if abs(x - cx) <= radius and abs(y - cy) <= radius:
                    value = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
                    heat[scan, channels[label], y, x] = max(heat[scan, channels[label], y, x].item(), value)
    return heat


@pytest.mark.parametrize(("min_overlap", "min_radius"), [(0.1, 2), (0.5, 1)])
def test_heatmap_equals_a_plain_loop(min_overlap, min_radius):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(24, 9, generator=generator) * torch.tensor([24.0, 16.0, 1, 9, 6, 2, 6, 1, 1]) + torch.tensor(
        [-10.0, -8.0, 0, 0.3, 0.3, 0.5, -3, 0, 0]
    )
    labels = BoxLabels(boxes=boxes, labels=torch.randint(0, 4, (24,), generator=generator), scan=torch.arange(24) // 8, batch_size=4)
    targets = center_targets(labels, classes=torch.tensor([-1, 1, -1, 0]), bev_map=MAP, min_overlap=min_overlap, min_radius=min_radius)
    expected = loop_heatmap(labels, {1: 1, 3: 0}, min_overlap=min_overlap, min_radius=min_radius)
    torch.testing.assert_close(targets.heatmap.double(), expected, rtol=0, atol=1e-6)
    assert (targets.heatmap[3] == 0).all()
    wanted = (labels.labels == 1) | (labels.labels == 3)
    channel = torch.where(labels.labels[wanted] == 1, 1, 0)
    assert (targets.heatmap.flatten(2)[targets.scan, channel, targets.cell] == 1).all()
    torch.testing.assert_close(
        targets.codes[:, 2:], torch.cat([boxes[:, 2:3], boxes[:, 3:6].log(), boxes[:, 6:7].cos(), boxes[:, 6:7].sin(), boxes[:, 7:]], 1)[wanted]
    )


def test_radius_never_below_the_minimum_and_grows_with_the_box():
    extent = torch.tensor([[0.5, 0.5], [5.0, 2.0], [30.0, 10.0], [60.0, 20.0]])
    radius = gaussian_radius(extent, min_overlap=0.1)
    assert (radius.diff() > 0).all()
    torch.testing.assert_close(gaussian_radius(extent * 2, min_overlap=0.1), radius * 2)  # homogeneous in the box


def test_targets_of_a_border_box_stay_on_the_map():
    corner = torch.tensor([[13.9999999, 7.9999999, 0, 4, 2, 1.5, 0, 0, 0], [-10.0, -8.0, 0, 4, 2, 1.5, 0, 0, 0]])
    labels = BoxLabels(boxes=corner, labels=torch.zeros(2, dtype=torch.int64), scan=torch.tensor([0, 0]), batch_size=1)
    targets = center_targets(labels, classes=torch.tensor([0]), bev_map=MAP, min_overlap=0.1, min_radius=2)
    assert targets.cell.tolist() == [20 * 30 - 1, 0]
    assert int((targets.heatmap == 1).sum()) == 2


def test_flipping_the_boxes_flips_the_heatmap():
    labels = spread_labels()
    flipped = BoxLabels(boxes=labels.boxes.clone(), labels=labels.labels, scan=labels.scan, batch_size=3)
    flipped.boxes[:, [1, 6, 8]] *= -1
    settings = {"classes": torch.tensor([0, 1, 2, 3]), "bev_map": MAP, "min_overlap": 0.1, "min_radius": 2}
    before, after = center_targets(labels, **settings), center_targets(flipped, **settings)
    torch.testing.assert_close(after.heatmap, before.heatmap.flip(2))
    torch.testing.assert_close(after.codes[:, 1], 1 - before.codes[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(after.codes[:, [0, 2, 3, 4, 5, 6]], before.codes[:, [0, 2, 3, 4, 5, 6]])
    torch.testing.assert_close(after.codes[:, 7], -before.codes[:, 7])


def test_turning_the_boxes_by_90_degrees_turns_the_heatmap():
    square = BevMap(point_range=(-12.0, -12.0, -3.0, 12.0, 12.0, 3.0), height=24, width=24)
    labels = spread_labels()
    turned = BoxLabels(boxes=labels.boxes.clone(), labels=labels.labels, scan=labels.scan, batch_size=3)
    turned.boxes[:, 0], turned.boxes[:, 1] = -labels.boxes[:, 1], labels.boxes[:, 0]
    turned.boxes[:, 6] += math.pi / 2
    settings = {"classes": torch.tensor([0, 1, 2, 3]), "bev_map": square, "min_overlap": 0.1, "min_radius": 2}
    before, after = center_targets(labels, **settings), center_targets(turned, **settings)
    torch.testing.assert_close(after.heatmap, before.heatmap.transpose(2, 3).flip(3))
    torch.testing.assert_close(after.codes[:, 6], -before.codes[:, 7], rtol=0, atol=1e-6)


def perfect_predictions(head: CenterHead, labels: BoxLabels) -> CenterPredictions:
    heatmaps, codes = [], []
    for target in head.targets(labels):
        heatmaps.append(torch.where(target.heatmap == 1, 12.0, -12.0))
        code = torch.zeros(labels.batch_size, 10, MAP.height, MAP.width)
        code.flatten(2)[target.scan, :, target.cell] = target.codes.nan_to_num(0.0)
        codes.append(code[:, : head.box_columns + 1])
    return CenterPredictions(heatmaps=heatmaps, codes=codes)


@pytest.mark.parametrize("velocity", [True, False])
def test_perfect_predictions_cost_nothing_and_decode_to_the_labels(velocity):
    head, labels = make_head(velocity=velocity), spread_labels()
    predictions = perfect_predictions(head, labels)
    loss, metrics = head.loss(predictions, labels)
    assert float(loss) < 1e-4 and metrics["boxes"] == pytest.approx(5 / 3)
    found = head.decode(predictions)
    assert len(found) == 3 and len(found[2]) == 0
    for scan in range(2):
        mine = labels.scan == scan
        assert len(found[scan]) == mine.sum()
        order = torch.cdist(labels.boxes[mine][:, :2], found[scan].boxes[:, :2]).argmin(dim=1)
        columns = 9 if velocity else 7
        torch.testing.assert_close(found[scan].boxes[order], labels.boxes[mine][:, :columns].nan_to_num(0.0), rtol=0, atol=2e-5)
        assert torch.equal(found[scan].labels[order], labels.labels[mine])
        assert (found[scan].scores > 0.99).all()


def test_loss_against_a_naive_sum():
    head, labels = make_head(velocity_weight=0.3, box_weight=0.7, heatmap_weight=1.3), spread_labels()
    generator = torch.Generator().manual_seed(2)
    predictions = CenterPredictions(
        heatmaps=[torch.randn(3, 2, 20, 30, generator=generator) for _ in range(2)],
        codes=[torch.randn(3, 10, 20, 30, generator=generator) for _ in range(2)],
    )
    total = 0.0
    for index, group in enumerate(GROUPS):
        members = [CLASSES.index(name) for name in group]
        heat = loop_heatmap(labels, {label: channel for channel, label in enumerate(members)}, min_overlap=0.1, min_radius=2)
        probability = predictions.heatmaps[index].double().sigmoid()
        ones = heat == 1
        focal = torch.where(ones, (1 - probability) ** 2 * probability.log(), (1 - heat) ** 4 * probability**2 * (1 - probability).log())
        total += -1.3 * focal.sum().item() / int(ones.sum())
        rows = [row for row in range(5) if int(labels.labels[row]) in members]
        error = 0.0
        for row in rows:
            box = labels.boxes[row].tolist()
            u, v = (box[0] + 10) / 0.8, (box[1] + 8) / 0.8
            wanted = [u % 1, v % 1, box[2], *(math.log(value) for value in box[3:6]), math.cos(box[6]), math.sin(box[6]), *box[7:]]
            got = predictions.codes[index][int(labels.scan[row]), :, int(v), int(u)].tolist()
            error += sum(abs(a - b) * (0.3 if k >= 8 else 1.0) for k, (a, b) in enumerate(zip(got, wanted)) if not math.isnan(b))
        total += 0.7 * error / len(rows)
    loss, _ = head.loss(predictions, labels)
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_unknown_velocities_give_no_gradient_and_no_nan():
    head, labels = make_head(), spread_labels()
    labels.boxes[:, 7:] = float("nan")
    features = torch.randn(3, 16, 20, 30, generator=torch.Generator().manual_seed(0))
    loss, _ = head.loss(head(features), labels)
    loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
    assert all(head.get_parameter(f"heads_list.{index}.vel.1.weight").grad.abs().max() == 0 for index in range(2))


def test_loss_without_a_box_is_the_heat_map_alone():
    head = make_head()
    none = BoxLabels(boxes=torch.empty(0, 9), labels=torch.empty(0, dtype=torch.int64), scan=torch.empty(0, dtype=torch.int64), batch_size=2)
    loss, metrics = head.loss(head(torch.randn(2, 16, 20, 30, generator=torch.Generator().manual_seed(0))), none)
    assert metrics["loss_box"] == 0 and loss.isfinite() and float(loss.detach()) == pytest.approx(float(metrics["loss_heatmap"]))
    loss.backward()


def test_decoding_drops_low_scores_far_centres_and_overflow():
    head, labels = make_head(velocity=False, center_margin=1.0), spread_labels()
    predictions = perfect_predictions(head, labels)
    before = [len(found) for found in head.decode(predictions)]
    targets = head.targets(labels)
    cells = predictions.codes[0].flatten(2)
    cells[targets[0].scan[0], 0, targets[0].cell[0]] = -500.0  # a car's centre far outside the range
    cells[targets[0].scan[1], 3, targets[0].cell[1]] = 1e4  # a truck whose size overflows
    heat = predictions.heatmaps[1].flatten(2)
    heat[targets[1].scan[1], :, targets[1].cell[1]] = -5.0  # the bicycle's score
    after = [len(found) for found in head.decode(predictions)]
    assert before == [3, 2, 0] and after == [1, 1, 0]


def test_checkpoint_layout_is_openpcdets():
    head = CenterHead(512, class_names=NUSCENES_CLASSES, bev_map=MAP, config=CenterHeadConfig(groups=[list(group) for group in NUSCENES_GROUPS]))
    norm = {"weight": (64,), "bias": (64,), "running_mean": (64,), "running_var": (64,), "num_batches_tracked": ()}
    expected = {"shared_conv.0.weight": (64, 512, 3, 3), "shared_conv.0.bias": (64,)} | {f"shared_conv.1.{key}": shape for key, shape in norm.items()}
    for index, group in enumerate(NUSCENES_GROUPS):
        for branch, outputs in {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2, "hm": len(group)}.items():
            prefix = f"heads_list.{index}.{branch}"
            expected |= {f"{prefix}.0.0.weight": (64, 64, 3, 3), f"{prefix}.0.0.bias": (64,)}
            expected |= {f"{prefix}.0.1.{key}": shape for key, shape in norm.items()}
            expected |= {f"{prefix}.1.weight": (outputs, 64, 3, 3), f"{prefix}.1.bias": (outputs,)}
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == expected
    assert (head.state_dict()["heads_list.1.hm.1.bias"] == -2.19).all()
    bare = CenterHead(512, class_names=NUSCENES_CLASSES, bev_map=MAP, config=CenterHeadConfig(bias_before_norm=False, velocity=False)).state_dict()
    assert "shared_conv.0.bias" not in bare and "heads_list.0.vel.1.bias" not in bare and "heads_list.0.dim.0.0.bias" not in bare


@pytest.mark.parametrize("groups", [[["car"]], [["car", "truck"], ["truck", "pedestrian", "bicycle"]], [list(CLASSES), []], [[*CLASSES, "tram"]]])
def test_groups_that_do_not_partition_the_classes_are_refused(groups):
    with pytest.raises(ValueError, match="every class exactly once"):
        CenterHead(16, class_names=CLASSES, bev_map=MAP, config=CenterHeadConfig(groups=groups))


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected a map \(B, C, 20, 30\)"):
        make_head()(torch.zeros(1, 16, 30, 20))
