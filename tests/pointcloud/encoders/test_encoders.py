"""What every encoder promises."""

from __future__ import annotations

import pytest
import torch

from suite3d.config import ConfigError, load_config
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders import LidarEncoder, LidarEncoderConfig, SSTConfig, VoxelGrid, build_encoder

TINY = {
    "voxel_backbone_8x": LidarEncoderConfig(kind="voxel_backbone_8x", width=0.25),
    "voxel_res_backbone_8x": LidarEncoderConfig(kind="voxel_res_backbone_8x", width=0.25),
    "pillar": LidarEncoderConfig(kind="pillar", pillar_dims=(16,)),
    "sst": LidarEncoderConfig(kind="sst", sst=SSTConfig(point_dims=(16, 16), dim=16, heads=2, blocks=1, feedforward=32, window=(4, 4, 1))),
}
CHANNELS = ("intensity", "time", "ring")


def tiny(kind: str, channels: tuple[str, ...] = ("intensity",)) -> LidarEncoder:
    config = TINY[kind]
    config.channels = channels
    config.point_range = (0.0, -0.8, -1.2, 1.6, 0.8, 1.2)
    config.voxel_size = (0.1, 0.1, 0.1 if kind.startswith("voxel") else 2.4)
    return build_encoder(config, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=list(TINY))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_declared_sizes_are_the_emitted_ones(kind: str, scans) -> None:
    encoder = tiny(kind, CHANNELS)
    voxels = encoder.voxelize(scans(encoder.grid, [200, 100], CHANNELS))
    decorated = encoder.decorate(voxels)
    pooled = encoder.pool(decorated, voxels)
    features = encoder.backbone(voxels.sparse(pooled))
    assert decorated.shape == (300, encoder.decorated_dim) and len(encoder.input_columns) == encoder.decorated_dim
    assert pooled.shape == (len(voxels), encoder.embed_dim)
    assert tuple(level.feats.shape[1] for level in features.levels) == encoder.level_dims
    assert len(features.strides) == len(features.levels)
    assert features.bev.shape == (2, encoder.bev_dim, 16 // encoder.bev_stride, 16 // encoder.bev_stride)
    assert encoder.state_dict()[encoder.stem].shape[-1] == len(encoder.input_columns)
    torch.testing.assert_close(decorated[:, list(encoder.absolute_columns)], voxels.xyz)
    columns = [encoder.input_columns.index(name) for name in CHANNELS]
    torch.testing.assert_close(decorated[:, columns], voxels.feats)


def test_every_parameter_gets_a_gradient(kind: str, scans) -> None:
    encoder = tiny(kind).train()
    features = encoder(scans(encoder.grid, [300, 200]))
    (features.bev.square().sum() + sum(level.feats.square().sum() for level in features.levels)).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_an_empty_scan_leaves_its_neighbours_alone(kind: str, scans) -> None:
    encoder = tiny(kind).eval()
    with torch.no_grad():
        alone = encoder(scans(encoder.grid, [200]))
        batch = scans(encoder.grid, [200])
        batch.offsets = torch.tensor([0, 0, 200, 200])
        among = encoder(batch)
    assert among.bev.shape[0] == 3
    torch.testing.assert_close(among.bev[1], alone.bev[0], atol=1e-5, rtol=1e-5)
    for level, single in zip(among.levels, alone.levels, strict=True):
        assert level.offsets().tolist() == [0, 0, len(single.feats), len(single.feats)]
        torch.testing.assert_close(level.feats, single.feats, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_or_one_point_in_range(kind: str, training: bool, count: int, scans) -> None:
    encoder = tiny(kind).train(training)
    features = encoder(scans(encoder.grid, [count, 0]))
    assert [len(level.feats) for level in features.levels[:1]] == [count]
    assert torch.isfinite(features.bev).all()
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())


def test_order_of_points_and_scans_does_not_matter(kind: str, scans) -> None:
    encoder = tiny(kind).eval()
    batch = scans(encoder.grid, [150, 150])
    order = torch.cat(
        [150 + torch.randperm(150, generator=torch.Generator().manual_seed(1)), torch.randperm(150, generator=torch.Generator().manual_seed(2))]
    )
    swapped = PointBatch(
        xyz=batch.xyz[order],
        feats=batch.feats[order],
        offsets=batch.offsets,
        channels=batch.channels,
        names=batch.names[::-1],
        seeds=batch.seeds[::-1],
    )
    with torch.no_grad():
        torch.testing.assert_close(encoder(swapped).bev, encoder(batch).bev.flip(0), atol=1e-5, rtol=1e-5)


def test_channels_are_read_by_name(kind: str, scans) -> None:
    encoder = tiny(kind, ("time",)).eval()
    batch = scans(encoder.grid, [100], CHANNELS)
    reordered = scans(encoder.grid, [100], CHANNELS)
    reordered.feats, reordered.channels = batch.feats[:, [1, 0, 2]], ("time", "intensity", "ring")
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch).bev, encoder(reordered).bev, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"wants channels \['elongation'\]"):
        tiny(kind, ("elongation",))(batch)


def test_same_input_same_output_to_the_bit(kind: str, scans) -> None:
    outputs = []
    for _ in range(2):
        encoder = tiny(kind).train()
        bev = encoder(scans(encoder.grid, [200, 150])).bev
        bev.square().sum().backward()
        outputs.append([bev.detach(), *(parameter.grad for parameter in encoder.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*outputs, strict=True))


def test_configuration_from_the_command_line() -> None:
    config = load_config(
        LidarEncoderConfig, overrides=["kind=sst", "channels=[intensity,time]", "voxel_size=[0.32,0.32,4]", "sst.blocks=2", "width=0.5"]
    )
    config.point_range = (0.0, -10.24, -3.0, 20.48, 10.24, 1.0)
    encoder = build_encoder(config)
    assert encoder.channels == ("intensity", "time") and len(encoder.layers) == 4
    with pytest.raises(ConfigError, match="kind"):
        load_config(LidarEncoderConfig, overrides=["kind=resnet"])


def test_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of voxels"):
        VoxelGrid(point_range=(0, 0, 0, 1, 1, 1), voxel_size=(0.3, 0.1, 0.1))


@pytest.mark.parametrize("kind", ["pillar"])
def test_pillars_need_one_cell_along_z(kind: str) -> None:
    with pytest.raises(ValueError, match=r"one cell along z, got 4: set voxel_size\[2\] to 4"):
        build_encoder(LidarEncoderConfig(kind="pillar", voxel_size=(0.16, 0.16, 1.0), point_range=(0.0, -40.0, -3.0, 70.4, 40.0, 1.0)))
