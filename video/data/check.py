"""``suite3d data check``: which clips of a list can be used, found before training and not in the middle of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite3d.config import ConfigError, load_config
from suite3d.engine.files import write_text
from suite3d.shards import split_member
from suite3d.source import BadSample
from suite3d.video.data.check_workers import in_processes
from suite3d.video.data.lists import USABLE_PROBLEMS, VideoItem, VideoList, read_list
from suite3d.video.data.reader import VideoInfo, close_readers, probe_video, read_frames

PROBLEMS = ("missing", "empty", "truncated", "unreadable", "audio only", "too short", "variable frame rate", "rotated")


@dataclass(kw_only=True)
class CheckConfig:
    """How to check.

    Attributes:
        list_file: list whose paths are relative to the folder given.
        labels_file, layout, split, fold, images: as in ``read_list``.
        out: quarantine file; default ``quarantine.jsonl`` in the folder, or beside the list.
        min_frames: shorter clips are "too short".
        decode: "some" decodes the first, middle and last frame, "all" every frame, "none" only reads the packets.
        workers: processes; 0 = one per core.
        reader: back-end.
    """

    list_file: Path | None = None
    labels_file: Path | None = None
    layout: str = "auto"
    split: str | None = None
    fold: int = 1
    images: str = "auto"
    out: Path | None = None
    min_frames: int = 2
    decode: str = "some"
    workers: int = 0
    reader: str = "auto"

    def __post_init__(self) -> None:
        if self.decode not in ("none", "some", "all"):
            raise ValueError(f"decode: expected none, some or all, got {self.decode!r}")
        if self.min_frames < 1 or self.workers < 0:
            raise ValueError(f"min_frames must be at least 1 and workers at least 0, got {self.min_frames} and {self.workers}")


@dataclass(frozen=True)
class Finding:
    """One line of the quarantine file: what is wrong with a path, in a word of ``PROBLEMS`` and in detail."""

    path: str
    problem: str
    detail: str

    @property
    def usable(self) -> bool:
        return self.problem in USABLE_PROBLEMS


def check_item(item: VideoItem, *, min_frames: int = 2, decode: str = "some", reader: str = "auto") -> list[Finding]:
    """Everything found about one clip; empty when nothing is remarkable."""
    path = str(item.path)
    try:
        info = probe_video(item.path, reader=reader)
        length = info.frames if item.frames is None else item.frames
        if item.start + (item.frames or 1) > info.frames and item.kind != "image":
            detail = f"the list says frames {item.start} to {item.start + length - 1}, it holds {info.frames}"
            return [Finding(path, "too short", detail)]
        if min(length, info.frames - item.start) < min_frames and item.kind != "image":
            return [Finding(path, "too short", f"{min(length, info.frames - item.start)} frames, {min_frames} are wanted")]
        _decode(item, info, decode, reader)
    except BadSample as bad:
        return [Finding(path, _problem(bad.reason), bad.reason)]
    found = []
    if info.variable_frame_rate:
        found.append(Finding(path, "variable frame rate", f"{info.fps:.3f} frames a second on average"))
    if info.rotation:
        found.append(Finding(path, "rotated", f"by {info.rotation} degrees; frames are turned upright when read"))
    return found


def check_list(clips: VideoList, config: CheckConfig, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Findings of a whole list, in its order, missing files first."""
    findings = [Finding(str(path), "missing", "listed, but not there") for path in clips.missing]
    job = _Job(config.min_frames, config.decode, config.reader)
    for done, found in enumerate(in_processes(job, clips.items, workers=config.workers, crashed=_crashed), 1):
        findings.extend(found)
        if progress is not None:
            progress(done, len(clips.items))
    return findings


def check(target: Path, overrides: Sequence[str]) -> int:
    """The command. Writes the quarantine file, prints counts. Returns 0, or 1 when no usable clip is left."""
    config = load_config(CheckConfig, overrides=overrides)
    try:
        clips = read_list(
            target,
            list_file=config.list_file,
            labels_file=config.labels_file,
            layout=config.layout,
            split=config.split,
            fold=config.fold,
            images=config.images,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(clips.describe())
    findings = check_list(clips, config, progress=show_progress)
    base = target if target.is_dir() else target.parent
    out = config.out or base / "quarantine.jsonl"
    write_quarantine(out, findings, base)
    counts = Counter(finding.problem for finding in findings)
    total = len(clips.items) + len(clips.missing)
    unusable = len({finding.path for finding in findings if not finding.usable})
    for problem in PROBLEMS:
        if counts[problem]:
            print(f"  {counts[problem]:>8} {problem}{' (decodes right)' if problem in USABLE_PROBLEMS else ''}")
    print(f"{total - unusable} of {total} clips can be used; {out} names the others, data.quarantine={out} leaves them out")
    return 0 if unusable < total else 1


def write_quarantine(out: Path, findings: Sequence[Finding], base: Path) -> None:
    """One json object a line: path (relative to ``base`` where it lies below), problem, detail."""
    lines = []
    for finding in findings:
        path = Path(finding.path)
        shown = path.relative_to(base) if path.is_relative_to(base) else path.resolve()
        lines.append(json.dumps({"path": str(shown), "problem": finding.problem, "detail": finding.detail}, ensure_ascii=False))
    write_text(out, "".join(f"{line}\n" for line in lines))


def show_progress(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"\r{done} of {total}", end="\n" if done == total else "", flush=True)


def _problem(reason: str) -> str:
    """The word for a BadSample's reason, which begins with it where it is more special than "unreadable"."""
    words = ("missing", "empty", "truncated", "audio only", "too short")
    return next((word for word in words if reason.startswith(word)), "unreadable")


def _decode(item: VideoItem, info: VideoInfo, decode: str, reader: str) -> None:
    """Decode frames only to see whether it works. Raises BadSample."""
    if decode == "none" or item.kind == "image":
        return
    stop = info.frames if item.frames is None else item.start + item.frames
    if decode == "some":
        read_frames(item.path, sorted({item.start, (item.start + stop) // 2, stop - 1}), reader=reader)
        return
    for first in range(item.start, stop, 64):
        read_frames(item.path, range(first, min(first + 64, stop)), reader=reader)


@dataclass(frozen=True)
class _Job:
    min_frames: int
    decode: str
    reader: str

    def __call__(self, item: VideoItem) -> list[Finding]:
        try:
            return check_item(item, min_frames=self.min_frames, decode=self.decode, reader=self.reader)
        finally:
            if split_member(item.path) is None:
                close_readers()


def _crashed(item: VideoItem) -> list[Finding]:
    return [Finding(str(item.path), "unreadable", "the decoder crashed on it")]
