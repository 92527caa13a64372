"""Views of objects: what each augmentation promises, and batches that stay jagged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.objects.batch import ObjectBatch, join_batches
from suite3d.pointcloud.data.objects.sets import NORMALS
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.synthetic import ShapeConfig, Shapes
from suite3d.pointcloud.data.objects.views import ObjectViewConfig, choose, crop, draw_view, moved, unit_sphere
from suite3d.source import Source

SHAPES = Shapes(ShapeConfig(train=2, val=1, points=400))


def object_(index=11):
    return SHAPES.frame(index)


def view(seed=0, **changes):
    return draw_view(object_(), ObjectViewConfig(**({"points": 400} | changes)), np.random.default_rng(seed))


def rows(xyz):
    return {tuple(row) for row in xyz.round(5).tolist()}


def test_unit_sphere():
    frame = unit_sphere(moved(object_(), 7 * np.eye(3), np.array([3.0, -2, 9])))
    np.testing.assert_allclose(frame.xyz.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(frame.xyz, axis=1).max() == pytest.approx(1, abs=1e-6)
    same = unit_sphere(Frame(name="a", sequence="a", xyz=np.ones((3, 3), np.float32), feats=np.zeros((3, 0), np.float32), channels=()))
    assert (same.xyz == 0).all()


def test_plain_view_is_the_unit_object():
    assert rows(view().xyz) == rows(unit_sphere(object_()).xyz)


@pytest.mark.parametrize("shape", ["ball", "half_space"])
def test_crops_are_contiguous(shape):
    xyz = unit_sphere(object_()).xyz
    kept = crop(xyz, 0.3, shape, np.random.default_rng(1))
    assert len(kept) == 120 and (np.diff(kept) > 0).all()
    if shape == "ball":  # some point of the cloud has exactly these as its nearest
        nearest = np.argsort(np.linalg.norm(xyz[:, None] - xyz[None], axis=2), axis=1)[:, :120]
        assert any(set(row) == set(kept) for row in nearest)
    else:  # a plane divides them from the rest
        sign = np.where(np.isin(np.arange(400), kept), 1.0, -1.0)[:, None]
        planes = -sign * np.column_stack([xyz, np.ones(400)])
        assert linprog(np.zeros(4), A_ub=planes, b_ub=-np.ones(400), bounds=(None, None)).status == 0
    assert len(crop(xyz, 1e-6, shape, np.random.default_rng(1))) == 1


def test_choose_repeats_as_little_as_can_be():
    rng = np.random.default_rng(0)
    assert len(set(choose(10, 10, rng))) == 10 and len(set(choose(10, 4, rng))) == 4
    counts = np.bincount(choose(10, 25, rng))
    assert counts.min() == 2 and counts.max() == 3 and counts.sum() == 25


def test_yaw_keeps_heights_and_scale_and_shift_keep_their_ranges():
    plain, turned = unit_sphere(object_()).xyz, view(3, yaw=np.pi)
    np.testing.assert_allclose(np.sort(turned.xyz[:, 2]), np.sort(plain[:, 2]), atol=1e-5)
    np.testing.assert_allclose(np.sort(np.linalg.norm(turned.xyz, axis=1)), np.sort(np.linalg.norm(plain, axis=1)), atol=1e-5)
    assert np.abs(np.sort(turned.xyz[:, 0]) - np.sort(plain[:, 0])).max() > 0.01
    factors, shifts = [], []
    for seed in range(30):
        xyz = view(seed, scale=(0.5, 1.5), axis_scale=True, shift=0.2).xyz
        factors.append(np.ptp(xyz, axis=0) / np.ptp(plain, axis=0))
        shifts.append(xyz.mean(axis=0))
    factors, shifts = np.array(factors), np.array(shifts)
    assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() <= 1.5 and np.abs(factors[:, 0] - factors[:, 1]).max() > 0.3
    assert 0.15 < np.abs(shifts).max() <= 0.2 + 1e-5


def test_normals_stay_normal_to_the_surface():
    plane = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    normal = np.array([1.0, 2, 3]) / np.sqrt(14)
    plane -= np.outer(plane @ normal, normal).astype(np.float32)
    frame = Frame(name="p", sequence="p", xyz=plane, feats=np.tile(normal, (50, 1)).astype(np.float32), channels=NORMALS)
    bent = moved(frame, np.diag([2.0, 0.5, 1]) @ np.array([(0, -1, 0), (1, 0, 0), (0, 0, 1.0)]), np.zeros(3))
    np.testing.assert_allclose((bent.xyz * bent.feats).sum(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bent.feats, axis=1), 1, atol=1e-6)


def test_jitter_is_cut_and_dropout_leaves_repeats():
    plain = rows(view().xyz)
    noisy = view(jitter=0.02, jitter_limit=0.03)
    ideal = view()
    difference = noisy.xyz - ideal.xyz
    assert 0.01 < difference.std() < 0.02 and np.abs(difference).max() <= 0.03 + 1e-6
    thinned = view(2, dropout=0.9)
    assert len(thinned.xyz) == 400 and len(rows(thinned.xyz)) < 400 and rows(thinned.xyz) <= plain


def test_views_repeat_and_differ():
    settings = {"yaw": np.pi, "crop": (0.3, 0.6), "jitter": 0.01, "scale": (0.8, 1.2), "dropout": 0.3, "shift": 0.1}
    assert np.array_equal(view(5, **settings).xyz, view(5, **settings).xyz)
    assert not np.allclose(view(5, **settings).xyz, view(6, **settings).xyz)


def test_source_and_batch():
    views = [ObjectViewConfig(points=64, yaw=1.0)] * 2 + [ObjectViewConfig(points=32, crop=(0.2, 0.4))] * 3
    source = ObjectSource(SHAPES, views, channels=("nz",))
    assert isinstance(source, Source)
    samples = [source.get(index, np.random.default_rng(index)) for index in range(4)]
    batch = source.collate(samples, [7, 8, 9, 10])
    assert len(batch) == 4 and batch.seeds == [7, 8, 9, 10] and batch.labels.tolist() == [0, 1, 2, 3]
    assert batch.names == [SHAPES.name(index) for index in range(4)]
    runs = list(batch.to("cpu").runs())
    assert [numbers for numbers, _ in runs] == [[0, 1], [2, 3, 4]]
    joined = runs[1][1]
    assert joined.offsets.tolist() == list(range(0, 32 * 13, 32)) and joined.channels == ("nz",) and joined.feats.shape == (384, 1)
    for place, number in enumerate(runs[1][0]):
        assert torch.equal(joined.xyz[128 * place : 128 * (place + 1)], batch.views[number].xyz)
    assert [numbers for numbers, _ in batch.runs(range(2))] == [[0, 1]]
    assert isinstance(batch, ObjectBatch)


def test_bad_input():
    for bad in ({"points": 0}, {"crop": (0.0, 0.5)}, {"crop": (0.6, 0.5)}, {"scale": (0.0, 1.0)}, {"dropout": 1.0}, {"jitter": -1}):
        with pytest.raises(ValueError):
            ObjectViewConfig(**bad)
    empty = Frame(name="none", sequence="none", xyz=np.zeros((0, 3), np.float32), feats=np.zeros((0, 0), np.float32), channels=())
    with pytest.raises(ValueError, match="none"):
        draw_view(empty, ObjectViewConfig(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one view"):
        ObjectSource(SHAPES, [])
    with pytest.raises(ValueError, match="channels"):
        ObjectSource(SHAPES, [ObjectViewConfig()], channels=("r",))
    with pytest.raises(ValueError, match="join_batches"):
        join_batches([])
