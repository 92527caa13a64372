"""Pictures with a class for every pixel: folders in the usual layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from suite3d.image.data.masks import read_labels
from suite3d.image.decode import decode_image, is_image, natural_key
from suite3d.labels import held_out_split
from suite3d.source import BadSample, find_split

PICTURES = ("images", "JPEGImages", "img")
LABELS = ("annotations", "SegmentationClass", "masks", "labels", "mask")
TEST_SALT = "suite3d segmentation test pictures v1"
HELD_OUT = 0.2


class Segmented(Protocol):
    """Pictures with pixel labels, by index."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def picture(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8. Raises :class:`suite3d.source.BadSample`."""

    def labels(self, index: int) -> NDArray[np.int64]:
        """``(H, W)`` int64 values as they are stored. Raises :class:`suite3d.source.BadSample`."""


class SegmentedFolder:
    """Pairs of a picture and a label file of the same name (without its ending).

    Args:
        pairs: picture, label file.
        how: where the split is from, in words.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], how: str) -> None:
        self.pairs, self.how = pairs, how

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].name

    def picture(self, index: int) -> NDArray[np.uint8]:
        path = self.pairs[index][0]
        try:
            return decode_image(path.read_bytes(), path)
        except OSError as error:
            raise BadSample(path, f"cannot be read: {error.strerror or error}") from error

    def labels(self, index: int) -> NDArray[np.int64]:
        return read_labels(self.pairs[index][1])


def segmented_folder(root: Path) -> tuple[SegmentedFolder, SegmentedFolder]:
    """Training and test pictures of a folder.

    Layouts: ``images/`` and ``masks/`` (or ``annotations``, ``labels``) with files of the same names, each perhaps with ``training`` and
    ``validation`` folders (ADE20K); ``JPEGImages/``, ``SegmentationClass/`` and ``ImageSets/Segmentation/{train,val}.txt`` (PASCAL VOC).
    Without a split a fifth of the pictures is held out, by a hash of their names.

    Raises:
        ValueError: another layout, a split without pairs, or pictures of several folders that share a name.
    """
    pictures, labels = _folder(root, PICTURES), _folder(root, LABELS)
    lists = {part: root / "ImageSets/Segmentation" / f"{part}.txt" for part in ("train", "val")}
    if all(path.is_file() for path in lists.values()):
        pairs = _pairs(pictures, labels)
        sides = [_listed(pairs, lists[part]) for part in ("train", "val")]
        how = "the lists of the folder"
    elif find_split(pictures, "train") and find_split(pictures, "val"):
        sides = [_pairs(pictures / _split(pictures, part), labels / _split(labels, part)) for part in ("train", "val")]
        how = "the splits of the folder"
    else:
        pairs = _pairs(pictures, labels)
        names = list(pairs)
        fit, held = held_out_split(names, [0] * len(names), HELD_OUT, salt=TEST_SALT)
        sides = [{names[i]: pairs[names[i]] for i in rows} for rows in (fit, held)]
        how = f"no split in the folder: {len(held)} of {len(names)} pictures held out by a hash of their names"
    if not all(sides):
        raise ValueError(f"{root}: a split has no picture with labels ({how})")
    train, test = (SegmentedFolder(list(side.values()), how) for side in sides)
    return train, test


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise ValueError(f"{root} has none of the folders {', '.join(names)}: expected pictures in one folder and label files in another")
    return found


def _split(folder: Path, part: str) -> str:
    name = find_split(folder, "train" if part == "train" else "val")
    if name is None:
        raise ValueError(f"{folder} has no folder for the {part} split, and the pictures have one")
    return name


def _pairs(pictures: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """By name, the pictures that have a label file."""
    sides = []
    for folder in (pictures, labels):
        files = sorted((path for path in folder.rglob("*") if path.is_file() and is_image(path)), key=natural_key)
        by_name = {path.stem: path for path in files}
        if len(by_name) < len(files):
            raise ValueError(f"{folder}: {len(files) - len(by_name)} files share their name with another, so pictures and labels cannot be paired")
        sides.append(by_name)
    found = {name: (path, sides[1][name]) for name, path in sides[0].items() if name in sides[1]}
    if not found:
        raise ValueError(f"{pictures} and {labels} have no file name in common (without endings)")
    return found


def _listed(pairs: dict[str, tuple[Path, Path]], file: Path) -> dict[str, tuple[Path, Path]]:
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {name: pairs[name] for name in names if name in pairs}
