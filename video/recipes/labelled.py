"""Labelled videos for training and testing that share no video, whatever the layout says about splits."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from suite3d.config import ConfigError
from suite3d.labels import LabelSubset, choose_subset, held_out_split
from suite3d.video.data.lists import VideoItem, VideoList
from suite3d.video.recipes.data import VideoDataConfig, build_list, has_validation

TEST_SALT = "suite3d test videos v1"
_UCF101 = re.compile(r"^(v_.+_g\d+)_c\d+$")


@dataclass(frozen=True, kw_only=True)
class LabelledVideos:
    """Two sets of labelled videos over the same classes.

    Attributes:
        train, test: items, all with a label.
        classes: names.
        how: where the two sets are from, in words.
    """

    train: list[VideoItem]
    test: list[VideoItem]
    classes: list[str]
    how: str


def item_name(item: VideoItem) -> str:
    """Name of an item that does not depend on where the data lie."""
    part = f"#{item.start}" if item.start else ""
    return f"{item.path.parent.name}/{item.path.name}{part}"


def item_group(item: VideoItem) -> str:
    """What must not be on both sides of a split: parts of one video, and the clips that UCF101 cut from one."""
    match = _UCF101.match(item.path.stem)
    return f"{item.path.parent.name}/{match[1] if match else item.path.name}"


def labelled_videos(config: VideoDataConfig, *, held_out: float) -> LabelledVideos:
    """Training and test videos: the splits of the data, or a hashed part of the only one.

    Args:
        held_out: share of the videos of each class that are tested on, where the data have no test split.

    Raises:
        ConfigError: no labels, fewer than two classes, other classes in the test split, or nothing that could be held out.
    """
    train = build_list(config)
    items = [item for item in train.items if item.label is not None]
    if len({item.label for item in items}) < 2:
        raise ConfigError(
            f"labels of at least two classes are needed, and these data have {train.describe()}: sort the videos into class folders or give a list"
        )
    if has_validation(config):
        test = _renumber(build_list(config, validation=True), train.classes)
        shared = {_place(item) for item in items} & {_place(item) for item in test}
        if shared:
            raise ConfigError(f"{len(shared)} videos are in the training and in the test split, e.g. {sorted(shared)[0][0]}")
        return LabelledVideos(train=items, test=test, classes=train.classes, how="the splits of the data")
    groups, labels = [item_group(item) for item in items], [item.label or 0 for item in items]
    try:
        fit, held = held_out_split(groups, labels, held_out, salt=TEST_SALT)
    except ValueError as error:
        raise ConfigError(f"the data have no test split, and {error}; or name one with data.val_list or data.val_split") from error
    how = f"no test split in the data: {len(held)} of {len(items)} videos held out by a hash of their names, {100 * held_out:g} % of each class"
    return LabelledVideos(train=[items[i] for i in fit], test=[items[i] for i in held], classes=train.classes, how=how)


def _place(item: VideoItem) -> tuple[str, int]:
    return str(item.path), item.start


def _renumber(videos: VideoList, classes: list[str]) -> list[VideoItem]:
    """The labelled items of a list under the class numbers of another. Raises ConfigError for a class that is not there, or no labels."""
    number = {name: index for index, name in enumerate(classes)}
    items = [item for item in videos.items if item.label is not None]
    if not items:
        raise ConfigError("the test videos have no labels")
    unknown = sorted({videos.classes[item.label] for item in items if item.label is not None} - number.keys())
    if unknown:
        raise ConfigError(f"the test videos have classes the training videos lack: {unknown[:5]}")
    return [replace(item, label=number[videos.classes[item.label]]) for item in items if item.label is not None]


def labelled_part(videos: LabelledVideos, fraction: str, *, draw: int) -> tuple[list[VideoItem], LabelSubset]:
    """The first ``fraction`` of each class's training videos, whole groups, nested, by a fixed hash. Raises ConfigError for a bad fraction."""
    items = videos.train
    try:
        subset = choose_subset(
            [item_name(item) for item in items],
            [item_group(item) for item in items],
            fraction,
            indices=range(len(items)),
            strata=[item.label or 0 for item in items],
            draw=draw,
            units=("videos", "clips"),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return [items[index] for index in subset.indices], subset


def list_key(items: list[VideoItem]) -> list[tuple[str, int, int | None, int | None, int, int]]:
    """What identifies the samples of a list for a cache: path, part, label, size and time of the file."""
    return [(str(item.path), item.start, item.frames, item.label, *_stamp(item.path)) for item in items]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a member of an archive
        return 0, 0
    return status.st_size, status.st_mtime_ns
