"""Whole detectors: learning, hard inputs, the project's encoders, configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from suite3d.ops import box_iou_3d
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.detection import CenterHeadConfig, CenterPointConfig, Detections, Detector, NeckConfig, SecondConfig, build_detector
from suite3d.pointcloud.detection.presets import kitti_second, nuscenes_centerpoint_pillar, nuscenes_centerpoint_voxel
from suite3d.pointcloud.encoders.base import VoxelGrid
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x, VoxelResBackBone8x

CLASSES = ("Car", "Pedestrian")
KINDS = ("second", "centerpoint")


def small_config(kind: str, *, stride: int = 2) -> SecondConfig | CenterPointConfig:
    neck = NeckConfig(
        layer_nums=(1, 1),
        layer_strides=(stride, 2),
        num_filters=(32, 32),
        upsample_strides=(1.0, 2.0),
        num_upsample_filters=(32, 32),
        norm_momentum=0.1,
    )
    if kind == "second":
        return SecondConfig(neck=neck)
    return CenterPointConfig(neck=neck, head=CenterHeadConfig(shared_channels=16, velocity=False, box_weight=2.0))


def small_detector(kind, encoder) -> Detector:
    torch.manual_seed(0)
    return build_detector(kind, encoder(dim=16), CLASSES, small_config(kind), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_two_scans_and_finds_their_boxes(kind, toy_encoder, toy_batch):
    model = small_detector(kind, toy_encoder)
    steps = 80
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    losses = []
    for _ in range(steps):
        output = model(toy_batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    for found, boxes, labels in zip(model.predict(toy_batch), toy_batch.boxes, toy_batch.labels, strict=True):
        assert len(found) <= len(boxes) + 4  # hardly anything else is found
        overlap, match = box_iou_3d(boxes, found.boxes).max(dim=1)
        assert (overlap > 0.7).all(), overlap
        assert torch.equal(found.labels[match], labels)
        assert ((found.boxes[match, 6] - boxes[:, 6])[labels == 0].cos() > 0.9).all()  # heads where the car does


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_scan_and_a_scan_without_boxes(kind, toy_encoder, toy_batch, batch_of):
    model = small_detector(kind, toy_encoder)
    boxes = [torch.empty(0, 7), toy_batch.boxes[0], torch.empty(0, 7)]
    labels = [torch.empty(0, dtype=torch.int64), toy_batch.labels[0], torch.empty(0, dtype=torch.int64)]
    batch = batch_of(boxes, labels)
    points = batch.offsets.tolist()
    batch = replace(
        batch, xyz=batch.xyz[points[1] :], feats=batch.feats[points[1] :], offsets=torch.tensor([0, 0, points[2] - points[1], points[3] - points[1]])
    )
    output = model(batch)
    output.loss.backward()
    assert output.loss.isfinite() and output.loss.dtype == torch.float32
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert len(model.predict(batch)) == 3
    only_empty = replace(batch, boxes=[boxes[0]] * 3, labels=[labels[0]] * 3)
    assert model(only_empty).loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_out_of_range_changes_nothing(kind, toy_encoder, toy_batch):
    model = small_detector(kind, toy_encoder).eval()
    far = torch.tensor([[300.0, 0, 0, 4, 2, 1.5, 0]])
    more = replace(
        toy_batch,
        boxes=[torch.cat([toy_batch.boxes[0], far]), toy_batch.boxes[1]],
        labels=[torch.cat([toy_batch.labels[0], torch.tensor([0])]), toy_batch.labels[1]],
    )
    assert float(model(more).loss.detach()) == float(model(toy_batch).loss.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_scans_and_boxes_does_not_matter(kind, toy_encoder, toy_batch, batch_of):
    model = small_detector(kind, toy_encoder).eval()
    shuffled = batch_of([boxes.flip(0) for boxes in toy_batch.boxes], [labels.flip(0) for labels in toy_batch.labels])
    shuffled = replace(shuffled, xyz=toy_batch.xyz, offsets=toy_batch.offsets, feats=toy_batch.feats)
    torch.testing.assert_close(model(shuffled).loss, model(toy_batch).loss)
    alone = [
        PointBatch(
            xyz=toy_batch.xyz[start:end],
            feats=toy_batch.feats[start:end],
            offsets=torch.tensor([0, end - start]),
            channels=toy_batch.channels,
            names=[toy_batch.names[scan]],
            seeds=[0],
        )
        for scan, (start, end) in enumerate(zip(toy_batch.offsets[:-1].tolist(), toy_batch.offsets[1:].tolist()))
    ]
    with torch.no_grad():
        together = model.head(model.neck(model.encoder(toy_batch).bev))
        for scan in range(2):
            one = model.head(model.neck(model.encoder(alone[scan]).bev))
            codes, expected = (one.boxes, together.boxes) if kind == "second" else (one.codes[0], together.codes[0])
            torch.testing.assert_close(codes[0], expected[scan], rtol=1e-4, atol=1e-5)


def test_prediction_leaves_modes_and_statistics_alone(toy_encoder, toy_batch):
    model = small_detector("centerpoint", toy_encoder)
    model.encoder.stem[1].eval()
    modes = [part.training for part in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert any(modes) and not all(modes)
    first = model.predict(replace(toy_batch, boxes=None, labels=None))
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    assert torch.equal(first[0].boxes, model.predict(toy_batch)[0].boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_picture_shows_detections_and_labels(kind, toy_encoder, toy_batch):
    model = small_detector(kind, toy_encoder)
    model.head.config.score_threshold = 0.0
    model.head.config.nms_candidates = model.head.config.max_detections = 5
    scene = model(toy_batch).visuals()["detections"]
    assert len(scene.points) == int(toy_batch.offsets[1]) and 0 < len(scene.boxes) <= 5 and scene.boxes.shape[1] == 7
    assert scene.scores.shape == (len(scene.boxes),)
    assert torch.equal(torch.from_numpy(scene.labels_boxes), toy_batch.boxes[0])


def test_autocast_keeps_the_loss_in_float32(toy_encoder, toy_batch):
    for kind in KINDS:
        model = small_detector(kind, toy_encoder)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(toy_batch)
        assert output.loss.dtype == torch.float32
        output.loss.backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("encoder", "voxel_size", "kind"),
    [
        (VoxelBackBone8x, (0.1, 0.1, 0.1), "second"),
        (VoxelResBackBone8x, (0.1, 0.1, 0.1), "centerpoint"),
        (PillarEncoder, (0.4, 0.4, 4.0), "centerpoint"),
        (PillarEncoder, (0.4, 0.4, 4.0), "second"),
    ],
)
def test_trains_with_the_projects_encoders(encoder, voxel_size, kind, toy_batch):
    grid = VoxelGrid(point_range=(0.0, -12.8, -3.0, 25.6, 12.8, 1.0), voxel_size=voxel_size)
    generator = torch.Generator().manual_seed(0)
    stride = 1 if encoder is not PillarEncoder else 2
    model = build_detector(kind, encoder(grid, generator=generator), CLASSES, small_config(kind, stride=stride), generator=generator)
    assert (model.head.bev_map.height, model.head.bev_map.width) == (32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        output = model(toy_batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert output.features is not None and output.features.ndim == 2 and not output.features.requires_grad
    assert all(isinstance(found, Detections) for found in model.predict(toy_batch))


def test_published_presets_build_with_their_encoders_and_strides():
    cases = [(kitti_second(), VoxelBackBone8x, (200, 176)), (nuscenes_centerpoint_voxel(), VoxelResBackBone8x, (180, 180))]
    cases.append((nuscenes_centerpoint_pillar(), PillarEncoder, (128, 128)))
    for preset, encoder, size in cases:
        grid = VoxelGrid(point_range=preset.point_range, voxel_size=preset.voxel_size)
        model = build_detector(preset.kind, encoder(grid, channels=preset.channels), preset.class_names, preset.config)
        assert (model.head.bev_map.height, model.head.bev_map.width) == size
    preset = kitti_second()
    encoder = VoxelBackBone8x(VoxelGrid(point_range=preset.point_range, voxel_size=preset.voxel_size))
    state = build_detector(preset.kind, encoder, preset.class_names, preset.config).state_dict()
    assert {key.split(".")[0] for key in state} == {"encoder", "neck", "head"}
    assert len(state) == 162  # OpenPCDet's SECOND file holds 163: these and global_step


def test_weights_follow_the_generator(toy_encoder):
    for kind in KINDS:
        first, second, other = (
            build_detector(kind, toy_encoder(), CLASSES, small_config(kind), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
        )
        for part in ("neck", "head"):
            a, b, c = (model.get_submodule(part).state_dict() for model in (first, second, other))
            assert all(torch.equal(a[key], b[key]) for key in a) and any(not torch.equal(a[key], c[key]) for key in a)


def test_configurations_are_structured():
    merged = OmegaConf.merge(OmegaConf.structured(CenterPointConfig), {"head": {"groups": [["a", "b"], ["c"]], "box_weight": 2.0}})
    config = OmegaConf.to_object(merged)
    assert isinstance(config, CenterPointConfig) and config.head.groups == [["a", "b"], ["c"]]
    second = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SecondConfig), {"head": {"anchors": [{"class_name": "van"}]}}))
    assert [anchor.class_name for anchor in second.head.anchors] == ["van"]


def test_impossible_detectors_are_refused(toy_encoder):
    encoder = toy_encoder()
    with pytest.raises(ValueError, match="'second' or 'centerpoint'"):
        build_detector("pointnet", encoder, CLASSES)
    with pytest.raises(ValueError, match="expected a SecondConfig, got CenterPointConfig"):
        build_detector("second", encoder, CLASSES, CenterPointConfig())
    for names in ((), ("Car", "Car")):
        with pytest.raises(ValueError, match="at least one class and no repeats"):
            build_detector("second", encoder, names)
    uneven = toy_encoder(VoxelGrid(point_range=(0.0, 0.0, -3.0, 25.2, 25.6, 1.0), voxel_size=(0.4, 0.4, 4.0)))
    with pytest.raises(ValueError, match="63 voxels along x, not a multiple of the detector's stride 4"):
        build_detector("centerpoint", uneven, CLASSES, small_config("centerpoint"))


def test_detections_check_their_shapes_and_merge_by_score():
    one = Detections(boxes=torch.ones(2, 7), scores=torch.tensor([0.9, 0.2]), labels=torch.tensor([0, 1]))
    two = Detections(boxes=torch.zeros(1, 7), scores=torch.tensor([0.5]), labels=torch.tensor([2]))
    merged = Detections.merge([one, two])
    assert merged.labels.tolist() == [0, 2, 1] and len(merged[:2]) == 2
    assert merged[merged.scores > 0.4].labels.tolist() == [0, 2]
    with pytest.raises(ValueError, match="boxes"):
        Detections(boxes=torch.ones(2, 8), scores=torch.ones(2), labels=torch.zeros(2))
    with pytest.raises(ValueError, match="at least one part"):
        Detections.merge([])
    with pytest.raises(ValueError, match="equally many box columns"):
        Detections.merge([one, Detections(boxes=torch.zeros(1, 9), scores=torch.ones(1), labels=torch.zeros(1))])
