"""RoIAlign and frame mAP against slow versions, AVA's files, boxes that move with the crop, boxes of the procedural set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suite3d.evaluate.frame_map import FrameBoxes, average_precision, frame_map
from suite3d.image.views import ViewConfig
from suite3d.nn.roi_align import roi_align
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.source import BadSample
from suite3d.video.data.actions import ActionSource, crop_boxes
from suite3d.video.data.ava import KeyFrame, read_ava, read_excluded, read_label_map, write_results
from suite3d.video.data.motion.actors import ActorsConfig, actors_clip
from suite3d.video.tasks.actions import ActionDetector
from suite3d.write_video import write_video


def slow_roi_align(feature, box, output, samples):
    """One map (C, H, W) and box in cells; bilinear by hand, samples clamped to the outermost cell middles."""
    _, height, width = feature.shape
    x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    out = torch.zeros(feature.shape[0], output, output)
    for i in range(output):
        for j in range(output):
            for a in range(samples):
                for b in range(samples):
                    y = y1 + (i + (a + 0.5) / samples) * (y2 - y1) / output - 0.5
                    x = x1 + (j + (b + 0.5) / samples) * (x2 - x1) / output - 0.5
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = min(int(y), height - 2), min(int(x), width - 2)
                    v, u = y - top, x - left
                    value = (1 - v) * ((1 - u) * feature[:, top, left] + u * feature[:, top, left + 1])
                    value += v * ((1 - u) * feature[:, top + 1, left] + u * feature[:, top + 1, left + 1])
                    out[:, i, j] += value / samples**2
    return out


def test_roi_align_is_its_definition():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 9, generator=rng)
    corners = torch.rand(5, 2, 2, generator=rng).sort(1).values
    boxes = torch.cat([corners[:, 0], corners[:, 1]], 1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    index = torch.tensor([0, 1, 1, 0, 1])
    ours = roi_align(features, boxes, index, output=4, samples=3)
    for row in range(5):
        torch.testing.assert_close(ours[row], slow_roi_align(features[index[row]], boxes[row].tolist(), 4, 3), atol=1e-5, rtol=1e-4)
    assert roi_align(features, boxes[:0], index[:0]).shape == (0, 3, 7, 7)
    with pytest.raises(ValueError, match="expected features"):
        roi_align(features, boxes, index[:2])


def test_roi_align_of_a_ramp_is_the_position():
    """A map that holds its own coordinate gives the middles of the bins, wherever the box is."""
    ramp = ((torch.arange(20) + 0.5) / 20).expand(1, 1, 20, 20)
    out = roi_align(ramp, torch.tensor([[0.2, 0.3, 0.7, 0.9]]), torch.tensor([0]), output=5, samples=2)
    torch.testing.assert_close(out[0, 0, 2], 0.2 + 0.5 * (torch.arange(5) + 0.5) / 5)
    gradient = torch.ones(1, 1, 20, 20, requires_grad=True)
    roi_align(gradient, torch.tensor([[0.2, 0.3, 0.7, 0.9]]), torch.tensor([0]), output=2, samples=2).sum().backward()
    assert gradient.grad.sum() == pytest.approx(4.0, abs=1e-5)


def slow_frame_map(truth, found, classes, iou):
    """Class by class with plain loops over all detections in order of their score; precision-recall points integrated from the right."""
    result = {}
    for label in classes:
        gt = {frame: [tuple(b) for b, c in zip(v.boxes, v.classes, strict=True) if c == label] for frame, v in truth.items()}
        total = sum(map(len, gt.values()))
        ranked = []
        for frame, v in found.items():
            rows = sorted(range(len(v.scores)), key=lambda r: -v.scores[r])[:50]
            ranked += [(v.scores[r], frame, tuple(v.boxes[r])) for r in rows if v.classes[r] == label]
        ranked.sort(key=lambda item: -item[0])
        used, points, right = set(), [], 0
        for seen, (_, frame, box) in enumerate(ranked, start=1):
            best, place = -1.0, None
            for k, other in enumerate(gt.get(frame, [])):
                w = max(0, min(box[2], other[2]) - max(box[0], other[0]))
                h = max(0, min(box[3], other[3]) - max(box[1], other[1]))
                union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - w * h
                if w * h / union > best:
                    best, place = w * h / union, k
            if best >= iou and (frame, place) not in used:
                used.add((frame, place))
                right += 1
            points.append((right / total if total else 0, right / seen))
        if total:
            area, last = 0.0, 0.0
            for k, (recall, _) in enumerate(points):
                if recall > last:
                    area += (recall - last) * max(p for _, p in points[k:])
                    last = recall
            result[label] = area
    return result


def random_frames(seed, *, frames=12, classes=4):
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for frame in range(frames):
        n = rng.integers(0, 5)
        corner, side = rng.uniform(0, 0.6, (n, 2)), rng.uniform(0.1, 0.4, (n, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        labels = rng.integers(1, classes + 1, n)
        truth[frame] = FrameBoxes(boxes=boxes, classes=labels, scores=np.ones(n))
        noisy = np.concatenate([boxes + rng.normal(0, 0.03, boxes.shape), rng.uniform(0, 0.5, (30, 4)) + [0, 0, 0.5, 0.5]])
        guess = np.concatenate([np.where(rng.random(n) < 0.7, labels, 1), rng.integers(1, classes + 1, 30)])
        keep = rng.permutation(len(guess))
        found[frame] = FrameBoxes(boxes=noisy[keep], classes=guess[keep], scores=rng.random(len(guess)))
    found["only detections"] = FrameBoxes(boxes=np.array([[0, 0, 1, 1.0]]), classes=np.array([1]), scores=np.array([0.99]))
    del found[3]
    return truth, found


@pytest.mark.parametrize("seed", range(6))
def test_frame_map_equals_the_slow_one(seed):
    truth, found = random_frames(seed)
    ours = frame_map(truth, found, classes=[1, 2, 3, 4, 9])
    slow = slow_frame_map(truth, found, [1, 2, 3, 4, 9], 0.5)
    assert {label: value for label, value in ours.average_precision.items() if not math.isnan(value)} == pytest.approx(slow)
    assert ours.mean == pytest.approx(np.mean(list(slow.values()))) and math.isnan(ours.average_precision[9])
    assert 0 < ours.mean < 1


def test_frame_map_by_hand():
    """Two true boxes; hits at ranks 1 and 3: envelope 1 up to recall 1/2, then 2/3. A second box on a taken one is false."""
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2) == pytest.approx(0.5 + 0.5 * 2 / 3)
    box = np.array([[0, 0, 1, 1.0]])
    truth = {0: FrameBoxes(boxes=box, classes=np.array([1]), scores=np.ones(1))}
    twice = {0: FrameBoxes(boxes=np.repeat(box, 2, 0), classes=np.array([1, 1]), scores=np.array([0.9, 0.8]))}
    assert frame_map(truth, twice, classes=[1]).mean == 1.0
    worse = {0: FrameBoxes(boxes=np.array([[0, 0, 0.4, 1.0], [0, 0, 1, 1]]), classes=np.array([1, 1]), scores=np.array([0.9, 0.8]))}
    assert frame_map(truth, worse, classes=[1]).mean == pytest.approx(0.5)
    assert frame_map(truth, worse, classes=[1], max_per_frame=1).mean == 0.0
    with pytest.raises(ValueError, match="no true box"):
        frame_map(truth, worse, classes=[2])


def test_ava_files(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("v1,0902,0.1,0.2,0.5,0.9,12,0\nv1,0902,0.1,0.2,0.5,0.9,80,0\nv1,0902,0.6,0.2,0.9,0.9,11,1\nv2,0905,0,0,1,1,,\n")
    first, second = read_ava(path)
    assert first.key == ("v1", 902.0) and first.actions == [{12, 80}, {11}] and first.boxes.shape == (2, 4)
    assert first.rows().classes.tolist() == [12, 80, 11] and second.actions == [set()]
    assert [key.key for key in read_ava(path, excluded=[("v1", 902.0)])] == [("v2", 905.0)]
    detected = tmp_path / "persons.csv"
    detected.write_text("v1,0902,0.1,0.2,0.5,0.9,,0.95\nv1,0902,0.6,0.2,0.9,0.9,,0.3\n")
    assert read_ava(detected)[0].scores.tolist() == [0.95, 0.3]
    for text, line in (("v1,902,0.5,0.2,0.1,0.9,1,0\n", 1), ("v1,902,0,0,1,1,1,0\nv1,902,0,0,1\n", 2), ("v1,902,0,0,300,200,1,0\n", 1)):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"line {line}"):
            read_ava(path)
    names = tmp_path / "names.pbtxt"
    names.write_text('item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem {\n  name: "stand"\n  id: 12\n}\n')
    assert read_label_map(names) == {1: "bend/bow (at the waist)", 12: "stand"}
    excluded = tmp_path / "excluded.csv"
    excluded.write_text("v1,0902\n")
    assert read_excluded(excluded) == [("v1", 902.0)]
    write_results(tmp_path / "out.csv", {first.key: first.rows()})
    back = read_ava(tmp_path / "out.csv")[0]
    np.testing.assert_allclose(np.unique(back.boxes, axis=0), np.unique(first.boxes, axis=0))


def test_boxes_move_with_the_picture():
    """Paint boxes, crop the picture by slicing, and find the paint again."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x1, y1 = rng.integers(0, 30), rng.integers(0, 20)
        x2, y2 = x1 + rng.integers(5, 30), y1 + rng.integers(5, 20)
        picture = np.zeros((40, 60))
        picture[y1:y2, x1:x2] = 1
        top, left, tall, wide = rng.integers(0, 10), rng.integers(0, 20), rng.integers(20, 30), rng.integers(20, 40)
        for flip in (False, True):
            part = picture[top : top + tall, left : left + wide]
            part = part[:, ::-1] if flip else part
            boxes, share = crop_boxes(np.array([[x1 / 60, y1 / 40, x2 / 60, y2 / 40]]), (top, left, tall, wide), (40, 60), flip=flip)
            rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            assert share[0] == pytest.approx(part.sum() / picture.sum())
            if len(rows):
                found = np.array([columns[0] / wide, rows[0] / tall, (columns[-1] + 1) / wide, (rows[-1] + 1) / tall])
                np.testing.assert_allclose(boxes[0], found, atol=1e-12)


