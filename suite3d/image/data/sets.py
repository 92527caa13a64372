"""Labelled or unlabelled pictures by index: folders, class folders, tar shards, scikit-learn's digits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.image.decode import decode_image, is_image, natural_key
from suite3d.shards import members, read_member, split_member
from suite3d.source import BadSample

_SHARD = re.compile(r"\.tar$", re.IGNORECASE)


class ImageSet(ABC):
    """Pictures by index. Picklable; opens files only inside :meth:`read`.

    Attributes:
        classes: class names; () without labels.
    """

    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB. Raises :class:`suite3d.source.BadSample`."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Short unique name. Reads no file."""

    def label(self, index: int) -> int | None:
        """Class of picture ``index``, or None. Reads no file."""
        return None

    def pairs(self, index: int, rng: np.random.Generator) -> NDArray[np.uint8] | None:
        """Another picture of the same scene as picture ``index``, drawn with ``rng``; None where the set knows of none."""
        return None


class ImageFolder(ImageSet):
    """All pictures under a folder, tar shards included, in natural order.

    Where every picture lies exactly one folder below the root (or below ``root/split``) and there are at least two such folders, the folders
    are the classes. In a shard the class is the member ``<stem>.cls`` beside the picture, a whole number (WebDataset).

    Args:
        root: the folder.
        split: sub-folder to read; "" = the root itself.
        classes: class names in the order of their numbers, where they must agree with another split; () = those found, sorted.

    Raises:
        ValueError: no such folder, no picture in it, or a class folder that is not among ``classes``.
    """

    def __init__(self, root: Path, split: str = "", *, classes: Sequence[str] = ()) -> None:
        self.root = root / split if split else root
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder")
        self.paths: list[Path] = []
        self.labels: list[int | None] = []
        files = sorted((path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith(".")), key=natural_key)
        pictures = [path for path in files if is_image(path)]
        shards = [path for path in files if _SHARD.search(path.name)]
        if not pictures and not shards:
            raise ValueError(f"{self.root} holds no picture (JPEG, PNG, WebP, TIFF, BMP, PPM) and no tar shard")
        self.classes = tuple(classes) or _class_folders(self.root, pictures)
        self.paths, self.labels = list(pictures), [self._folder_class(path) for path in pictures]
        for shard in shards:
            self._add_shard(shard)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()

    def label(self, index: int) -> int | None:
        return self.labels[index]

    def read(self, index: int) -> NDArray[np.uint8]:
        path = self.paths[index]
        member = split_member(path)
        try:
            data = path.read_bytes() if member is None else read_member(*member)
        except OSError as error:
            raise BadSample(path, f"cannot be read: {error.strerror or error}") from error
        return decode_image(data, path)

    def _folder_class(self, path: Path) -> int | None:
        if not self.classes:
            return None
        folder = path.relative_to(self.root).parts[0]
        if folder not in self.classes:
            raise ValueError(f"{path} is in the class folder '{folder}', the classes are {list(self.classes)[:8]}")
        return self.classes.index(folder)

    def _add_shard(self, shard: Path) -> None:
        names = members(shard)
        for name in sorted(names):
            if is_image(Path(name)):
                marker = str(Path(name).with_suffix(".cls"))
                self.paths.append(shard / name)
                self.labels.append(_class_number(shard, marker) if marker in names else None)
        numbers = [label for label in self.labels if label is not None]
        if numbers and not self.classes:
            self.classes = tuple(str(number) for number in range(max(numbers) + 1))


def _class_folders(root: Path, pictures: Sequence[Path]) -> tuple[str, ...]:
    places = [path.relative_to(root).parts for path in pictures]
    if not places or any(len(parts) != 2 for parts in places):
        return ()
    names = tuple(sorted({parts[0] for parts in places}))
    return names if len(names) > 1 else ()


def _class_number(shard: Path, marker: str) -> int:
    text = read_member(shard, marker).decode("utf-8", "replace").strip()
    if not text.isdigit():
        raise ValueError(f"{shard / marker}: expected the number of a class, got '{text[:40]}'")
    return int(text)


class Digits(ImageSet):
    """scikit-learn's handwritten digits: 1,797 pictures of 8 x 8 pixels in ten classes (real data, in every scikit-learn).

    The first 1,437 pictures are the training split, the other 360 the validation split; their writers differ for the most part.

    Raises:
        ImportError: without scikit-learn.
    """

    TRAIN = 1437
    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str = "train") -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("data.kind=digits needs scikit-learn: pip install scikit-learn") from error
        if split not in ("train", "val"):
            raise ValueError(f"the digits have the splits train and val, got '{split}'")
        data = load_digits()
        part = slice(0, self.TRAIN) if split == "train" else slice(self.TRAIN, None)
        self.split = split
        self.pictures = np.clip(np.asarray(data.images[part]) * 16, 0, 255).astype(np.uint8)
        self.numbers = np.asarray(data.target[part]).astype(int)

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"digits/{self.split}/{index:04d}"

    def label(self, index: int) -> int | None:
        return int(self.numbers[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.repeat(self.pictures[index][..., None], 3, axis=2)
