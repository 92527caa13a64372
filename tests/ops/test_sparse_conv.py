"""Sparse convolution against torch's dense convolution, layers, and the sparse tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from suite3d.ops import SparseConv3d, SparseInverseConv3d, SparseSequential, SparseTensor, SubMConv3d, sparse_conv, strided_map, submanifold_map

SHAPE = (5, 7, 9)
GEOMETRIES = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
]


def tensor_of(coords, channels, generator, shape=SHAPE, batch_size=2):
    feats = torch.randn(len(coords), channels, generator=generator, requires_grad=True)
    return SparseTensor(coords=coords, feats=feats, spatial_shape=shape, batch_size=batch_size)


def at(dense, coords):
    """Rows of a dense (B, C, Z, Y, X) grid."""
    b, z, y, x = coords.long().unbind(1)
    return dense[b, :, z, y, x]


def compare(layer, sparse_out, dense_out, coords, feats):
    """Outputs at the active sites and gradients of feats, weight and bias agree with the dense twin."""
    weights = torch.randn(sparse_out.shape, generator=torch.Generator().manual_seed(3))
    leaves = [feats, layer.weight, layer.bias]
    ours = torch.autograd.grad((sparse_out * weights).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((at(dense_out, coords) * weights).sum(), leaves)
    torch.testing.assert_close(sparse_out, at(dense_out, coords), atol=1e-5, rtol=1e-5)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, (1, 3, 5)])
@pytest.mark.parametrize("channels", [(1, 1), (4, 16), (5, 7), (32, 64)])
def test_submanifold_is_dense_at_the_active_sites(kernel, channels, backend, coords_of, generator):
    x = tensor_of(coords_of(SHAPE, 2, 150, generator), channels[0], generator)
    layer = SubMConv3d(*channels, kernel)
    dense = functional.conv3d(x.dense(), layer.weight.permute(0, 4, 1, 2, 3), layer.bias, padding=tuple(k // 2 for k in layer.kernel_size))
    compare(layer, layer(x).feats, dense, x.coords, x.feats)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_strided_is_dense(kernel, stride, padding, backend, coords_of, generator):
    x = tensor_of(coords_of(SHAPE, 2, 60, generator), 6, generator)
    layer = SparseConv3d(6, 10, kernel, stride=stride, padding=padding)
    out = layer(x)
    dense = functional.conv3d(x.dense(), layer.weight.permute(0, 4, 1, 2, 3), layer.bias, stride=stride, padding=padding)
    assert out.spatial_shape == tuple(dense.shape[2:])
    compare(layer, out.feats, dense, out.coords, x.feats)
    reached = functional.conv3d((x.dense().abs().sum(1, keepdim=True) > 0).float(), torch.ones(1, 1, *kernel), stride=stride, padding=padding)
    active = (reached[:, 0] > 0.5).nonzero()
    assert torch.equal(active.int(), out.coords)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_inverse_is_dense_transposed(kernel, stride, padding, backend, coords_of, generator):
    start = tensor_of(coords_of(SHAPE, 2, 60, generator), 3, generator)
    down = SparseConv3d(3, 6, kernel, stride=stride, padding=padding, indice_key="down")
    up = SparseInverseConv3d(6, 4, kernel, indice_key="down")
    low = down(start)
    x = low.replace(low.feats.detach().requires_grad_())
    out = up(x)
    assert torch.equal(out.coords, start.coords) and out.spatial_shape == SHAPE
    full = functional.conv_transpose3d(x.dense(), up.weight.permute(4, 0, 1, 2, 3), up.bias, stride=stride, padding=padding)
    extra = [SHAPE[a] - full.shape[2 + a] for a in range(3)]  # cells that no window reaches: bias alone
    if any(extra):
        full = functional.pad(full - up.bias.view(1, -1, 1, 1, 1), (0, extra[2], 0, extra[1], 0, extra[0])) + up.bias.view(1, -1, 1, 1, 1)
    compare(up, out.feats, full, out.coords, x.feats)


@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse"])
def test_gradcheck_in_double(kind, coords_of, generator):
    coords = coords_of((3, 4, 5), 2, 14, generator)
    grid = {"spatial_shape": (3, 4, 5), "batch_size": 2, "kernel": (3, 3, 3)}
    table = submanifold_map(coords, **grid) if kind == "submanifold" else strided_map(coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid)
    feats = torch.randn(table.forward.shape[1] if kind == "inverse" else len(coords), 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 3, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: sparse_conv(*a, table, transposed=kind == "inverse"), (feats, weight, bias), fast_mode=True)


@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse"])
@pytest.mark.parametrize(("cin", "cout"), [(1, 1), (3, 16), (33, 20), (64, 64), (128, 72), (300, 104)])
def test_parity_and_threads(kind, cin, cout, same, compiled_cpu, coords_of, generator):
    shape = (6, 30, 40)
    coords = coords_of(shape, 2, 1500, generator)
    grid = {"spatial_shape": shape, "batch_size": 2, "kernel": (3, 3, 3)}
    table = submanifold_map(coords, **grid) if kind == "submanifold" else strided_map(coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid)
    rows = table.forward.shape[1] if kind == "inverse" else len(coords)
    feats = torch.randn(rows, cin, generator=generator)
    weight, bias = torch.randn(cout, 3, 3, 3, cin, generator=generator) * (27 * cin) ** -0.5, torch.randn(cout, generator=generator)
    out_rows = len(coords) if kind == "inverse" else table.forward.shape[1]
    up = torch.randn(out_rows, cout, generator=generator) / out_rows**0.5

    def compute():
        leaves = [value.clone().requires_grad_() for value in (feats, weight, bias)]
        out = sparse_conv(*leaves, table, transposed=kind == "inverse")
        return out.detach(), *torch.autograd.grad((out * up).sum(), leaves)

    same(compute, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("cin", "cout"), [(5, 3), (16, 130)])
def test_weight_gradients_of_many_rows(cin, cout, same, compiled_cpu, coords_of, generator):
    """So many outputs that their weight gradients are summed in parts."""
    shape = (8, 64, 64)
    table = submanifold_map(coords_of(shape, 2, 36000, generator), spatial_shape=shape, batch_size=2, kernel=(3, 3, 3))
    rows = table.forward.shape[1]
    assert rows > 2 * 16384
    feats, up = torch.randn(rows, cin, generator=generator), torch.randn(rows, cout, generator=generator) / rows**0.5
    weight = torch.randn(cout, 3, 3, 3, cin, generator=generator).requires_grad_()
    same(lambda: torch.autograd.grad((sparse_conv(feats, weight, None, table) * up).sum(), weight), atol=2e-5, rtol=1e-5)


def test_transposed_submanifold_is_the_transpose(backend, coords_of, generator):
    """``<A x, y> = <x, A' y>`` with the same weight read the other way."""
    table = submanifold_map(coords_of(SHAPE, 2, 80, generator), spatial_shape=SHAPE, batch_size=2, kernel=(3, 3, 3))
    weight = torch.randn(4, 3, 3, 3, 6, generator=generator)
    x, y = torch.randn(80, 6, generator=generator), torch.randn(80, 4, generator=generator)
    there, back = sparse_conv(x, weight, None, table), sparse_conv(y, weight.transpose(0, 4), None, table, transposed=True)
    torch.testing.assert_close((there * y).sum(), (x * back).sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("cin", "cout"), [(0, 4), (4, 0)])
