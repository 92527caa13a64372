"""The masked implicit GEMM against the references. ``test_implicit_gemm.py`` runs this file in a process of its own: on the GPU where there is one,
else in Triton's interpreter, which must be asked for before the kernels are imported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suite3d import ops
from suite3d.ops.sparse import set_backend
from suite3d.ops.sparse.implicit_gemm import make_plan
from suite3d.ops.sparse.implicit_gemm.ops import list_pairs
from suite3d.ops.sparse.implicit_gemm.tiles import Tile, use_tile

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = (5, 7, 9)
GRID = {"spatial_shape": SHAPE, "batch_size": 3}


@pytest.fixture(autouse=True)
def triton_backend():
    before = set_backend("triton")
    yield
    set_backend(before)


def voxels(coords_of, generator, count=24):
    """Voxels of three grids, of which the middle one is empty."""
    coords = coords_of(SHAPE, 2, count, generator)
    coords[:, 0] *= 2
    return coords.to(DEVICE)


def submanifold(coords, kernel=(3, 3, 3)):
    return ops.submanifold_map(coords, kernel=kernel, **GRID)


def strided(coords, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1)):
    return ops.strided_map(coords, kernel=kernel, stride=stride, padding=padding, **GRID)


def operands(table, cin, cout, generator, *, kernel, dtype=torch.float32, transposed=False):
    """Features and an upstream gradient that the dtype holds exactly, and a float32 weight and bias."""
    rows = (table.backward.shape[1], table.forward.shape[1])
    there, back = rows[::-1] if transposed else rows
    feats = torch.randn(there, cin, generator=generator).to(dtype)
    up = (torch.randn(back, cout, generator=generator) / max(back, 1) ** 0.5).to(dtype)
    weight = torch.randn(cout, *kernel, cin, generator=generator) * (table.forward.shape[0] * cin) ** -0.5
    bias = torch.randn(cout, generator=generator)
    return [value.to(DEVICE) for value in (feats, weight, bias, up)]


def run(feats, weight, bias, up, table, *, transposed=False):
    leaves = [feats.detach().requires_grad_(), weight.detach().requires_grad_(), bias.detach().requires_grad_()]
    out = ops.sparse_conv(*leaves, table, transposed=transposed)
    return out.detach(), *torch.autograd.grad(out, leaves, up)


def expected(feats, weight, bias, up, table, *, transposed=False):
    """The same by the reference in float64, of what the dtype of the features holds of them."""
    exact = weight.to(feats.dtype).double()
    with ops.use_reference():
        return run(feats.double(), exact, bias.double(), up.double(), table, transposed=transposed)


def compare(feats, weight, bias, up, table, *, transposed=False):
    """Output and input gradient to half a unit in the last place of their dtype and what float32 sums lose; weight and bias to the latter.

    The interpreter cuts float32 to bfloat16 where a GPU rounds: a whole unit there.
    """
    ours = run(feats, weight, bias, up, table, transposed=transposed)
    theirs = expected(feats, weight, bias, up, table, transposed=transposed)
    assert [value.dtype for value in ours] == [feats.dtype, feats.dtype, torch.float32, torch.float32]
    rounding = torch.finfo(feats.dtype).eps / (1 if feats.dtype == torch.bfloat16 and DEVICE.type == "cpu" else 2)
    for mine, other, relative in zip(ours, theirs, (rounding, rounding, 0.0, 0.0), strict=True):
        torch.testing.assert_close(mine.double(), other, atol=1e-5, rtol=1e-5 + 1.01 * relative)
    return ours


def bits_of(table: Tensor) -> Tensor:
    return ((table >= 0).long() << torch.arange(len(table), device=table.device).unsqueeze(1)).sum(0)


def gray_rank(mask: Tensor) -> Tensor:
    """Place in the Gray sequence, bit by bit: bit i is the parity of the bits from i up."""
    found, parity = torch.zeros_like(mask), torch.zeros_like(mask)
    for bit in reversed(range(63)):
        parity = parity ^ (mask >> bit & 1)
        found = found | parity << bit
    return found


def test_the_helper_is_the_gray_sequence():
    number = torch.arange(4096)
    assert torch.equal(gray_rank(number ^ number >> 1), number)


@pytest.mark.parametrize("split", ["never", "always", "auto"])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (7, 3, 3)])
def test_plan(split, kernel, coords_of, generator):
    """Rows are sorted by Gray rank, stably, rare offsets the high bits; masks are what their rows have; the table is permuted by halves."""
    table = submanifold(voxels(coords_of, generator, 70 if kernel == (3, 3, 3) else 200), kernel).forward
    volume, count = table.shape
    order, masks, arranged, halved = make_plan(table, split=split)
    mean = int((table >= 0).sum()) / count
    assert (mean < 8) == (kernel == (3, 3, 3))  # so that "auto" is seen both ways
    halves = split == "always" or (split == "auto" and mean < 8)
    assert halved.tolist() == [int(halves)] and len(order) == (1 if split == "never" else 2)
    bits, cut = bits_of(table), volume // 2
    offsets = [range(cut), range(cut, volume)] if halves else [range(volume), range(0)]
    for rows, inside, unions in zip(order, offsets, masks):
        common_first = sorted(inside, key=lambda k: -int((table[k] >= 0).sum()))
        part = sum(((bits >> k & 1) << place for place, k in enumerate(common_first)), torch.zeros_like(bits))
        assert torch.equal(rows.long(), torch.sort(gray_rank(part), stable=True).indices)
        for k in inside:
            assert torch.equal(arranged[k], table[k][rows.long()])
        own = sum(1 << k for k in inside)
        for tile, mask in enumerate(unions.tolist()):
            union = 0
            for value in bits[rows[16 * tile : 16 * tile + 16].long()].tolist():
                union |= value & own
            assert mask == union


def test_auto_does_not_halve_crowded_maps(coords_of, generator):
    order, masks, _, halved = make_plan(submanifold(voxels(coords_of, generator, 500)).forward)
    assert halved.tolist() == [0] and not masks[1].any() and order.shape[0] == 2


def test_pairs_are_those_of_the_map(coords_of, generator):
    table = strided(voxels(coords_of, generator, 400)).forward
    sources, targets, counts = list_pairs(table)
    for k, row in enumerate(table):
        there = (row >= 0).nonzero().squeeze(1)
        assert counts[k] == len(there)
        assert torch.equal(targets[k, : len(there)].long(), there) and torch.equal(sources[k, : len(there)], row[there])


@pytest.mark.parametrize(("cin", "cout"), [(1, 3), (4, 5), (16, 17), (64, 16), (17, 130), (130, 4)])
def test_channels(cin, cout, coords_of, generator):
    kernel = (3, 3, 3) if cin < 16 else (1, 3, 3)
    table = submanifold(voxels(coords_of, generator), kernel)
    compare(*operands(table, cin, cout, generator, kernel=kernel), table)


@pytest.mark.parametrize(
    ("dtype", "split"), [(torch.float32, "never"), (torch.float32, "always"), (torch.bfloat16, "always"), (torch.float16, "always")]
)
def test_splits_and_dtypes(dtype, split, coords_of, generator):
    table = submanifold(voxels(coords_of, generator, 40))  # two tiles of rows
    table.plans["forward"] = make_plan(table.forward, split=split)
    compare(*operands(table, 5, 16, generator, kernel=(3, 3, 3), dtype=dtype), table)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((3, 1, 1), (2, 1, 1), (0, 0, 0)), ((1, 1, 1), (1, 1, 1), (0, 0, 0))],
)
def test_strided_and_transposed(kernel, stride, padding, transposed, coords_of, generator):
    table = strided(voxels(coords_of, generator), kernel, stride, padding)
    dtype = torch.bfloat16 if transposed else torch.float32
    compare(*operands(table, 6, 4, generator, kernel=kernel, dtype=dtype, transposed=transposed), table, transposed=transposed)


def test_transposed_submanifold(coords_of, generator):
    table = submanifold(voxels(coords_of, generator), (1, 3, 3))
    compare(*operands(table, 3, 4, generator, kernel=(1, 3, 3), transposed=True), table, transposed=True)


def test_sixty_three_offsets(coords_of, generator):
    table = submanifold(voxels(coords_of, generator, 12), (7, 3, 3))
    compare(*operands(table, 2, 3, generator, kernel=(7, 3, 3)), table)


@pytest.mark.parametrize("count", [0, 1])
def test_nearly_empty(count, coords_of, generator):
    coords = voxels(coords_of, generator, count)
    for table in (submanifold(coords, (1, 3, 3)), strided(coords, (1, 3, 3))):
        compare(*operands(table, 3, 2, generator, kernel=(1, 3, 3)), table)


def test_rows_alone(generator):
    """Voxels without neighbours: the middle offset's product."""
    place = torch.arange(0, 9, 3)
    coords = torch.cartesian_prod(torch.tensor([0, 2]), torch.tensor([0, 3]), torch.tensor([0, 4]), place).int().to(DEVICE)
    table = submanifold(coords)
    assert table.pairs() == len(coords)
    feats, weight, bias, up = operands(table, 7, 5, generator, kernel=(3, 3, 3))
    out = compare(feats, weight, bias, up, table)[0]
    torch.testing.assert_close(out, feats @ weight[:, 1, 1, 1].T + bias, atol=1e-5, rtol=1e-5)


