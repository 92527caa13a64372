"""The voxel backbones against the published key tables and against dense convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.ops import SparseTensor
from suite3d.pointcloud.encoders import VoxelBackBone8x, VoxelGrid, VoxelResBackBone8x

GRID = VoxelGrid(point_range=(0.0, 0.0, 0.0, 0.9, 0.9, 2.4), voxel_size=(0.1, 0.1, 0.1))  # 24 x 9 x 9 cells
BOTH = pytest.mark.parametrize("cls", [VoxelBackBone8x, VoxelResBackBone8x])


def norm_table(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{name}": (channels,) for name in names} | {f"{prefix}.num_batches_tracked": ()}


def second_table(cin: int) -> dict[str, tuple[int, ...]]:
    """OpenPCDet VoxelBackBone8x, written out from its published files."""
    rows = [("conv_input.0", (16, 3, 3, 3, cin)), ("conv1.0.0", (16, 3, 3, 3, 16))]
    rows += [("conv2.0.0", (32, 3, 3, 3, 16)), ("conv2.1.0", (32, 3, 3, 3, 32)), ("conv2.2.0", (32, 3, 3, 3, 32))]
    rows += [("conv3.0.0", (64, 3, 3, 3, 32)), ("conv3.1.0", (64, 3, 3, 3, 64)), ("conv3.2.0", (64, 3, 3, 3, 64))]
    rows += [("conv4.0.0", (64, 3, 3, 3, 64)), ("conv4.1.0", (64, 3, 3, 3, 64)), ("conv4.2.0", (64, 3, 3, 3, 64))]
    rows += [("conv_out.0", (128, 3, 1, 1, 64))]
    table: dict[str, tuple[int, ...]] = {}
    for name, shape in rows:
        table[f"{name}.weight"] = shape
        table |= norm_table(name[:-1] + "1", shape[0])
    return table


def centerpoint_table(cin: int) -> dict[str, tuple[int, ...]]:
    """OpenPCDet VoxelResBackBone8x."""
    table: dict[str, tuple[int, ...]] = {}
    plain = [("conv_input", (16, 3, 3, 3, cin)), ("conv2.0", (32, 3, 3, 3, 16)), ("conv3.0", (64, 3, 3, 3, 32)), ("conv4.0", (128, 3, 3, 3, 64))]
    plain += [("conv_out", (128, 3, 1, 1, 128))]
    for name, shape in plain:
        table[f"{name}.0.weight"] = shape
        table |= norm_table(f"{name}.1", shape[0])
    blocks = [
        ("conv1.0", 16),
        ("conv1.1", 16),
        ("conv2.1", 32),
        ("conv2.2", 32),
        ("conv3.1", 64),
        ("conv3.2", 64),
        ("conv4.1", 128),
        ("conv4.2", 128),
    ]
    for name, width in blocks:
        for index in (1, 2):
            table[f"{name}.conv{index}.weight"] = (width, 3, 3, 3, width)
            table[f"{name}.conv{index}.bias"] = (width,)
            table |= norm_table(f"{name}.bn{index}", width)
    return table


def test_second_has_exactly_the_published_tensors() -> None:
    encoder = VoxelBackBone8x(GRID)
    assert {key: tuple(value.shape) for key, value in encoder.state_dict().items()} == second_table(4)
    assert len(encoder.state_dict()) == 72
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 711_872


def test_centerpoint_has_exactly_the_published_tensors() -> None:
    encoder = VoxelResBackBone8x(GRID, channels=("intensity", "time"))
    assert {key: tuple(value.shape) for key, value in encoder.state_dict().items()} == centerpoint_table(5)
    assert len(encoder.state_dict()) == 142
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 2_695_312


class Dense:
    """The backbones again, on full grids: a value and a mask of active cells. Reads nothing but the state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def norm(self, x: Tensor, mask: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (self.state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias"))
        return ((x - mean) / (var + 1e-3).sqrt() * weight + bias) * mask

    def conv(self, x: Tensor, name: str, stride: int | tuple = 1, padding: int | tuple = 1) -> Tensor:
        weight = self.state[f"{name}.weight"].permute(0, 4, 1, 2, 3)
        return F.conv3d(x, weight, self.state.get(f"{name}.bias"), stride=stride, padding=padding)

    def subm(self, x: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor]:
        return self.norm(self.conv(x, f"{name}.0"), mask, f"{name}.1").relu(), mask

    def down(self, x: Tensor, mask: Tensor, name: str, stride: int | tuple = 2, padding: int | tuple = 1) -> tuple[Tensor, Tensor]:
        kernel = self.state[f"{name}.0.weight"].shape[1:4]
        mask = (F.conv3d(mask, torch.ones(1, 1, *kernel), stride=stride, padding=padding) > 0).float()
        return self.norm(self.conv(x, f"{name}.0", stride, padding), mask, f"{name}.1").relu(), mask

    def block(self, x: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor]:
        if f"{name}.conv1.weight" not in self.state:
            return self.subm(x, mask, name)
        hidden = self.norm(self.conv(x, f"{name}.conv1"), mask, f"{name}.bn1").relu()
        return (self.norm(self.conv(hidden, f"{name}.conv2"), mask, f"{name}.bn2") + x).relu(), mask

    def stages(self, x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        x, mask = self.subm(x, mask, "conv_input")
        for name in [key for key in ("conv1.0", "conv1.1") if any(k.startswith(key + ".") for k in self.state)]:
            x, mask = self.block(x, mask, name)
        levels = [(x, mask)]
        for stage, padding in (("conv2", 1), ("conv3", 1), ("conv4", (0, 1, 1))):
            x, mask = self.down(*levels[-1], f"{stage}.0", padding=padding)
            for index in (1, 2):
                x, mask = self.block(x, mask, f"{stage}.{index}")
            levels.append((x, mask))
        return levels


def random_sites(shape: tuple[int, int, int], channels: int, share: float, generator: torch.Generator, batch: int = 2) -> SparseTensor:
    active = torch.rand(batch, *shape, generator=generator) < share
    coords = active.nonzero().int()
    return SparseTensor(coords=coords, feats=torch.randn(len(coords), channels, generator=generator), spatial_shape=shape, batch_size=batch)


def assert_level(level: SparseTensor, dense: Tensor, mask: Tensor) -> None:
    assert torch.equal(level.replace(torch.ones(len(level.feats), 1)).dense(), mask)
    torch.testing.assert_close(level.dense(), dense, atol=1e-5, rtol=1e-5)


@BOTH
def test_stages_equal_dense_convolutions_on_a_nine_cube(cls: type, shake_norms) -> None:
    generator = torch.Generator().manual_seed(3)
    encoder = cls(GRID, generator=generator).eval()
    shake_norms(encoder)
    x = random_sites((9, 9, 9), 4, 0.15, generator)
    mask = x.replace(torch.ones(len(x.feats), 1)).dense()
    with torch.no_grad():
        for level, (dense, cells) in zip(encoder.stages(x), Dense(encoder.state_dict()).stages(x.dense(), mask), strict=True):
            assert_level(level, dense, cells)


@BOTH
def test_whole_encoder_equals_dense_convolutions(cls: type, scans, shake_norms) -> None:
    encoder = cls(GRID, generator=torch.Generator().manual_seed(4)).eval()
    shake_norms(encoder)
    batch = scans(GRID, [150, 90])
    dense_input, mask = torch.zeros(2, 4, 25, 9, 9), torch.zeros(2, 1, 25, 9, 9)  # one extra cell along z
    for scan in range(2):
        for row in range(int(batch.offsets[scan]), int(batch.offsets[scan + 1])):
            x, y, z = (batch.xyz[row] / torch.tensor(0.1)).floor().long().tolist()
            dense_input[scan, :, z, y, x] += torch.cat([batch.xyz[row], batch.feats[row]])
            mask[scan, 0, z, y, x] += 1
    dense_input, mask = dense_input / mask.clamp(min=1), (mask > 0).float()
    with torch.no_grad():
        features = encoder(batch)
        dense = Dense(encoder.state_dict())
        levels = dense.stages(dense_input, mask)
        levels.append(dense.down(*levels[-1], "conv_out", stride=(2, 1, 1), padding=0))
    for level, (values, cells) in zip(features.levels, levels, strict=True):
        assert_level(level, values, cells)
    torch.testing.assert_close(features.bev, levels[-1][0].flatten(1, 2), atol=1e-5, rtol=1e-5)
    assert features.bev.shape == (2, encoder.bev_dim, 2, 2)


def test_gradients_equal_dense_convolutions(shake_norms) -> None:
    generator = torch.Generator().manual_seed(5)
    encoder = VoxelResBackBone8x(GRID, width=0.25, generator=generator).eval()
    shake_norms(encoder)
    x = random_sites((9, 9, 9), 4, 0.1, generator)
    sparse_loss = sum(level.feats.square().sum() for level in encoder.stages(x))
    names, parameters = zip(*((name, p) for name, p in encoder.named_parameters() if not name.startswith("conv_out")), strict=True)
    expected_state = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    leaves = [expected_state[name].requires_grad_() for name in names]
    mask = x.replace(torch.ones(len(x.feats), 1)).dense()
    dense_loss = sum((values * cells).square().sum() for values, cells in Dense(expected_state).stages(x.dense(), mask))
    for got, want in zip(torch.autograd.grad(sparse_loss, parameters), torch.autograd.grad(dense_loss, leaves), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@BOTH
def test_shift_by_eight_voxels_shifts_the_map_by_one_cell(cls: type, shake_norms) -> None:
    grid = VoxelGrid(point_range=(0.0, 0.0, 0.0, 9.6, 9.6, 2.4), voxel_size=(0.1, 0.1, 0.1))
    generator = torch.Generator().manual_seed(6)
    encoder = cls(grid, width=0.25, generator=generator).eval()
    shake_norms(encoder)
    coords = torch.cat(
        [torch.zeros(200, 1), torch.randint(0, 24, (200, 1), generator=generator), torch.randint(40, 56, (200, 2), generator=generator)], dim=1
    )
    coords = coords.int().unique(dim=0)
    feats = torch.randn(len(coords), 4, generator=generator)
    moved = coords + torch.tensor([0, 0, 16, -8], dtype=torch.int32)
    with torch.no_grad():
        first = encoder.backbone(SparseTensor(coords=coords, feats=feats, spatial_shape=grid.shape, batch_size=1)).bev
        second = encoder.backbone(SparseTensor(coords=moved, feats=feats, spatial_shape=grid.shape, batch_size=1)).bev
    assert first.abs().sum() > 0
    torch.testing.assert_close(first.roll((2, -1), dims=(2, 3)), second, atol=1e-5, rtol=1e-5)


def test_mean_of_the_first_points_only(scans) -> None:
    batch = scans(VoxelGrid(point_range=GRID.point_range, voxel_size=(0.3, 0.3, 0.1)), [400])
    grid = VoxelGrid(point_range=GRID.point_range, voxel_size=(0.3, 0.3, 0.1))
    encoder = VoxelBackBone8x(grid, width=0.25, max_points=2)
    voxels = encoder.voxelize(batch)
    pooled = encoder.pool(encoder.decorate(voxels), voxels)
    assert int(voxels.counts.max()) > 2
    for row in range(len(voxels)):
        mine = voxels.point_index[voxels.point_voxel == row].sort().values[:2]
        expected = torch.cat([batch.xyz[mine], batch.feats[mine]], dim=1).mean(0)
        torch.testing.assert_close(pooled[row], expected)


@BOTH
def test_uninitialised_weights_do_not_survive(cls: type) -> None:
    with torch.device("meta"):
        encoder = cls(GRID, width=0.25)
    encoder = encoder.to_empty(device="cpu")
    for value in encoder.state_dict().values():
        value.fill_(float("nan") if value.is_floating_point() else 7)
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    for key, value in encoder.state_dict().items():
        assert torch.isfinite(value).all(), key
    again = cls(GRID, width=0.25, generator=torch.Generator().manual_seed(1)).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in encoder.state_dict().items())


def test_initial_weights_have_the_published_spread() -> None:
    weight = VoxelBackBone8x(GRID, generator=torch.Generator().manual_seed(2)).conv3[1][0].weight
    bound = (27 * 64) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_every_voxel_finds_its_parent_at_every_level(scans) -> None:
    grid = VoxelGrid(point_range=(0.0, 0.0, -3.0, 1.6, 1.6, 1.0), voxel_size=(0.05, 0.05, 0.1))  # 40 cells along z, as on KITTI
    encoder = VoxelBackBone8x(grid, width=0.25).eval()
    voxels = encoder.voxelize(scans(grid, [500, 300]))
    assert int(voxels.coords[:, 1].max()) == 39
    features = encoder.encode(voxels)
    features.levels = [level.replace(torch.ones(len(level.feats), 1)) for level in features.levels]
    assert torch.equal(features.hypercolumn(voxels.coords), torch.ones(len(voxels), 5))


def test_flat_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 24 cells along z, got 20"):
        VoxelBackBone8x(VoxelGrid(point_range=(0, 0, 0, 8, 8, 2), voxel_size=(0.1, 0.1, 0.1)))
    VoxelBackBone8x(GRID, width=0.25)


def test_normalisation_constants() -> None:
    for cls in (VoxelBackBone8x, VoxelResBackBone8x):
        norms = [layer for layer in cls(GRID).modules() if isinstance(layer, nn.BatchNorm1d)]
        assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-3, 0.01)}
