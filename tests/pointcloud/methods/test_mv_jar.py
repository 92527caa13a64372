"""MV-JAR: masks, the altered input, both losses as loops, and no answer in the input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.masking import generators_of, hidden_count
from suite3d.pointcloud.encoders.base import VoxelGrid
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.methods.mv_jar import MVJAR, MVJARConfig
from suite3d.pointcloud.methods.units import collapse, group_units

ENCODERS = ("sst", "pillar", "voxel", "residual")


def make(build, name, **config):
    torch.manual_seed(0)
    method = MVJAR(build(name), MVJARConfig(**config))
    torch.nn.init.normal_(method.hidden_position)
    torch.nn.init.normal_(method.hidden_point)
    return method


def masked(method, batch):
    units = group_units(method.encoder.voxelize(batch), method.unit)
    return units, *method.masks(units, batch.seeds)


def test_ten_percent_jigsaw_five_percent_reconstruction_disjoint(build, batch):
    method = make(build, "sst")
    units, jigsaw, reconstruct = masked(method, batch)
    assert not (jigsaw & reconstruct).any()
    for a, b in zip(units.offsets()[:-1].tolist(), units.offsets()[1:].tolist()):
        hidden = hidden_count(b - a, 0.15)
        assert int(reconstruct[a:b].sum()) + int(jigsaw[a:b].sum()) == hidden
        assert int(jigsaw[a:b].sum()) == int(hidden * 2 / 3 + 0.5)
    assert float(method(batch).metrics["hidden_units"]) == int((jigsaw | reconstruct).sum())


@pytest.mark.parametrize("name", ENCODERS)
def test_loss_is_the_formula(build, batch, outputs_of, name):
    method = make(build, name, alpha=0.5, beta=2.0)
    output, seen = outputs_of(method, batch, "cell_head", "point_head")
    units, jigsaw, reconstruct = masked(method, batch)
    cross_entropy = []
    for scores, (_, z, y, x) in zip(seen["cell_head"].double(), units.coords[jigsaw].tolist()):
        assert len(scores) == 144
        cross_entropy.append(-scores.log_softmax(0)[(z % 1 * 12 + y % 12) * 12 + x % 12].item())
    chamfer = []
    for predicted, unit in zip(seen["point_head"].double(), reconstruct.nonzero()[:, 0].tolist()):
        points = (units.voxels.xyz[units.point_unit == unit] - units.centers()[unit]).double().numpy()
        distance = ((predicted.view(-1, 3).numpy()[:, None] - points[None]) ** 2).sum(-1)
        assert distance.shape[0] == 15
        chamfer.append(distance.min(0).mean() + distance.min(1).mean())
    assert float(output.metrics["jigsaw"]) == pytest.approx(np.mean(cross_entropy), rel=1e-4)
    assert float(output.metrics["reconstruction"]) == pytest.approx(np.mean(chamfer), rel=1e-4)
    assert output.loss.item() == pytest.approx(0.5 * np.mean(cross_entropy) + 2 * np.mean(chamfer), rel=1e-4)


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_input_columns_are_altered_as_the_paper_says(build, batch, monkeypatch, name):
    method = make(build, name)
    units, jigsaw, reconstruct = masked(method, batch)
    fed = []
    pool = method.encoder.pool
    monkeypatch.setattr(method.encoder, "pool", lambda decorated, voxels: fed.append((decorated.detach(), voxels)) or pool(decorated, voxels))
    method(batch)
    (decorated, voxels), plain = fed[0], method.encoder.decorate(units.voxels)
    assert (voxels.point_voxel.diff() >= 0).all() and torch.equal(torch.bincount(voxels.point_voxel), voxels.counts)
    unit_of = {tuple(c): row for row, c in enumerate(units.coords.tolist())}
    steps = torch.tensor([1, *units.size])
    owner = [unit_of[tuple(c)] for c in (voxels.coords[voxels.point_voxel] // steps).tolist()]
    original = {row: [] for row in range(len(units))}
    for row, unit in zip(plain, units.point_unit.tolist()):
        original[unit].append(row)
    for unit in range(len(units)):
        rows = decorated[[i for i, o in enumerate(owner) if o == unit]]
        if reconstruct[unit]:
            vector = (rows == method.hidden_point.detach()).all(1)
            assert len(rows) == 2 and vector.sum() == 1
            stays = rows[~vector][0]
            assert any(torch.equal(stays[:4], row[:4]) for row in original[unit])
            if name == "sst":
                assert stays[4:7].abs().max() < 1e-6, "alone in its voxel, the point is its mean"
        elif jigsaw[unit]:
            assert (rows[:, :3] == method.hidden_position.detach()).all()
            torch.testing.assert_close(rows[:, 3:], torch.stack(original[unit])[:, 3:], atol=1e-6, rtol=0)
        else:
            torch.testing.assert_close(rows, torch.stack(original[unit]), atol=1e-6, rtol=0)


def test_pieces_change_places_within_their_window_only(build, batch):
    method = make(build, "sst", jigsaw_ratio=0.4)
    units, jigsaw, _ = masked(method, batch)
    place = method.shuffle(units, jigsaw, generators_of(batch.seeds, "mv_jar/shuffle"))
    window = torch.tensor([1, 1, 12, 12])
    assert torch.equal(place[~jigsaw], units.coords[~jigsaw])
    assert torch.equal(place // window, units.coords // window)
    assert sorted(place.tolist()) == units.coords.tolist()
    moved = (place != units.coords).any(1)
    assert moved.sum() > 0.8 * jigsaw.sum()


@pytest.mark.parametrize("name", ENCODERS)
def test_moving_hidden_points_of_a_reconstruction_unit_changes_the_target_only(build, batch, outputs_of, name):
    method = make(build, name)
    units, _, reconstruct = masked(method, batch)
    stays = collapse(units, reconstruct, generators_of(batch.seeds, "mv_jar/keep"))[0].point_index
    inside = reconstruct[units.point_unit] & ~torch.isin(units.voxels.point_index, stays)
    place = torch.rand(int(inside.sum()), 3, generator=torch.Generator().manual_seed(9)) * 1.8 - 0.9
    moved, feats = batch.xyz.clone(), batch.feats.clone()
    moved[units.voxels.point_index[inside]] = units.centers()[units.point_unit[inside]] + place * units.half_size()
    feats[units.voxels.point_index[inside]] = 7.0
    before, seen = outputs_of(method, batch, "cell_head", "point_head")
    after, again = outputs_of(method, replace(batch, xyz=moved, feats=feats), "cell_head", "point_head")
    assert int(inside.sum()) > 10
    assert torch.equal(seen["cell_head"], again["cell_head"]) and torch.equal(seen["point_head"], again["point_head"])
    assert abs(float(before.metrics["reconstruction"] - after.metrics["reconstruction"])) > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_what_the_encoder_sees_of_a_reconstruction_unit_is_one_point(build, batch, name):
    """Deleting the hidden points outright (with masks and draws held fixed) leaves every feature as it was."""
    method = make(build, name).eval()
    units, jigsaw, reconstruct = masked(method, batch)
    keep = generators_of(batch.seeds, "mv_jar/keep")
    shown, unit = collapse(units, reconstruct, keep)
    alone = replace(units, voxels=shown, voxel_unit=unit)
    place = method.shuffle(units, jigsaw, generators_of(batch.seeds, "mv_jar/shuffle"))
    before = method.encode(units, jigsaw, reconstruct, place, generators_of(batch.seeds, "mv_jar/keep"))
    after = method.encode(alone, jigsaw, reconstruct, place, generators_of(batch.seeds, "mv_jar/keep"))
    assert len(shown.xyz) < len(units.voxels.xyz) - 10
    for a, b in zip(before.levels, after.levels):
        assert torch.equal(a.coords, b.coords) and torch.equal(a.feats, b.feats)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_true_cell_of_a_jigsaw_piece_is_not_in_the_input(build, batch, name):
    """Two pieces that exchange their true cells, and are put where they were put before, give the same input to the encoder."""
    method = make(build, name, jigsaw_ratio=0.3).eval()
    units, jigsaw, reconstruct = masked(method, batch)
    place = method.shuffle(units, jigsaw, generators_of(batch.seeds, "mv_jar/shuffle"))
    window = units.coords // torch.tensor([1, 1, 12, 12])
    rows = jigsaw.nonzero()[:, 0].tolist()
    first, second = next((a, b) for a in rows for b in rows if a < b and torch.equal(window[a], window[b]))
    shift = (units.centers()[second] - units.centers()[first]).double()
    moved = units.voxels.xyz.double()
    moved[units.point_unit == first] += shift
    moved[units.point_unit == second] -= shift
    xyz = batch.xyz.clone()
    xyz[units.voxels.point_index] = moved.float()
    exchanged = group_units(method.encoder.voxelize(replace(batch, xyz=xyz)), method.unit)
    if not torch.equal(exchanged.coords, units.coords):
        pytest.fail("exchanging two occupied units must not change which units are occupied")
    swapped = place.clone()
    swapped[first], swapped[second] = place[second], place[first]
    keep = lambda: generators_of(batch.seeds, "mv_jar/keep")  # noqa: E731
    before = method.encode(units, jigsaw, reconstruct, place, keep())
    after = method.encode(exchanged, jigsaw, reconstruct, swapped, keep())
    for a, b in zip(before.levels, after.levels):
        assert torch.equal(a.coords, b.coords)
        torch.testing.assert_close(a.feats, b.feats, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder_and_the_learned_vectors(build, batch, gradients_reach, name):
    method = make(build, name)
    assert gradients_reach(method, batch, unused=("refine",)) == []
    assert method.hidden_position.grad.abs().min() > 0 and method.hidden_point.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_it_learns_a_fixed_scan(build, batch, learn, name):
    before, after = learn(make(build, name), batch)
    assert after < 0.75 * before


def test_same_seed_same_loss_and_other_seed_another(build, batch):
    losses = [make(build, "pillar")(replace(batch, seeds=seeds)).loss.item() for seeds in ([1, 2], [1, 2], [1, 3])]
    assert losses[0] == losses[1] != losses[2]


def test_grids_and_ratios_that_cannot_work_are_refused():
    grid = VoxelGrid(point_range=(0, 0, 0, 10, 10, 4), voxel_size=(0.5, 0.5, 4))
    encoder = PillarEncoder(grid, dims=(8,))
    encoder.bev_stride = 8
    with pytest.raises(ValueError, match="whole units"):
        MVJAR(encoder)
    with pytest.raises(ValueError, match="mask ratio"):
        MVJARConfig(jigsaw_ratio=0.7, reconstruction_ratio=0.3)