def test_weight_gradient_in_pieces_is_the_same_twice(coords_of, generator):
    """More than one piece for the busy offsets, one for others, none for an offset without pairs."""
    shape = (4, 30, 40)
    coords = coords_of(shape, 1, 700, generator).to(DEVICE)
    table = ops.submanifold_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 1, 1))
    feats, weight, bias, up = operands(table, 3, 4, generator, kernel=(3, 1, 1))
    table.forward[0] = -1
    table.plans.clear()
    grads = [torch.ops.suite3d.implicit_gemm_weight_grad(feats, up, list_pairs(table.forward), torch.float32, False) for _ in range(2)]
    assert torch.equal(*grads)
    rows = table.forward.long()
    for k in range(3):
        there = rows[k] >= 0
        torch.testing.assert_close(grads[0][:, k], up[there].T @ feats[rows[k][there]], atol=1e-5, rtol=1e-5)
    assert not grads[0][:, 0].any() and grads[0][:, 1].all()


def test_equal_calls_give_equal_bits(coords_of, generator):
    coords = voxels(coords_of, generator)
    inputs = operands(submanifold(coords, (1, 3, 3)), 5, 6, generator, kernel=(1, 3, 3), dtype=torch.float16)
    first, second = (run(*inputs, submanifold(coords, (1, 3, 3))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_tiles_do_not_change_the_result(coords_of, generator):
    table = submanifold(voxels(coords_of, generator, 50), (3, 1, 1))
    inputs = operands(table, 33, 20, generator, kernel=(3, 1, 1))
    for tile in (Tile(16, 16, 16, 1, 1), Tile(64, 32, 64, 4, 3)):
        with use_tile(tile):
            compare(*inputs, table)


def test_plans_are_made_once(coords_of, generator, monkeypatch):
    from suite3d.ops.sparse.implicit_gemm import launch

    made = []
    for name in ("plan", "pairs"):
        real = getattr(launch, name)
        monkeypatch.setattr(launch, name, lambda *a, real=real, name=name: (made.append(name), real(*a))[1])
    coords = voxels(coords_of, generator)
    for table, plans in ((submanifold(coords, (1, 1, 3)), 1), (strided(coords, (1, 1, 3)), 2)):  # a mirrored map is its own way back
        made.clear()
        inputs = operands(table, 2, 2, generator, kernel=(1, 1, 3))
        with torch.no_grad():
            ops.sparse_conv(*inputs[:3], table)
        assert made == ["plan"]
        for _ in range(2):
            run(*inputs, table)
        assert sorted(made) == ["pairs"] + ["plan"] * plans


def tile_masks(bits: Tensor) -> Tensor:
    """``(1, V / 16)`` masks of each 16 rows."""
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 16)).view(-1, 16)
    masks = padded[:, 0]
    for column in padded.unbind(1)[1:]:
        masks = masks | column
    return masks[None]


