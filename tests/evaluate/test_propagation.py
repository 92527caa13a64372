"""Label propagation and its measures against slow definitions: tokens that know their object carry its mask along."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suite3d.evaluate.propagation import PropagationConfig, decide, propagate_labels
from suite3d.evaluate.region_boundary import boundary_score, outline, region_overlap, thicken
from suite3d.evaluate.token_labels import IGNORED, token_shares
from suite3d.evaluate.tracks import MaskedVideo, first_objects, score_objects, score_tracks
from suite3d.source import BadSample


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("settings", [{}, {"context": 2, "neighbours": 3, "radius": 1}, {"radius": 0, "neighbours": 2}, {"context": 0}])
def test_propagation_is_the_definition(settings):
    """Token by token: gather the window of every context frame, sort, softmax, average."""
    config = PropagationConfig(**{"neighbours": 5, "radius": 2, "temperature": 0.2, **settings})
    features, first = draw(5, 4, 3, 6), draw(4, 3, 2, seed=1).softmax(dim=2)
    found = propagate_labels(features, first, config)
    labels = [first]
    for t in range(1, 5):
        context = sorted({0, *range(max(0, t - config.context), t)})
        frame = torch.zeros(4, 3, 2)
        for y in range(4):
            for x in range(3):
                near = []
                for s in context:
                    for v in range(4):
                        for u in range(3):
                            if max(abs(v - y), abs(u - x)) <= config.radius:
                                near.append((float(torch.cosine_similarity(features[t, y, x], features[s, v, u], dim=0)), s, v, u))
                best = sorted(near, reverse=True)[: config.neighbours]
                weights = torch.tensor([c / config.temperature for c, *_ in best]).softmax(dim=0)
                frame[y, x] = sum(w * labels[s][v, u] for w, (_, s, v, u) in zip(weights, best, strict=True))
        labels.append(frame)
    torch.testing.assert_close(found, torch.stack(labels), rtol=1e-4, atol=1e-5)


def moving_square(frames=6, size=32, side=12, step=2):
    masks = np.zeros((frames, size, size), np.int64)
    for t in range(frames):
        masks[t, 8 : 8 + side, 4 + t * step : 4 + t * step + side] = 1
    return masks


def test_features_that_know_the_object_follow_it_and_blind_ones_do_not():
    masks = moving_square()
    pictures = np.repeat(masks[..., None] * 200, 3, axis=3).astype(np.uint8)

    def knowing(frames):
        return torch.from_numpy(np.stack([frames[..., 0] > 100, frames[..., 0] <= 100], axis=3)).float()[:, ::2, ::2]  # one token = 2 x 2 pixels

    def blind(frames):
        return torch.ones(len(frames), 16, 16, 2)

    video = [MaskedVideo(name="square", load=lambda: (pictures, masks))]
    good, bad = (score_tracks(video, encode, PropagationConfig(radius=3))["metrics"] for encode in (knowing, blind))
    assert good["J&F"] > 93 and good["J recall"] == 100 and good["J&F"] > good["J&F kept"] + 20
    assert good["J&F"] <= good["J&F limit"] + 1e-6 and bad["J&F limit"] == good["J&F limit"]
    assert bad["J"] < good["J&F kept"] < good["J"]
    truth = torch.from_numpy(masks)
    expected = [float((truth[0].bool() & truth[t].bool()).sum()) / float((truth[0].bool() | truth[t].bool()).sum()) for t in range(1, 5)]
    (kept,) = score_objects(truth[:1].expand_as(truth), truth, 1)
    assert kept.region.tolist() == pytest.approx(expected), "the first and the last frame do not count"


def test_objects_are_counted_alike_and_bad_videos_named():
    masks = moving_square()
    two = np.where(masks == 1, 7, 0)
    two[:, 24:30, 2:8] = 3
    two[2, 25, 3] = IGNORED
    renumbered, count = first_objects("two", two)
    assert count == 2 and set(np.unique(renumbered)) == {0, 1, 2, IGNORED} and (renumbered[0, 24:30, 2:8] == 1).all()
    late = masks.copy()
    late[0] = 0

    def broken():
        raise BadSample("broken", "damaged")

    def encode(frames):
        return torch.from_numpy(frames.astype(np.float32))[:, ::4, ::4] + 1

    def video(name, labels):
        return MaskedVideo(name=name, load=lambda: (np.repeat(labels[..., None] * 20 + 5, 3, axis=3).astype(np.uint8), labels))

    videos = [video("two", two), video("late", late), MaskedVideo(name="broken", load=broken)]
    entry = score_tracks(videos, encode, PropagationConfig())
    assert entry["skipped"] == ["late: has no object in its first frame", "broken: damaged"] and "2 objects" in entry["protocol"]["in short"]
    assert all(0 <= value <= 100 for value in entry["metrics"].values())
    with pytest.raises(ValueError, match="no object in its first frame"):
        score_tracks(videos[1:], encode, PropagationConfig())
    unlabelled = masks.copy()
    unlabelled[2:] = IGNORED
    (score,) = score_objects(torch.from_numpy(masks), torch.from_numpy(unlabelled), 1)
    assert score.region.tolist() == [1.0] and score.boundary.tolist() == [1.0], "frames without a mask do not count"


def random_masks(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:23, :31]
    blobs = [np.hypot(y - rng.uniform(3, 20), x - rng.uniform(3, 28)) < rng.uniform(3, 8) for _ in range(6)]
    return torch.from_numpy(np.stack(blobs))


def test_measures_are_the_definitions():
    found, truth, void = random_masks(0), random_masks(1), random_masks(2)
    for hidden in (None, void):
        kept = torch.ones_like(found) if hidden is None else ~hidden
        region, boundary = region_overlap(found, truth, hidden), boundary_score(found, truth, hidden, tolerance=2)
        for n in range(6):
            pixels = {(y, x) for y in range(23) for x in range(31) if kept[n, y, x]}
            ours, theirs = ({p for p in pixels if mask[n][p]} for mask in (found, truth))
            assert float(region[n]) == pytest.approx(len(ours & theirs) / len(ours | theirs) if ours | theirs else 1)

            def edges(mask, n=n, pixels=pixels):
                value = lambda y, x: bool(mask[n, min(y, 22), min(x, 30)])  # noqa: E731
                return {(y, x) for y, x in pixels if len({value(y, x), value(y, x + 1), value(y + 1, x), value(y + 1, x + 1)}) > 1}

            a, b = edges(found), edges(truth)
            close = lambda p, others: any(math.hypot(p[0] - q[0], p[1] - q[1]) <= 2 for q in others)  # noqa: E731
            precision = sum(close(p, b) for p in a) / len(a) if a else 1.0
            recall = sum(close(p, a) for p in b) / len(b) if b else 1.0
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            assert float(boundary[n]) == pytest.approx(expected)


def test_measures_at_their_limits():
    mask = random_masks(0)
    empty = torch.zeros_like(mask)
    assert region_overlap(mask, mask).tolist() == [1] * 6 == boundary_score(mask, mask).tolist() and not region_overlap(mask, ~mask).any()
    assert region_overlap(empty, empty).tolist() == [1] * 6 == boundary_score(empty, empty).tolist()
    assert not region_overlap(mask, empty).any() and not boundary_score(mask, empty).any() and not boundary_score(empty, mask).any()
    square = torch.zeros(1, 40, 40, dtype=torch.bool)
    square[:, 10:30, 10:30] = True
    shifted = square.roll(1, dims=2)
    assert float(boundary_score(shifted, square)) == 1, "0.008 of the diagonal of 57 pixels is one pixel"
    assert float(boundary_score(square.roll(3, dims=2), square)) < 0.8
    assert int(outline(square).sum()) == 4 * 20 and int(thicken(square, 2).sum()) == 20 * 20 + 4 * 20 * 2 + 4 * 1
    with pytest.raises(ValueError, match="bool of one shape"):
        region_overlap(mask.float(), mask)


def test_token_shares_count_pixels():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (11, 14)))
    labels[:3, :5] = IGNORED
    shares, known = token_shares(labels, (4, 3), 3)
    for i in range(4):
        for j in range(3):
            inside = [int(labels[y, x]) for y in range(11) for x in range(14) if y * 4 // 11 == i and x * 3 // 14 == j]
            counted = [value for value in inside if value != IGNORED]
            assert float(known[i, j]) == pytest.approx(len(counted) / len(inside))
            for k in range(3):
                assert float(shares[i, j, k]) == pytest.approx(counted.count(k) / max(len(counted), 1))
    assert not shares[0, 0].any() and float(known[0, 0]) == 0
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        token_shares(labels, (4, 3), 2)
    with pytest.raises(ValueError, match="fewer pixels"):
        token_shares(labels, (12, 3), 3)


def test_decisions_stretch_each_map():
    shares = torch.zeros(4, 4, 3)
    shares[..., 0] = 1.0
    assert not decide(shares, (8, 8)).any(), "a frame without objects is background"
    shares[1, 1] = torch.tensor([0.6, 0.4, 0.0])  # never the largest, but the most the object has
    found = decide(shares, (4, 4))
    assert int(found[1, 1]) == 1 and int((found == 1).sum()) == 1 and not (found == 2).any()


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="temperature > 0"):
        PropagationConfig(temperature=0)
    with pytest.raises(ValueError, match=r"\(T, h, w, D\)"):
        propagate_labels(torch.zeros(3, 4, 4, 2), torch.zeros(4, 3, 2), PropagationConfig())
    with pytest.raises(ValueError, match="finite"):
        propagate_labels(torch.full((3, 4, 4, 2), math.nan), torch.zeros(4, 4, 2), PropagationConfig())
