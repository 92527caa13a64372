"""The motion set: a pure function of its settings, solvable from motion, not from any one picture."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest

from suite3d.video.data.motion import KINDS, MotionConfig, motion_clip, motion_masks, write_motion
from suite3d.video.data.motion.dataset import _scene
from suite3d.video.data.motion.kinds import SPEEDS, drift
from suite3d.video.data.motion.shapes import FORMS, RANGE, TEXTURES, Ground, Look, draw_ground, render
from suite3d.write_video import write_video

SMALL = MotionConfig(train=18, val=9, frames=8, size=32)


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_clips_are_functions_of_settings_split_and_index():
    first, kind = motion_clip(SMALL, "train", 5)
    again, _ = motion_clip(SMALL, "train", 5)
    assert (first == again).all() and first.shape == (8, 32, 32, 3) and first.dtype == np.uint8
    assert kind == list(KINDS)[5]
    for other in (
        motion_clip(SMALL, "val", 5),
        motion_clip(SMALL, "train", 5 + len(KINDS)),
        motion_clip(MotionConfig(frames=8, size=32, seed=1), "train", 5),
    ):
        assert other[1] == kind and (other[0] != first).any()


def test_every_frame_has_the_same_distribution_of_states_for_every_class():
    """Uniform at every time: the largest gap of the empirical distribution function stays below its 99.9 % limit."""
    rng = np.random.default_rng(0)
    count = 4000
    start = rng.random((count, 4))
    speed = rng.uniform(*np.array(SPEEDS).T, (count, 4))
    for kind in KINDS:
        states = drift(kind, start, speed, 16) % 1.0
        for frame in (0, 7, 15):
            ordered = np.sort(states[frame], axis=0)
            gap = np.abs(ordered - (np.arange(count)[:, None] + 0.5) / count).max()
            assert gap < 1.95 / np.sqrt(count) + 1 / count


@pytest.mark.parametrize(
    ("kind", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1), ("clockwise", 2, 1), ("shrink", 3, -1)]
)
def test_a_kind_moves_one_coordinate_one_way(kind, axis, sign):
    states = drift(kind, np.full((1, 4), 0.5), np.full((1, 4), 0.02), 5)
    moved = states - 0.5
    assert np.allclose(moved[:, 0, axis], sign * 0.02 * np.arange(5))
    assert np.allclose(np.delete(moved[:, 0], axis, axis=1), 0)
    with pytest.raises(ValueError, match="unknown kind"):
        drift("sideways", np.zeros((1, 4)), np.zeros((1, 4)), 2)


def disc(form="disc", radius=0.2):
    white = np.full((2, 3), 255, dtype=np.float32)
    return Look(form=form, texture="stripes", radius=radius, colors=white, waves=np.ones((3, 3), dtype=np.float32))


def black(layers=4):
    return Ground(colors=np.zeros((2, 3), dtype=np.float32), waves=np.ones((layers, 2, 3), dtype=np.float32))


def draw(states, looks, ground=None):
    states = np.asarray(states, dtype=np.float64)
    return render(states, np.zeros((len(states), 4)), looks, ground or black(), 64)


def center(frame):
    y, x = np.mgrid[:64, :64] + 0.5
    weight = frame[..., 0].astype(float)
    return (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum(), weight.sum() / 255


def test_shapes_stand_where_their_state_says_and_have_the_size_it_says():
    states = np.array([[[0.5, 0.5, 0, 0.5]], [[0.6, 0.5, 0, 0.5]], [[0.5, 0.45, 0, 0.5]], [[0.5, 0.5, 0, 0.75]]])
    found = [center(frame) for frame in draw(states, [disc()])]
    for (x, y, area), state in zip(found, states[:, 0]):
        assert x == pytest.approx(64 * state[0], abs=0.05) and y == pytest.approx(64 * state[1], abs=0.05)
        radius = 0.2 * 64 * 2.2 ** (state[3] - 0.5)
        assert area == pytest.approx(np.pi * radius**2, rel=0.02)


def test_what_leaves_on_one_side_enters_on_the_other():
    states = np.array([[[0.5, 0.5, 0.1, 0.5]], [[0.0, 0.5, 0.1, 0.5]], [[0.5, 0.98, 0.1, 0.5]]])
    middle, side, bottom = draw(states, [disc("cross")])
    assert (side == np.roll(middle, 32, axis=1)).all()
    assert np.abs(bottom.astype(int).sum() - middle.astype(int).sum()) < 0.01 * middle.sum()


@pytest.mark.parametrize("form", FORMS)
def test_forms_turn_clockwise_and_stay_inside_their_radius(form):
    start, turned = draw([[[0.5, 0.5, 0.0, 0.5]], [[0.5, 0.5, 0.25, 0.5]]], [disc(form, radius=0.3)])
    quarter = np.rot90(start, k=-1, axes=(0, 1))  # numpy turns counter-clockwise for positive k on an image with y down
    assert np.abs(turned.astype(int) - quarter).mean() < 3
    y, x = np.mgrid[:64, :64] + 0.5 - 32
    assert start[np.hypot(x, y) > 0.3 * 64 * 1.05 + 1].max() == 0 and start.max() == 255


def ground_of(states, seed=0):
    states = np.asarray(states, dtype=np.float64)
    return render(np.zeros((len(states), 0, 4)), states, [], draw_ground(np.random.default_rng(seed), layers=6), 64).astype(int)


def test_the_ground_moves_with_the_shapes():
    still, right, down = ground_of([[0, 0, 0.2, 0.3], [0.25, 0, 0.2, 0.3], [0, 0.125, 0.2, 0.3]])
    assert np.abs(right[:, 16:] - still[:, :-16]).max() <= 1 and np.abs(down[8:] - still[:-8]).max() <= 1
    turned = ground_of([[0, 0, 0.2, 0.3], [0, 0, 0.45, 0.3]])
    assert np.abs(turned[1] - np.rot90(turned[0], k=-1, axes=(0, 1))).max() <= 1


def test_the_ground_grows_about_the_middle_and_passes_from_layer_to_layer_without_a_jump():
    before, after = ground_of([[0, 0, 0, 0.999999], [0, 0, 0, 1.000001]])
    assert np.abs(before - after).max() <= 1
    one = Ground(colors=np.array([[0, 0, 0], [255, 255, 255]], np.float32), waves=np.array([[[1, 0.5, 0.1]], [[0, 0, 0]], [[0, 0, 0]]], np.float32))
    small, large = render(np.zeros((2, 0, 4)), np.array([[0, 0, 0, 0.0], [0, 0, 0, 0.5]]), [], one, 64).astype(float) - 127.5
    y, x = 10, 12  # from the middle
    factor = RANGE**0.5
    far = large[round(32 + y * factor), round(32 + x * factor), 0] / np.cos(np.pi / 4)
    assert far == pytest.approx(small[32 + y, 32 + x, 0], abs=12)


def test_all_forms_and_textures_occur_with_every_class():
    assert len(FORMS) * len(TEXTURES) == 24
    first = {kind: motion_clip(SMALL, "train", index)[0][0] for index, kind in enumerate(KINDS)}
    assert len({frame.tobytes() for frame in first.values()}) == len(KINDS)


def nearest(train, labels, test):
    distance = (train**2).sum(1)[None] - 2 * test @ train.T
    return labels[distance.argmin(1)]


@pytest.fixture(scope="module")
def clips():
    config = MotionConfig(frames=9, size=32)
    made = [motion_clip(config, "train", index) for index in range(90 * len(KINDS) // 2)]
    frames = np.stack([frames for frames, _ in made]).astype(np.float32)
    return frames, np.array([list(KINDS).index(kind) for _, kind in made])


def test_one_frame_does_not_tell_the_class(clips):
    frames, labels = clips
    half = len(labels) // 2
    for frame in (0, 4, 8):
        for look in (lambda x: x.reshape(len(x), -1), lambda x: x.mean((1, 2)), lambda x: np.abs(np.fft.rfft2(x, axes=(1, 2))).reshape(len(x), -1)):
            features = look(frames[:, frame])
            right = (nearest(features[:half], labels[:half], features[half:]) == labels[half:]).mean()
            assert right < 1 / 9 + 4 * np.sqrt(1 / 9 * 8 / 9 / half)


def test_two_frames_tell_which_way_it_moves(clips):
    """Phase correlation of neighbouring frames finds the direction of most moving clips: the set can be solved."""
    frames, labels = clips
    names = list(KINDS)
    right, asked = 0, 0
    for clip, label in zip(frames, labels):
        if names[label] not in ("left", "right", "up", "down"):
            continue
        changing = clip.mean(-1) - np.median(clip.mean(-1), axis=0)
        total = np.zeros((32, 32))
        for a, b in zip(changing[:-2], changing[2:]):
            cross = np.fft.fft2(b) * np.conj(np.fft.fft2(a))
            total += np.fft.ifft2(cross).real
        dy, dx = np.unravel_index(total.argmax(), total.shape)
        dy, dx = (dy + 16) % 32 - 16, (dx + 16) % 32 - 16
        guess = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
        right += guess == names[label]
        asked += 1
    assert right / asked > 0.7


def test_the_set_on_disk_is_a_class_folder_that_decodes_to_the_clips(tmp_path):
    folder = write_motion(tmp_path / "set", SMALL)
    files = sorted(folder.rglob("*.mp4"))
    assert len(files) == 27 and {file.parent.name for file in files} == set(KINDS)
    assert {file.parent.parent.name for file in files} == {"train", "val"}
    for file in files[::5]:
        frames, kind = motion_clip(SMALL, file.parent.parent.name, int(file.stem))
        assert kind == file.parent.name
        seen = decode(file)
        assert seen.shape == frames.shape
        assert np.abs(seen.astype(int) - frames).mean() < 12, "colour is halved in resolution, the rest is close"
    before = {file: file.read_bytes() for file in files}
    assert write_motion(folder, SMALL) == folder
    other = write_motion(tmp_path / "again", SMALL)
    assert all((other / file.relative_to(folder)).read_bytes() == content for file, content in before.items()), "equal settings, equal bytes"
    assert not list(tmp_path.glob(".*")), "no temporary folder stays"


def test_another_set_is_not_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        write_motion(tmp_path / "set", SMALL)
    assert (tmp_path / "set/notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="even size"):
        MotionConfig(size=33)


def test_written_videos_hold_every_frame_in_order(tmp_path):
    rng = np.random.default_rng(0)
    smooth = (np.linspace(0, 200, 40)[:, None, None, None] + rng.uniform(0, 20, (1, 4, 6, 1)) + np.zeros((1, 1, 1, 3))).repeat(8, 1).repeat(8, 2)
    frames = smooth.astype(np.uint8)
    assert write_video(tmp_path / "a.mp4", iter(frames), fps=30, crf=0, gop=8) == 40
    seen = decode(tmp_path / "a.mp4")
    assert seen.shape == frames.shape and np.abs(seen.astype(int) - frames).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 30
        keys = [index for index, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys == [0, 8, 16, 24, 32]


@pytest.mark.parametrize("frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 7, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32)])
def test_frames_that_cannot_be_encoded_are_refused_and_leave_no_file(tmp_path, frames):
    with pytest.raises(ValueError, match="write_video expected"):
        write_video(tmp_path / "a.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="as frame 1"):
        write_video(tmp_path / "a.mp4", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


def test_masks_are_the_shapes_that_are_drawn():
    """Flat white shapes on a black ground, one by one: half covered is theirs, and later shapes stand before earlier ones."""
    config = MotionConfig(frames=12, size=48, shapes=(2, 3), seed=3)
    flat = Ground(colors=np.zeros((2, 3), np.float32), waves=np.zeros((9, 1, 3), np.float32))
    overlaps = 0
    for index in range(9):
        scene = _scene(config, "val", index)
        expected = np.zeros((12, 48, 48), np.uint8)
        sure = np.ones(expected.shape, bool)
        for shape, look in enumerate(scene.looks):
            white = replace(look, colors=np.full((2, 3), 255, np.float32))
            drawn = render(scene.states[:, shape : shape + 1], scene.ground_states, [white], flat, 48)[..., 0]
            overlaps += int(((drawn >= 128) & (expected > 0)).sum())
            expected[drawn >= 128] = shape + 1
            sure &= np.abs(drawn.astype(int) - 128) > 2
        masks = motion_masks(config, "val", index)
        assert masks.dtype == np.uint8 and (masks == expected)[sure].all() and sure.mean() > 0.98
        assert (motion_clip(config, "val", index)[0] == render(scene.states, scene.ground_states, scene.looks, scene.ground, 48)).all()
    assert overlaps > 0
