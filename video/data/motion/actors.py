"""Several shapes in one picture, each moving in its own way, with AVA's annotation files: action detection without downloads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_json
from suite3d.engine.order import stream_seed
from suite3d.video.data.motion.kinds import KINDS, SPEEDS, drift
from suite3d.video.data.motion.shapes import RANGE, draw_ground, draw_look, render
from suite3d.write_video import write_video

MARK, FPS = "actors.json", 25
LABELS = "actions.csv"
CELLS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))
"""Where the shapes are at the key frame, so that no box covers another."""
VERSION = 1


@dataclass(kw_only=True)
class ActorsConfig:
    """The action detection set.

    Attributes:
        train, val: videos of each split, with one key frame each.
        frames, size: of a video, pixels.
        seed: of everything.
        folder: where the files are kept; empty = ``runs/data/actors-<hash of these settings>``.
    """

    train: int = 256
    val: int = 64
    frames: int = 24
    size: int = 64
    seed: int = 0
    folder: Path = Path("")

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.frames) < 1 or self.size < 16 or self.size % 2:
            raise ValueError(f"the actors set expected at least one video and frame and an even size of at least 16, got {self}")


def actors_clip(config: ActorsConfig, split: str, index: int) -> tuple[NDArray[np.uint8], list[tuple[list[float], int]]]:
    """``(frames, size, size, 3)`` uint8, and of each of 2 to 4 shapes its box at the middle frame and its action from 1: a pure function."""
    rng = np.random.default_rng(stream_seed("actors", config.seed, split, index))
    ground = draw_ground(rng, layers=3)
    still = np.zeros((config.frames, 4)) + [0, 0, *rng.uniform(0, 1, 2)]
    cells = rng.permutation(len(CELLS))[: rng.integers(2, 5)]
    kinds, middle, (low, high) = list(KINDS), config.frames // 2, np.array(SPEEDS).T
    looks, tracks, people = [], [], []
    for cell in cells:
        look, action = draw_look(rng), int(rng.integers(len(kinds)))
        look = replace(look, radius=0.75 * look.radius)  # stays clear of its neighbours and of the border
        at_key = np.array([*(np.array(CELLS[cell]) + rng.uniform(-0.03, 0.03, 2)), rng.random(), rng.uniform(0.4, 0.6)])
        speed = rng.uniform(low, high)
        start = at_key - drift(kinds[action], np.zeros((1, 4)), speed, middle + 1)[middle, 0]
        looks.append(look)
        tracks.append(drift(kinds[action], start[None], speed, config.frames))
        reach = look.radius * RANGE ** (at_key[3] - 0.5)
        box = [max(at_key[0] - reach, 0), max(at_key[1] - reach, 0), min(at_key[0] + reach, 1), min(at_key[1] + reach, 1)]
        people.append(([round(float(value), 4) for value in box], action + 1))
    return render(np.concatenate(tracks, axis=1), still, looks, ground, config.size), people


def actors_folder(config: ActorsConfig) -> Path:
    """Folder with ``videos/*.mp4``, ``train.csv``, ``val.csv`` and ``actions.csv``, written if it is not there yet.

    Raises:
        ValueError: the named folder holds something else.
    """
    settings = {"set": "actors", "version": VERSION} | {key: value for key, value in asdict(config).items() if key != "folder"}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=5).hexdigest()
    folder = config.folder if config.folder != Path("") else Path("runs/data") / f"actors-{digest}"
    if folder.exists():
        mark = folder / MARK
        if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8")) != settings:
            raise ValueError(f"{folder} holds something else than this set: name another folder, or remove it")
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for split, count in (("train", config.train), ("val", config.val)):
            lines = []
            for index in range(count):
                name = f"{split}{index:05d}"
                frames, people = actors_clip(config, split, index)
                write_video(partial / "videos" / f"{name}.mp4", frames, crf=12, gop=12)
                for person, (box, action) in enumerate(people):
                    lines.append(f"{name},{config.frames // 2 / FPS},{','.join(map(str, box))},{action},{person}\n")
            (partial / f"{split}.csv").write_text("".join(lines), encoding="utf-8")
        (partial / LABELS).write_text("".join(f"{number},{kind}\n" for number, kind in enumerate(KINDS, start=1)), encoding="utf-8")
        write_json(partial / MARK, settings)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / MARK).is_file():  # otherwise another process was first with the same set
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
