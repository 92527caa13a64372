"""SST against a loop over windows, and its symmetries."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.ops import SparseTensor
from suite3d.pointcloud.encoders import SST, SSTConfig, VoxelGrid, window_cells
from suite3d.pointcloud.encoders.window import WindowAttention, plan_windows, sincos_table

GRID = VoxelGrid(point_range=(0.0, 0.0, 0.0, 30.0, 24.0, 4.0), voxel_size=(1.0, 1.0, 4.0))
SMALL = SSTConfig(point_dims=(16, 16), dim=16, heads=2, blocks=2, feedforward=24, window=(6, 4, 1))


def random_coords(shape: tuple[int, int, int], share: float, seed: int, batch: int = 2) -> Tensor:
    return (torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) < share).nonzero().int()


def test_window_cells() -> None:
    coords = random_coords((2, 11, 13), 0.5, 0)
    expected = [((z % 2) * 4 + y % 4) * 3 + x % 3 for _, z, y, x in coords.tolist()]
    assert window_cells(coords, (3, 4, 2)).tolist() == expected
    published = window_cells(random_coords((1, 48, 48), 0.9, 1), (12, 12, 1))
    assert published.unique().tolist() == list(range(144))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
def test_plan_holds_every_voxel_once_and_windows_apart(shifted: bool, share: float) -> None:
    window = (6, 4, 1)
    coords = random_coords((1, 17, 19), share, 2)
    plan = plan_windows(coords, window, shifted=shifted)
    assert len(plan.slot.unique()) == len(coords) and int(plan.slot.max()) < sum(plan.sizes)
    shift = (3, 2) if shifted else (0, 0)
    name = [(b, (y + shift[1]) // 4, (x + shift[0]) // 6) for b, _, y, x in coords.tolist()]
    seen: list[tuple[int, int, int]] = []
    start = 0
    for keys in plan.keys:
        windows, _, _, length = keys.shape
        for index in range(windows):
            begin = start + index * length
            mine = ((plan.slot >= begin) & (plan.slot < begin + length)).nonzero().squeeze(1)
            assert (plan.slot[mine] - begin).sort().values.tolist() == keys[index].flatten().nonzero().squeeze(1).tolist()
            assert len({name[row] for row in mine.tolist()}) == 1
            seen.append(name[int(mine[0])])
        start += windows * length
    assert sorted(seen) == sorted(set(name))


def naive_attention(attention: WindowAttention, x: Tensor, coords: Tensor, window: tuple[int, int, int], shift: tuple[int, int]) -> Tensor:
    dim = x.shape[1]
    width = dim // attention.heads
    table = {}
    for cy in range(window[1]):
        for cx in range(window[0]):
            code = []
            for distance in (cx - window[0] / 2, cy - window[1] / 2):
                for i in range(0, dim // 2, 2):
                    angle = distance / 10000 ** (i / (dim // 2))
                    code += [math.sin(angle), math.cos(angle)]
            table[cy, cx] = torch.tensor(code)
    groups: dict[tuple[int, int, int], list[int]] = {}
    position = torch.zeros_like(x)
    for row, (b, _, y, x_cell) in enumerate(coords.tolist()):
        y, x_cell = y + shift[1], x_cell + shift[0]
        groups.setdefault((b, y // window[1], x_cell // window[0]), []).append(row)
        position[row] = table[y % window[1], x_cell % window[0]]
    out = torch.zeros_like(x)
    weight, bias = attention.in_proj.weight, attention.in_proj.bias
    for rows in groups.values():
        query = (x[rows] + position[rows]) @ weight[:dim].T + bias[:dim]
        key = (x[rows] + position[rows]) @ weight[dim : 2 * dim].T + bias[dim : 2 * dim]
        value = x[rows] @ weight[2 * dim :].T + bias[2 * dim :]
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            scores = (query[:, part] @ key[:, part].T / width**0.5).softmax(dim=1)
            out[torch.tensor(rows)[:, None], torch.arange(dim)[part]] = scores @ value[:, part]
    return out @ attention.out_proj.weight.T + attention.out_proj.bias


def test_transformer_equals_a_loop_over_windows() -> None:
    encoder = SST(GRID, config=SMALL, generator=torch.Generator().manual_seed(0)).eval()
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.attention.in_proj.bias, generator=torch.Generator().manual_seed(1))
    coords = random_coords(GRID.shape, 0.3, 3)
    feats = torch.randn(len(coords), 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got = encoder.transform(SparseTensor(coords=coords, feats=feats, spatial_shape=GRID.shape, batch_size=2)).feats
        x = feats
        for index, layer in enumerate(encoder.layers):
            shift = (3, 2) if index % 2 else (0, 0)
            x = F.layer_norm(x + naive_attention(layer.attention, x, coords, (6, 4, 1), shift), (16,), layer.norm1.weight, layer.norm1.bias)
            hidden = F.gelu(x @ layer.linear1.weight.T + layer.linear1.bias)
            x = F.layer_norm(x + hidden @ layer.linear2.weight.T + layer.linear2.bias, (16,), layer.norm2.weight, layer.norm2.bias)
    torch.testing.assert_close(got, x, atol=1e-5, rtol=1e-5)


def test_gradient_equals_a_loop_over_windows() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2).double()
    coords = random_coords((1, 9, 9), 0.5, 4)
    window = (6, 4, 1)
    plan = plan_windows(coords, window, shifted=True)
    x = torch.randn(len(coords), 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(coords), 8, dtype=torch.float64)
    position = sincos_table(window, 8).double()[plan.cell]
    inputs = [x, *attention.parameters()]
    got = torch.autograd.grad((attention(x, position, plan) * weight).sum(), inputs)
    want = torch.autograd.grad((naive_attention(attention, x, coords, window, (3, 2)) * weight).sum(), inputs)
    for first, second in zip(got, want, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


def test_moving_by_whole_windows_moves_the_features() -> None:
    encoder = SST(GRID, config=SMALL, generator=torch.Generator().manual_seed(0)).eval()
    coords = random_coords((1, 12, 12), 0.4, 5)
    feats = torch.randn(len(coords), 16, generator=torch.Generator().manual_seed(1))

    def run(shift_y: int, shift_x: int) -> Tensor:
        moved = coords + torch.tensor([0, 0, shift_y, shift_x], dtype=torch.int32)
        return encoder.transform(SparseTensor(coords=moved, feats=feats, spatial_shape=GRID.shape, batch_size=2)).feats

    with torch.no_grad():
        torch.testing.assert_close(run(0, 0), run(8, 12), atol=1e-6, rtol=1e-6)
        assert (run(0, 0) - run(0, 1)).abs().max() > 1e-3


def test_shifted_windows_let_information_cross_borders() -> None:
    encoder = SST(GRID, config=SMALL, generator=torch.Generator().manual_seed(0)).eval()
    coords = torch.tensor([[0, 0, 1, 5], [0, 0, 1, 6]], dtype=torch.int32)  # two windows of 6; one window when shifted by 3
    feats = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tensor = SparseTensor(coords=coords, feats=feats, spatial_shape=GRID.shape, batch_size=1)
    assert torch.autograd.grad(encoder.transform(tensor).feats[0, 0], feats)[0][1].abs().sum() > 0
    encoder.layers = encoder.layers[:1]
    assert torch.autograd.grad(encoder.transform(tensor).feats[0, 0], feats)[0][1].abs().sum() == 0


def test_the_dense_map_is_made_only_when_asked_for() -> None:
    encoder = SST(GRID, config=SMALL, generator=torch.Generator().manual_seed(0)).eval()
    calls = []
    encoder.refine.register_forward_hook(lambda *_: calls.append(1))
    coords = random_coords(GRID.shape, 0.1, 7)
    features = encoder.backbone(SparseTensor(coords=coords, feats=torch.zeros(len(coords), 16), spatial_shape=GRID.shape, batch_size=2))
    assert not calls
    assert features.bev is features.bev and calls == [1]


def test_sizes_of_the_paper() -> None:
    encoder = SST(
        VoxelGrid(point_range=(-74.88, -74.88, -2.0, 74.88, 74.88, 4.0), voxel_size=(0.32, 0.32, 6.0)), channels=("intensity", "elongation")
    )
    assert encoder.grid.shape == (1, 468, 468)
    assert [layer.linear.in_features for layer in encoder.vfe.pfn_layers] == [11, 128]
    per_layer = (3 * 128 * 128 + 3 * 128) + (128 * 128 + 128) + (128 * 256 + 256) + (256 * 128 + 128) + 4 * 128
    assert sum(p.numel() for p in encoder.layers.parameters()) == 12 * per_layer
    assert [layer.conv.dilation for layer in encoder.refine] == [(1, 1), (1, 1), (2, 2)]


def test_code_of_windows_with_height() -> None:
    table = sincos_table((4, 3, 2), 20)  # 6 columns an axis, 2 left over
    assert table.shape == (24, 20) and (table[:, 18:] == 0).all()
    assert len(table.unique(dim=0)) == 24
    x, y, z = 3, 1, 1
    row = table[(z * 3 + y) * 4 + x]
    for axis, distance in enumerate((x - 2.0, y - 1.5, z - 1.0)):
        for i in range(3):
            angle = distance / 10000 ** (2 * i / 6)
            assert row[axis * 6 + 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert row[axis * 6 + 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_uninitialised_weights_do_not_survive() -> None:
    with torch.device("meta"):
        encoder = SST(GRID, config=SMALL)
    encoder = encoder.to_empty(device="cpu")
    for value in [*encoder.state_dict().values(), encoder.position]:
        value.fill_(float("nan") if value.is_floating_point() else 7)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    coords = random_coords(GRID.shape, 0.2, 6)
    feats = torch.ones(len(coords), 16)
    features = encoder.eval().backbone(SparseTensor(coords=coords, feats=feats, spatial_shape=GRID.shape, batch_size=2))
    assert torch.isfinite(features.bev).all() and torch.isfinite(features.levels[0].feats).all()
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())


def test_head_count_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        WindowAttention(10, 4)
