"""Clips of the motion set, and the set as a class folder of mp4 files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_json
from suite3d.engine.order import stream_seed
from suite3d.video.data.motion.kinds import KINDS, SPEEDS, drift
from suite3d.video.data.motion.shapes import Ground, Look, draw_ground, draw_look, draw_masks, render
from suite3d.write_video import write_video

VERSION = 2
"""Raised when the pictures change, so that old files are not taken for new ones."""
MARK = "motion.json"


@dataclass(kw_only=True)
class MotionConfig:
    """The motion set.

    Attributes:
        train, val: clips of each split.
        frames: frames of each clip.
        size: width and height, pixels, even.
        shapes: fewest and most shapes in a clip; they and the ground all move alike, as when the camera moves.
        crf, gop: of the files, see :func:`suite3d.write_video.write_video`.
        seed: of everything.
        folder: where the files are kept; empty = ``runs/data/motion-<hash of these settings>``.
    """

    train: int = 1152
    val: int = 288
    frames: int = 24
    size: int = 64
    shapes: tuple[int, int] = (1, 3)
    crf: int = 12
    gop: int = 12
    seed: int = 0
    folder: Path = Path("")

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.frames, self.shapes[0]) < 1 or self.shapes[0] > self.shapes[1]:
            raise ValueError(f"the motion set expected at least one clip, frame and shape, got {self}")
        if self.size < 16 or self.size % 2:
            raise ValueError(f"the motion set expected an even size of at least 16 pixels, got {self.size}")


def motion_clip(config: MotionConfig, split: str, index: int) -> tuple[NDArray[np.uint8], str]:
    """``(frames, size, size, 3)`` uint8 and the class of clip ``index``: a pure function of the settings, the split and the index.

    Looks, places and speeds come from streams that do not know the class; classes take turns, so they are balanced.
    """
    scene = _scene(config, split, index)
    return render(scene.states, scene.ground_states, scene.looks, scene.ground, config.size), scene.kind


def motion_masks(config: MotionConfig, split: str, index: int) -> NDArray[np.uint8]:
    """``(frames, size, size)`` uint8 of the same clip: 0 = ground, from 1 on the shapes, see :func:`draw_masks`."""
    scene = _scene(config, split, index)
    return draw_masks(scene.states, scene.looks, config.size)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """Everything a clip is drawn from: states ``(frames, N, 4)`` and looks of the shapes, states ``(frames, 4)`` and look of the ground."""

    kind: str
    states: NDArray[np.float64]
    looks: list[Look]
    ground_states: NDArray[np.float64]
    ground: Ground


def _scene(config: MotionConfig, split: str, index: int) -> _Scene:
    kind = list(KINDS)[index % len(KINDS)]
    rng = np.random.default_rng(stream_seed("motion", config.seed, split, index))
    low, high = np.array(SPEEDS).T
    speed = rng.uniform(low, high, 4)
    ranges = int(np.ceil(high[3] * config.frames)) + 3
    ground, ground_start = draw_ground(rng, layers=ranges), np.array([[0.0, 0.0, *rng.uniform(0, 1, 2)]])
    looks = [draw_look(rng) for _ in range(rng.integers(config.shapes[0], config.shapes[1] + 1))]
    start = rng.uniform(0, 1, (len(looks), 4))
    behind, before = (drift(kind, begin, speed, config.frames) for begin in (ground_start, start))
    return _Scene(kind=kind, states=before, looks=looks, ground_states=behind[:, 0], ground=ground)


def write_motion(folder: Path, config: MotionConfig) -> Path:
    """Write both splits as ``folder/{train,val}/<class>/<index>.mp4`` and return the folder.

    The files appear under a temporary name and are renamed together, so several processes may ask for the same set at once.

    Raises:
        ValueError: the folder exists and holds something else.
    """
    wanted = _settings(config)
    if folder.exists():
        if _read_mark(folder) != wanted:
            raise ValueError(f"{folder} holds something else than this motion set: name another folder, or remove it")
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        wanted_clips = [(split, index) for split, count in (("train", config.train), ("val", config.val)) for index in range(count)]
        with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:  # numpy and x264 both let go of the interpreter lock
            for _ in pool.map(lambda clip: _write_clip(partial, config, *clip), wanted_clips):
                pass
        write_json(partial / MARK, wanted)
        try:
            partial.rename(folder)
        except OSError:
            if _read_mark(folder) != wanted:  # another process was first with something else
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_clip(folder: Path, config: MotionConfig, split: str, index: int) -> None:
    frames, kind = motion_clip(config, split, index)
    write_video(folder / split / kind / f"{index:06d}.mp4", frames, crf=config.crf, gop=config.gop)


def motion_folder(config: MotionConfig) -> Path:
    """Folder of this motion set, written if it is not there yet."""
    if config.folder != Path(""):
        return write_motion(config.folder, config)
    digest = hashlib.blake2b(json.dumps(_settings(config), sort_keys=True).encode(), digest_size=5).hexdigest()
    folder = Path("runs/data") / f"motion-{digest}"
    if not folder.exists():
        print(f"writing the motion set (synthetic, {config.train + config.val} clips) to {folder}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
    return write_motion(folder, config)


def _settings(config: MotionConfig) -> dict[str, object]:
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items() if key != "folder"}
    return {"set": "motion", "version": VERSION, "kinds": list(KINDS), **values}


def _read_mark(folder: Path) -> object:
    try:
        return json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