def test_the_boxes_of_the_procedural_set_hold_what_moves():
    """Where the picture changes beyond the background there is a box, and the action says which way it goes."""
    config = ActorsConfig(train=40, val=2, frames=12, size=64)
    seen = set()
    for index in range(40):
        frames, people = actors_clip(config, "train", index)
        moved = np.abs(frames[7].astype(int) - frames[5].astype(int)).sum(2) > 30
        inside = np.zeros_like(moved)
        for (x1, y1, x2, y2), action in people:
            seen.add(action)
            inside[max(int(y1 * 64) - 5, 0) : int(y2 * 64) + 6, max(int(x1 * 64) - 5, 0) : int(x2 * 64) + 6] = True
        assert not (moved & ~inside).any()
    assert seen == set(range(1, 10))
    again, _ = actors_clip(config, "train", 39)
    assert np.array_equal(frames, again)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    path = tmp_path_factory.mktemp("ava") / "v1.mp4"
    write_video(path, np.broadcast_to((np.arange(50) * 4 + 20).astype(np.uint8)[:, None, None, None], (50, 32, 48, 3)), crf=1, fps=25)
    return {"v1": path}


def key(second=1.0, video="v1"):
    return KeyFrame(video=video, second=second, boxes=np.array([[0, 0, 0.5, 1.0], [0.9, 0, 1.0, 1]]), actions=[{12, 7}, set()], scores=np.ones(2))


