"""Kernel maps against a dictionary of voxels."""

from __future__ import annotations

import itertools

import pytest
import torch

from suite3d.ops import SparseTensor, strided_map, submanifold_map
from suite3d.ops.sparse import out_shape

SHAPES = [(1, 1, 1), (3, 4, 5), (2, 9, 30)]
KERNELS = [(1, 1, 1), (3, 3, 3), (1, 3, 5), (3, 1, 1)]
STRIDES = [((1, 1, 1), (1, 1, 1)), ((2, 2, 2), (1, 1, 1)), ((2, 1, 3), (0, 1, 2)), ((4, 4, 4), (0, 0, 0))]


def rows_by_voxel(coords):
    return {tuple(c): row for row, c in enumerate(coords.tolist())}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("count", [0, 1, 25])
def test_submanifold_is_the_dictionary(shape, kernel, count, backend, coords_of, generator):
    coords = coords_of(shape, 2, count, generator)
    row = rows_by_voxel(coords)
    found = submanifold_map(coords, spatial_shape=shape, batch_size=2, kernel=kernel)
    for k, offset in enumerate(itertools.product(*map(range, kernel))):
        neighbours = [(b, *(c + o - size // 2 for c, o, size in zip(place, offset, kernel, strict=True))) for b, *place in coords.tolist()]
        assert found.forward[k].tolist() == [row.get(n, -1) for n in neighbours]
    assert found.mirrored and found.forward.dtype == torch.int32


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (2, 3, 1)])
@pytest.mark.parametrize(("stride", "padding"), STRIDES)
def test_strided_is_the_dictionary(shape, kernel, stride, padding, backend, coords_of, generator):
    coords = coords_of(shape, 2, 25, generator)
    try:
        shape_out = out_shape(shape, kernel, stride, padding)
    except ValueError:
        pytest.skip("the kernel does not fit")
    row, pairs = rows_by_voxel(coords), set()
    for b, oz, oy, ox in itertools.product(range(2), *map(range, shape_out)):
        for k, offset in enumerate(itertools.product(*map(range, kernel))):
            place = tuple(o * s - p + f for o, s, p, f in zip((oz, oy, ox), stride, padding, offset, strict=True))
            if (b, *place) in row:
                pairs.add(((b, oz, oy, ox), k, row[(b, *place)]))
    found = strided_map(coords, spatial_shape=shape, batch_size=2, kernel=kernel, stride=stride, padding=padding)
    assert found.spatial_shape == shape_out
    assert [tuple(c) for c in found.coords.tolist()] == sorted({pair[0] for pair in pairs})
    voxel = [tuple(c) for c in found.coords.tolist()]
    assert {(voxel[o], k, int(found.forward[k, o])) for k, o in (found.forward >= 0).nonzero().tolist()} == pairs
    assert {(voxel[found.backward[k, i]], k, i) for k, i in (found.backward >= 0).nonzero().tolist()} == pairs


def edge_on(shape, batch_size):
    """All voxels on the faces of the grid: neighbours that would wrap around into the next line, plane or scan."""
    full = torch.cartesian_prod(torch.arange(batch_size), *map(torch.arange, shape)).int()
    on_face = ((full[:, 1:] == 0) | (full[:, 1:] == torch.tensor(shape) - 1)).any(dim=1)
    return full[on_face].contiguous()


@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 1, 3), (3, 5, 7)])
def test_parity_random_full_and_faces(kernel, same, compiled_cpu, coords_of, generator):
    shape = (5, 6, 20)
    for coords in (coords_of(shape, 3, 700, generator), edge_on(shape, 3), torch.cartesian_prod(*map(torch.arange, (3, *shape))).int()):
        same(lambda c=coords: (submanifold_map(c, spatial_shape=shape, batch_size=3, kernel=kernel).forward,))
        for stride, padding in STRIDES:

            def compute(c=coords, stride=stride, padding=padding):
                found = strided_map(c, spatial_shape=shape, batch_size=3, kernel=kernel, stride=stride, padding=padding)
                return found.coords, found.forward, found.backward

            same(compute)


def test_large_sparse_grid(same, compiled_cpu, generator):
    """A grid with far more lines than voxels takes another way to the output lines."""
    shape, big = (40, 60000, 60000), torch.tensor([40, 60000, 60000])
    coords = (torch.rand(500, 3, generator=generator) * big).int()
    coords = torch.cat([torch.zeros(500, 1, dtype=torch.int32), torch.cat([coords[:250], (coords[:250] + 1) % big.int()])], dim=1)
    tensor = SparseTensor.from_unsorted(coords, torch.zeros(500, 1), spatial_shape=shape, batch_size=1)
    same(lambda: (submanifold_map(tensor.coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3)).forward,))

    def strided():
        found = strided_map(tensor.coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1))
        return found.coords, found.forward, found.backward

    same(strided)


def test_submanifold_map_is_symmetric(backend, coords_of, generator):
    table = submanifold_map(coords_of((5, 9, 9), 2, 200, generator), spatial_shape=(5, 9, 9), batch_size=2, kernel=(3, 3, 3)).forward
    for k, i in (table >= 0).nonzero().tolist():
        assert table[26 - k, table[k, i]] == i


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([[0, 0, 0, 1], [0, 0, 0, 0]], "sorted"),
        ([[0, 0, 0, 1], [0, 0, 0, 1]], "each once"),
        ([[0, 0, 0, 9]], "columns inside: .*True, True, True, False"),
        ([[2, 0, 0, 0]], "columns inside: .*False, True, True, True"),
        ([[0, -1, 0, 0]], "columns inside: .*True, False, True, True"),
    ],
)
def test_says_what_is_wrong(coords, message, host_backend):
    grid = {"spatial_shape": (4, 4, 4), "batch_size": 2}
    coords = torch.tensor(coords, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        submanifold_map(coords, kernel=(3, 3, 3), **grid)
    with pytest.raises(ValueError, match=message):
        strided_map(coords, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), **grid)
    with pytest.raises(ValueError, match="odd sizes"):
        submanifold_map(coords, kernel=(2, 3, 3), **grid)
    with pytest.raises(ValueError, match="does not fit"):
        strided_map(coords, kernel=(5, 5, 5), stride=(1, 1, 1), padding=(0, 0, 0), **grid)
