"""Videos with masks in the layout of DAVIS: ``JPEGImages/[480p/]<video>/*.jpg`` and ``Annotations/[480p/]<video>/*.png``.

Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", 2017. The layout of YouTube-VOS is the same without resolutions;
frames it has no mask for are not scored.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.evaluate.token_labels import IGNORED
from suite3d.evaluate.tracks import Loaded, MaskedVideo
from suite3d.image.data.masks import read_labels
from suite3d.image.decode import decode_image, is_image, natural_key
from suite3d.source import BadSample

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


def davis_videos(root: Path, split: str = "val") -> list[MaskedVideo]:
    """The videos of a folder, in order of their names.

    Args:
        root: holds ``JPEGImages`` and ``Annotations``.
        split: of ``ImageSets/{2017,2016}/<split>.txt``, the first there is; without such files all videos.

    Raises:
        ValueError: another layout, or a split without videos.
    """
    pictures, masks = (_with_resolution(root / name) for name in ("JPEGImages", "Annotations"))
    names = sorted(path.name for path in masks.iterdir() if path.is_dir() and (pictures / path.name).is_dir())
    lists = [root / "ImageSets" / year / f"{split}.txt" for year in ("2017", "2016")]
    chosen = next((path for path in lists if path.is_file()), None)
    if chosen is not None:
        wanted = {line.split("/")[-1].strip() for line in chosen.read_text(encoding="utf-8").splitlines() if line.strip()}
        names = [name for name in names if name in wanted]
    if not names:
        raise ValueError(f"{root} has no video with pictures and masks{f' in {chosen}' if chosen else ''}")
    return [MaskedVideo(name=name, load=partial(_load, pictures / name, masks / name)) for name in names]


def _with_resolution(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"expected the layout of DAVIS, JPEGImages/<video>/*.jpg and Annotations/<video>/*.png; there is no {folder}")
    return next((folder / name for name in RESOLUTIONS if (folder / name).is_dir()), folder)


def _load(pictures: Path, masks: Path) -> Loaded:
    files = sorted((path for path in pictures.iterdir() if is_image(path)), key=natural_key)
    labels = {path.stem: path for path in masks.iterdir() if is_image(path)}
    # What comes before the first mask is not followed.
    first = next((place for place, path in enumerate(files) if path.stem in labels), None)
    if first is None or len(files) - first < 3:
        raise BadSample(masks, f"expected a mask and two frames after it, got {len(files)} frames and {len(labels)} masks")
    frames = [_read(path) for path in files[first:]]
    known: list[NDArray[Any] | None] = [read_labels(labels[path.stem]) if path.stem in labels else None for path in files[first:]]
    shape = frames[0].shape[:2]
    odd = [path.name for path, *parts in zip(files[first:], frames, known) if any(part is not None and part.shape[:2] != shape for part in parts)]
    if odd:
        raise BadSample(pictures, f"frames and masks have several sizes, e.g. {odd[0]} beside {shape[1]} x {shape[0]}")
    values = set(np.unique(np.concatenate([np.unique(part) for part in known if part is not None])).tolist())
    if values <= {0, IGNORED}:  # DAVIS 2016: one object, drawn in white
        known = [None if part is None else part // IGNORED for part in known]
    empty = np.full(shape, IGNORED)
    return np.stack(frames), np.stack([empty if part is None else part for part in known])


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return decode_image(path.read_bytes(), path)
    except OSError as error:
        raise BadSample(path, f"cannot be read: {error.strerror or error}") from error
