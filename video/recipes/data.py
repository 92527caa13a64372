"""Which videos a recipe reads: one folder is enough, and none means the procedural motion set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError
from suite3d.image.views import ViewConfig
from suite3d.source import find_split
from suite3d.video.data.lists import VideoList, read_list
from suite3d.video.data.motion import MotionConfig, motion_folder
from suite3d.video.data.source import ClipSource

Images = Literal["auto", "frames", "stills"]


@dataclass(kw_only=True)
class VideoDataConfig:
    """Videos and how clips are taken from them.

    Attributes:
        root: folder of the videos; empty = the procedural motion set.
        list: list of the training videos; empty = look at the folder. val_list: of the validation videos.
        labels: class names, for lists that need them (Something-Something, UCF101).
        layout: ``auto``, or a layout of :func:`suite3d.video.data.lists.read_list` to overrule the detection.
        split, val_split: names of the splits; empty = ``train`` and ``val`` (or ``test``) where the folder or list has them.
        fold: of UCF101 and HMDB51.
        images: what a folder of numbered pictures is, where it could be either.
        quarantine: file written by ``suite3d data check``; what it lists as unusable is left out.
        frames: frames of a clip. stride: from one of its frames to the next in the video.
        repeats: crops (and masks) of every decoded clip. The batch size and the learning rate rule count decoded clips.
        reader: ``auto``, ``pyav``, ``torchcodec`` or ``decord``.
        motion: the motion set.
    """

    root: Path = Path("")
    list: Path = Path("")
    val_list: Path = Path("")
    labels: Path = Path("")
    layout: str = "auto"
    split: str = ""
    val_split: str = ""
    fold: int = 1
    images: Images = "auto"
    quarantine: Path = Path("")
    frames: int = 16
    stride: int = 4
    repeats: int = 1
    reader: str = "auto"
    motion: MotionConfig = field(default_factory=MotionConfig)


def build_list(config: VideoDataConfig, *, validation: bool = False) -> VideoList:
    """The training or validation videos.

    Raises:
        ConfigError: nothing there, or a list that cannot be read.
    """
    if config.root == Path("") and config.list == Path(""):
        return read_list(motion_folder(config.motion), split="val" if validation else "train")
    root = config.root if config.root != Path("") else config.list.parent
    chosen = config.val_list if validation else config.list
    wanted = config.val_split if validation else config.split
    try:
        return read_list(
            root,
            list_file=_optional(chosen),
            labels_file=_optional(config.labels),
            layout=config.layout,
            split=wanted or (find_split(root, "val" if validation else "train") if chosen == Path("") else None),
            fold=config.fold,
            images=config.images,
            quarantine=_optional(config.quarantine),
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def has_validation(config: VideoDataConfig) -> bool:
    """Whether the data name validation videos of their own."""
    if config.root == Path("") and config.list == Path("") or config.val_list != Path("") or config.val_split:
        return True
    return config.list == Path("") and find_split(config.root, "val") is not None


def _optional(path: Path) -> Path | None:
    return None if path == Path("") else path


def build_source(config: VideoDataConfig, augment: ViewConfig, found: VideoList) -> ClipSource:
    """Randomly placed, augmented training clips."""
    return ClipSource(found.items, frames=config.frames, stride=config.stride, augment=augment, repeats=config.repeats, reader=config.reader)


def describe_data(config: VideoDataConfig) -> str:
    """Where the clips come from, for provenance; procedural data are called synthetic."""
    if config.root == Path("") and config.list == Path(""):
        return f"motion set (synthetic, seed {config.motion.seed})"
    return ", ".join(str(path) for path in (config.root, config.list) if path != Path(""))