def test_no_channels(cin, cout, same, compiled_cpu, coords_of, generator):
    table = submanifold_map(coords_of(SHAPE, 2, 60, generator), spatial_shape=SHAPE, batch_size=2, kernel=(3, 3, 3))

    def compute():
        leaves = [torch.zeros(60, cin).requires_grad_(), torch.zeros(cout, 3, 3, 3, cin).requires_grad_()]
        out = sparse_conv(*leaves, None, table)
        return out.detach(), *torch.autograd.grad(out.sum(), leaves)

    same(compute)


@pytest.mark.parametrize("count", [0, 1])
def test_nearly_empty(count, backend, coords_of, generator):
    net = SparseSequential(
        SubMConv3d(4, 8, 3, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        SparseConv3d(8, 16, 3, stride=2, padding=1, indice_key="down"),
        SubMConv3d(16, 16, 3),
        SparseInverseConv3d(16, 4, 3, indice_key="down"),
    )
    x = tensor_of(coords_of(SHAPE, 2, count, generator), 4, generator)
    out = net(x)
    assert out.feats.shape == (count, 4) and torch.isfinite(out.feats).all()
    out.feats.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert out.bev().shape == (2, 4 * 5, 7, 9)
    assert net.state_dict().keys() >= {"0.weight", "1.running_mean", "3.weight", "3.bias"}
    assert net[0].weight.shape == (8, 3, 3, 3, 4)


def test_maps_are_shared(coords_of, generator, monkeypatch):
    import suite3d.ops.sparse.modules as modules

    calls = []
    monkeypatch.setattr(modules, "submanifold_map", lambda *a, **k: calls.append(1) or submanifold_map(*a, **k))
    x = tensor_of(coords_of(SHAPE, 2, 60, generator), 4, generator)
    first, second = SubMConv3d(4, 4, 3), SubMConv3d(4, 4, 3)
    down = SparseConv3d(4, 4, 3, stride=2, padding=1, indice_key="d")
    second(first(x))
    first(x)
    assert len(calls) == 1
    low, again = down(x), down(second(x))
    second(low)
    first(again)
    assert len(calls) == 2  # both downsampled tensors live on the same voxels
    second(SparseInverseConv3d(4, 4, 3, indice_key="d")(low))
    assert len(calls) == 2  # and the way back ends on the first ones


def test_sparse_tensor_views(coords_of, generator):
    coords = coords_of(SHAPE, 2, 50, generator)
    x = tensor_of(coords, 3, generator)
    dense = x.dense()
    for row, (b, z, y, xx) in enumerate(coords.tolist()):
        assert torch.equal(dense[b, :, z, y, xx], x.feats[row])
    assert int((dense != 0).any(1).sum()) == 50
    assert torch.equal(x.bev(), dense.reshape(2, 3 * 5, 7, 9))
    assert x.offsets().tolist() == [0, int((coords[:, 0] == 0).sum()), 50]
    everywhere = torch.cartesian_prod(torch.arange(-1, 3), *(torch.arange(-1, s + 1) for s in SHAPE))
    inside = ((everywhere >= 0) & (everywhere < torch.tensor((2, *SHAPE)))).all(1)
    expected = torch.zeros(len(everywhere), 3)
    expected[inside] = at(dense, everywhere[inside]).detach()
    assert torch.equal(x.gather(everywhere), expected)
    assert torch.autograd.grad(x.gather(coords[:5]).sum(), x.feats)[0].sum() == 15
    shuffled = torch.randperm(50, generator=generator)
    again = SparseTensor.from_unsorted(coords[shuffled], x.feats[shuffled], spatial_shape=SHAPE, batch_size=2)
    assert torch.equal(again.coords, coords) and torch.equal(again.feats, x.feats)


def test_sparse_tensor_says_what_is_wrong():
    coords, grid = torch.zeros(1, 4, dtype=torch.int32), {"spatial_shape": SHAPE, "batch_size": 1}
    with pytest.raises(ValueError, match=r"feats: expected \(1, C\)"):
        SparseTensor(coords=coords, feats=torch.zeros(2, 3), **grid)
    with pytest.raises(ValueError, match="coords: expected int32, got int64"):
        SparseTensor(coords=coords.long(), feats=torch.zeros(1, 3), **grid)
    with pytest.raises(ValueError, match="each voxel once, got 1 repeated"):
        SparseTensor.from_unsorted(coords.repeat(2, 1), torch.zeros(2, 3), **grid)
    with pytest.raises(ValueError, match="got 1 rows outside"):
        SparseTensor.from_unsorted(coords + 8, torch.zeros(1, 3), **grid)
    x = SparseTensor(coords=coords, feats=torch.zeros(1, 3), **grid)
    with pytest.raises(ValueError, match="SubMConv3d: expected 4 input channels, got 3"):
        SubMConv3d(4, 4, 3)(x)
    with pytest.raises(ValueError, match="odd sizes"):
        SubMConv3d(4, 4, 2)
    with pytest.raises(ValueError, match="expected one of the strided convolutions .*'gone'"):
        SparseInverseConv3d(3, 4, 3, indice_key="gone")(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features(dtype, backend, coords_of, generator):
    x = tensor_of(coords_of(SHAPE, 2, 60, generator), 4, generator)
    layer = SubMConv3d(4, 8, 3)
    out = layer(x.replace(x.feats.to(dtype))).feats
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), layer(x.replace(x.feats.to(dtype).float())).feats, atol=2e-2, rtol=1e-2)