def make(videos, keys, **options):
    augment = ViewConfig(size=16, crop=options.pop("crop", "whole"), flip=options.pop("flip", 0.0))
    return ActionSource(keys, videos, [7, 11, 12], frames=4, stride=3, augment=augment, **options)


def test_clips_lie_around_the_key_frame(videos):
    source = make(videos, [key(), key(901.0), key(0.04), key(5.0), key(video="gone")], start_second=0.0)
    assert len(source) == 4  # the missing video is left out
    sample = source.get(0, np.random.default_rng(0))
    shown = [round((float(frame.mean()) - 20) / 4) for frame in sample.clip.frames]
    assert shown == [19, 22, 25, 28]
    assert [round((float(frame.mean()) - 20) / 4) for frame in source.get(2, np.random.default_rng(0)).clip.frames] == [0, 0, 1, 4]
    for row in (1, 3):
        with pytest.raises(BadSample, match="outside the video"):
            source.get(row, np.random.default_rng(0))
    shifted = make(videos, [key(901.0)], start_second=900.0).get(0, np.random.default_rng(0))
    assert np.array_equal(shifted.clip.frames, sample.clip.frames)


def test_batches_hold_every_person_with_their_actions(videos):
    source = make(videos, [key(), key(1.2)])
    batch = source.collate([source.get(i, np.random.default_rng(i)) for i in (0, 1)], [5, 6])
    assert batch.index.tolist() == [0, 0, 1, 1] and batch.targets.tolist() == [[1, 0, 1], [0, 0, 0]] * 2
    assert batch.names == ["v1@1", "v1@1.2"] and batch.seeds == [5, 6] and batch.to("cpu").clips.pixels().shape == (2, 3, 4, 16, 16)
    cropped = make(videos, [key()], train=True, crop="center")  # the middle square ends at 40 of 48 columns
    sample = cropped.get(0, np.random.default_rng(0))
    assert sample.persons.tolist() == [0] and sample.boxes[0] == pytest.approx([0, 0, 0.5, 1])


def test_the_detector_looks_into_the_boxes_only(videos):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(dim=8, depth=1, heads=2, clip=(4, 16, 16), patch=(2, 4, 4)))
    model = ActionDetector(encoder, ["a", "b", "c"]).eval()
    tokens = torch.randn(2, 32, 8)
    boxes, index = torch.tensor([[0.0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1]]), torch.tensor([0, 1])
    pooled = model.pool(tokens, boxes, index)
    grid = tokens.view(2, 2, 4, 4, 8)
    changed = grid.clone()
    changed[0, :, 2:] += 5
    changed[1, :, :1] += 5
    torch.testing.assert_close(model.pool(changed.view(2, 32, 8), boxes, index), pooled)
    swapped = grid.flip(1).reshape(2, 32, 8)  # time does not matter: the mean over it is taken
    torch.testing.assert_close(model.pool(swapped, boxes, index), pooled)
    source = make(videos, [key()])
    batch = source.collate([source.get(0, np.random.default_rng(0))], [1])
    output = model(batch)
    assert output.loss.item() == pytest.approx(-(2 * np.log(0.05) + 4 * np.log(0.95)) / 6, rel=0.1)
    empty = source.collate([source.get(0, np.random.default_rng(0))], [1])
    empty.boxes, empty.index, empty.targets = empty.boxes[:0], empty.index[:0], empty.targets[:0]
    loss = model(empty).loss
    loss.backward()
    assert loss.item() == 0