def padded_work(table: Tensor, plan: list[Tensor], rows: int) -> float:
    """Products that tiles of ``rows`` rows make over those that count."""
    masks = plan[1]
    spare = -masks.shape[1] % (rows // 16)
    tiles = torch.nn.functional.pad(masks, (0, spare)).reshape(len(masks), -1, rows // 16)
    union = tiles[..., 0]
    for part in tiles.unbind(-1)[1:]:
        union = union | part
    return float(sum((union >> k & 1).sum() for k in range(len(table))) * rows / (table >= 0).sum())


def test_sorted_rows_pad_less():
    """On a sweep of the street world: rare offsets as high bits pad less than plain Gray order, that less than raster order, and halves least."""
    from suite3d.pointcloud.data.street import StreetConfig, StreetWorld

    sweep = torch.from_numpy(StreetWorld(StreetConfig(train_sequences=1, frames=1)).frame(0).xyz)
    reach, cell = ((-5.0, -5.0, -2.0, 5.0, 5.0, 2.0), (0.2, 0.2, 0.2))
    coords, _, _ = ops.dynamic_voxelize(sweep, torch.tensor([0, len(sweep)]), reach, cell)
    table = ops.submanifold_map(coords.to(DEVICE), spatial_shape=(20, 50, 50), batch_size=1, kernel=(3, 3, 3)).forward
    bits, rows = bits_of(table), 32
    raster = padded_work(table, [table, tile_masks(bits)], rows)
    ours, halved = (padded_work(table, make_plan(table, split=split), rows) for split in ("never", "always"))
    plain_order = torch.sort(gray_rank(bits), stable=True).indices
    gray = padded_work(table, [table, tile_masks(bits[plain_order])], rows)
    print(f"{len(coords)} voxels, {int((table >= 0).sum()) / len(coords):.2f} neighbours, padded: {raster:.3f} {gray:.3f} {ours:.3f} {halved:.3f}")
    assert 1 <= halved < ours < gray < raster < 27 * len(coords) / int((table >= 0).sum())


def test_reference_and_other_dtypes_go_their_old_way(coords_of, generator, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("triton ran")

    from suite3d.ops.sparse import implicit_gemm

    table = submanifold(voxels(coords_of, generator))
    inputs = operands(table, 2, 2, generator, kernel=(3, 3, 3))
    wide = submanifold(voxels(coords_of, generator), (5, 5, 3))
    monkeypatch.setattr(implicit_gemm, "convolve", never)
    with pytest.raises(AssertionError, match="triton ran"):
        run(*inputs, table)
    with ops.use_reference():
        run(*inputs, table)
    run(*(value.double() for value in inputs), table)
    run(*operands(wide, 2, 2, generator, kernel=(5, 5, 3)), wide)  # 75 offsets do not fit into a mask


def test_one_graph_with_gradients(coords_of, generator):
    """Plan, pairs and convolution trace through ``torch.compile``, and the plans stay on the map inside a graph."""
    coords = voxels(coords_of, generator)
    window = {"kernel": (2, 2, 2), "stride": (2, 2, 2), "padding": (0, 0, 0)}
    feats, weight, bias, _ = operands(strided(coords, **window), 3, 2, generator, kernel=(2, 2, 2))
    seen: list[str] = []

    def inspect(graph, inputs):
        seen.extend(str(node.target).split(".")[1] for node in graph.graph.nodes if "implicit_gemm" in str(node.target))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def twice(feats, weight, bias):
        table = strided(coords, **window)
        return ops.sparse_conv(ops.sparse_conv(feats, weight, bias, table), weight.transpose(0, 4), None, table, transposed=True)

    results = []
    for function in (twice, torch.compile(twice, fullgraph=True, backend=inspect)):
        leaves = [value.detach().requires_grad_() for value in (feats, weight, bias)]
        out = function(*leaves)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    assert sorted(seen) == ["implicit_gemm"] * 2 + ["implicit_gemm_pairs"] + ["implicit_gemm_plan"] * 2
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_schemas_and_fakes_agree_with_the_kernels(coords_of, generator):
    table = submanifold(voxels(coords_of, generator, 20), (1, 3, 3))
    feats, weight, bias, up = operands(table, 2, 3, generator, kernel=(1, 3, 3))
    matrices, plan, pairs = weight.reshape(3, 9, 2), make_plan(table.forward), list_pairs(table.forward)
    checks = ("test_schema", "test_faketensor")
    run_ops = torch.ops.suite3d
    for op, arguments in (
        (run_ops.implicit_gemm_plan, (table.forward, 1, 1)),
        (run_ops.implicit_gemm_pairs, (table.forward,)),
        (run_ops.implicit_gemm, (feats, matrices, bias, plan, plan, pairs, True, False)),
        (run_ops.implicit_gemm_input_grad, (up, matrices, plan, True, False)),
        (run_ops.implicit_gemm_weight_grad, (feats, up, pairs, torch.float32, False)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=checks)