def test_compiles_into_one_graph(compiled_cpu, coords_of, generator):
    x = tensor_of(coords_of(SHAPE, 2, 60, generator), 4, generator)
    table = submanifold_map(x.coords, spatial_shape=SHAPE, batch_size=2, kernel=(3, 3, 3))
    weight = torch.randn(8, 3, 3, 3, 4, generator=generator, requires_grad=True)
    traced = torch.compile(lambda f, w: sparse_conv(f, w, None, table).square().sum(), fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(traced(x.feats, weight), [x.feats, weight])
    eager = torch.autograd.grad(sparse_conv(x.feats, weight, None, table).square().sum(), [x.feats, weight])
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)


def test_opcheck(compiled_cpu, coords_of, generator):
    coords = coords_of(SHAPE, 2, 60, generator)
    table = submanifold_map(coords, spatial_shape=SHAPE, batch_size=2, kernel=(3, 3, 3)).forward
    feats, weight = torch.randn(60, 4, generator=generator, requires_grad=True), torch.randn(8, 27, 4, generator=generator, requires_grad=True)
    torch.library.opcheck(torch.ops.suite3d.sparse_conv.default, (feats, weight, None, table, table, True))
    torch.library.opcheck(torch.ops.suite3d.submanifold_map.default, (coords, 2, list(SHAPE), [3, 3, 3]))
    torch.library.opcheck(torch.ops.suite3d.strided_map.default, (coords, 2, list(SHAPE), [3, 3, 3], [2, 2, 2], [1, 1, 1]))
