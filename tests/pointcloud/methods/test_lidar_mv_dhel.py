"""MV-DHEL on camera and LiDAR: pixels show the places, the second sweep's cells lie at the same spot of the world, the loss is its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.image.backbones.resnet import ResNet
from suite3d.pointcloud.data.source import PairSource
from suite3d.pointcloud.data.street import StreetConfig, StreetWorld
from suite3d.pointcloud.data.street.camera import MOUNT
from suite3d.pointcloud.data.transforms import RandomFlip, RandomScale, RandomYaw
from suite3d.pointcloud.encoders.base import VoxelGrid
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x
from suite3d.pointcloud.methods.lidar_mv_dhel import LidarMVDHEL, LidarMVDHELConfig, move_points, project_points
from suite3d.pointcloud.methods.units import unit_features

RANGE = (-25.6, -25.6, -2.6, 25.6, 25.6, 1.4)
SIZES = {"train_sequences": 2, "val_sequences": 1, "frames": 3, "beams": 32, "azimuths": 512, "image_width": 248, "image_height": 80, "traffic": 0.0}
MOVES = (RandomFlip(axis="x"), RandomFlip(axis="y"), RandomYaw(low=-3, high=3), RandomScale(low=0.9, high=1.1))


@pytest.fixture(scope="module")
def world():
    return StreetWorld(StreetConfig(images=True, **SIZES))


@pytest.fixture(scope="module")
def pair(world):
    return pairs(world, MOVES)


def pairs(world, transforms, rows=(1, 4)):
    source = PairSource(world, transforms, mode="temporal", max_gap=1, channels=("intensity",), point_range=RANGE)
    return source.collate([source.get(row, np.random.default_rng(row)) for row in rows], list(rows))


def make(kind="voxel", **config):
    generator = torch.Generator().manual_seed(3)
    if kind == "voxel":
        encoder = VoxelBackBone8x(VoxelGrid(point_range=RANGE, voxel_size=(0.2, 0.2, 0.16)), channels=("intensity",), width=0.25, generator=generator)
    else:
        encoder = PillarEncoder(VoxelGrid(point_range=RANGE, voxel_size=(0.4, 0.4, 4.0)), channels=("intensity",), dims=(16,), generator=generator)
    torch.manual_seed(0)
    return LidarMVDHEL(encoder, ResNet(18, width=8, stem="small"), LidarMVDHELConfig(**{"places": 40, "hidden": 16, "dim": 8} | config))


def test_points_project_where_the_calibration_says_whatever_the_augmentation(world, pair):
    shares, seen = project_points(pair.first)
    for index, row in enumerate((1, 4)):
        mine = slice(*pair.first.offsets[index : index + 2].tolist())
        frame = pair.first.frames[index]
        recorded = pair.first.xyz[mine].double().numpy()
        undo = np.linalg.inv(frame.meta["augmentation"])
        recorded = (recorded @ undo[:3, :3].T + undo[:3, 3]).astype(np.float32)
        camera = recorded @ world.camera.calibration.lidar_to_rect[:3, :3].T + world.camera.calibration.lidar_to_rect[:3, 3]
        pixels, depth = world.camera.calibration.project_rect(camera)
        front = depth > 1
        wanted = (pixels[front] + 0.5) / np.array(world.camera.image_size)
        np.testing.assert_allclose(shares[mine].numpy()[front], wanted, atol=1e-3, rtol=1e-3)
        inside = ((wanted >= 0) & (wanted < 1)).all(axis=1)
        assert (seen[mine].numpy()[front] == inside).mean() > 0.999 and not seen[mine].numpy()[depth <= 0].any()
        # What the camera sees at the pixel is as far away as the point is.
        distance, _ = world.segment(row)
        shown = seen[mine].numpy()
        column, line = (shares[mine].numpy()[shown] * world.camera.image_size).astype(int).T
        gap = np.abs(distance[line, column] - np.linalg.norm(recorded[shown] - MOUNT, axis=1))
        assert shown.sum() > 100 and np.mean(gap < 0.5) > 0.8, "but for edges, leaves and grazing rays"


def test_second_sweep_is_read_at_the_same_spot_of_the_world(pair):
    scan = pair.first.batch_index()
    moved = move_points(pair, scan)
    for index in range(2):
        mine = scan == index
        spots = [
            pose[:3, :3] @ xyz.double().T + pose[:3, 3:]
            for pose, xyz in ((pair.first.poses[index], pair.first.xyz[mine]), (pair.second.poses[index], moved[mine]))
        ]
        torch.testing.assert_close(spots[0], spots[1], atol=1e-4, rtol=0)
    model = make("pillar")
    places, pixels = model.places(pair)
    assert len(pixels) == len(places.points) > 40 and ((pixels >= 0) & (pixels < 1)).all()
    cells = model.cells(moved, scan)[places.points]
    second = model.encoder.voxelize(pair.second)
    held = {tuple(row) for row in second.coords.tolist()}
    assert all(tuple(row) in held for row in cells.tolist())
    torch.testing.assert_close(places.second, unit_features(model.encoder, model.encoder.encode(second), cells.int()))
    own = model.cells(pair.first.xyz.double(), scan)[places.points]
    assert len({tuple(row) for row in own.tolist()}) == len(own), "one point a cell"
    torch.testing.assert_close(places.first, unit_features(model.encoder, model.encoder(pair.first), own.int()))


@pytest.mark.parametrize("kind", ["pillar", "voxel"])
def test_loss_is_its_definition(pair, outputs_of, kind):
    model = make(kind)
    output, seen = outputs_of(model, pair, "lidar_projector", "image_projector")
    u = torch.stack((seen["image_projector"], *seen["lidar_projector"].chunk(2))).double()  # [3, P, 8]
    u = u / u.norm(dim=2, keepdim=True)
    total = 0.0
    for i in range(u.shape[1]):
        agreement = sum(math.exp(float(u[a, i] @ u[b, i]) / 0.1) for a in range(3) for b in range(a + 1, 3))
        spread = [sum(math.exp(float(u[view, i] @ u[view, j]) / 0.1) for j in range(u.shape[1]) if j != i) for view in range(3)]
        total -= math.log(agreement) - sum(math.log(one) for one in spread)
    assert output.loss.item() == pytest.approx(total / u.shape[1], rel=1e-4)
    assert output.metrics["places"] == u.shape[1]


def test_image_features_are_read_at_the_pixel():
    model = make()
    values = torch.arange(12.0).view(1, 1, 3, 4)  # a map of 3 x 4 places; place (row, column) is centred at ((column + 0.5) / 4, (row + 0.5) / 3)
    model.image_encoder.levels = lambda _pixels: [torch.cat((values, 100 + values))]
    frames = [type("Frame", (), {"meta": {"image": np.zeros((6, 8, 3), np.uint8)}})() for _ in range(2)]
    batch = type("Batch", (), {"frames": frames, "batch_size": 2, "xyz": torch.zeros(1, 3)})()
    pixels = torch.tensor([[0.5 / 4, 0.5 / 3], [2.5 / 4, 1.5 / 3], [3.5 / 4, 2.5 / 3]])
    assert model.image_features(batch, torch.tensor([0, 0, 1]), pixels)[:, 0].tolist() == pytest.approx([0.0, 6.0, 111.0], abs=1e-4)


def test_learns_repeats_and_reaches_both_encoders(pair, gradients_reach):
    assert gradients_reach(make("pillar"), pair) == []

    def losses():
        model, found = make(), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(12):
            output = model(pair)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            found.append(output.loss.item())
        assert all(parameter.grad is not None for parameter in model.image_encoder.parameters())
        return found

    found = losses()
    assert found[-1] < found[0] - 0.5 and found == losses()


def test_pairs_that_share_nothing_still_step(pair):
    far = pair.second_to_first.clone()
    far[:, :3, 3] += 1e3
    model = make("pillar")
    output = model(replace(pair, second_to_first=far))
    output.loss.backward()
    assert output.loss.item() == 0 and output.metrics["places"] == 0


def test_bad_input_is_refused(world, pair):
    blind = [replace(frame, meta={name: value for name, value in frame.meta.items() if name != "image"}) for frame in pair.first.frames]
    with pytest.raises(ValueError, match=r"street\.images"):
        make()(replace(pair, first=replace(pair.first, frames=blind)))
    lost = [replace(frame, meta={}) for frame in pair.first.frames]
    with pytest.raises(ValueError, match="calibrated camera"):
        make()(replace(pair, first=replace(pair.first, frames=lost)))
    with pytest.raises(ValueError, match="temperature"):
        LidarMVDHELConfig(temperature=0)
    with pytest.raises(ValueError, match="places"):
        LidarMVDHELConfig(places=1)
    with pytest.raises(ValueError, match="convolutional"):
        LidarMVDHEL(make().encoder, torch.nn.Identity())
