"""What can be wrong with a clip is found, named and written down, and nothing else is."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from suite3d.cli import main
from suite3d.config import ConfigError
from suite3d.video.data.check import check
from suite3d.video.data.check_workers import in_processes
from suite3d.video.data.lists import read_list
from tests.video.data import clips


def broken_folder(root: Path) -> dict[str, str]:
    """One file of each sort; file name -> the problem it has."""
    clips.write(root / "good.mp4", 12)
    clips.write(root / "vfr.mp4", 6, times=[0, 40, 50, 200, 210, 500])
    clips.patch_rotation(clips.write(root / "turned.mp4", 6), 90)
    clips.write(root / "one.mp4", 1)
    (root / "zero.mp4").write_bytes(b"")
    (root / "text.mp4").write_bytes(b"no video at all\n" * 40)
    whole = clips.write_fast_start(root / "cut.mp4", 30).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "whole_cut.mp4").unlink()
    clips.write_audio(root / "sound.mp4")
    problems = {"vfr": "variable frame rate", "turned": "rotated", "one": "too short", "zero": "empty", "text": "unreadable"}
    return {f"{name}.mp4": problem for name, problem in {**problems, "cut": "truncated", "sound": "audio only"}.items()}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_problem_gets_its_name(tmp_path, capsys, workers):
    expected = broken_folder(tmp_path)
    assert main(["data", "check", str(tmp_path), f"workers={workers}"]) == 0
    assert {row["path"]: row["problem"] for row in rows(tmp_path / "quarantine.jsonl")} == expected
    said = capsys.readouterr().out
    assert "3 of 8 clips can be used" in said and "1 truncated" in said and "1 rotated (decodes right)" in said
    kept = read_list(tmp_path, quarantine=tmp_path / "quarantine.jsonl")
    assert sorted(item.path.name for item in kept.items) == ["good.mp4", "turned.mp4", "vfr.mp4"]
    assert sum(kept.excluded.values()) == 5


def test_lists_with_missing_files_and_windows(tmp_path):
    clips.write(tmp_path / "videos/a.mp4", 20)
    path = tmp_path / "pre.txt"
    path.write_text("a.mp4 0 -1\na.mp4 0 21\ngone.mp4 0 -1\n")
    assert check(tmp_path / "videos", [f"list_file={path}", f"out={tmp_path}/q.jsonl", "workers=1"]) == 0
    assert [(row["path"], row["problem"]) for row in rows(tmp_path / "q.jsonl")] == [("gone.mp4", "missing"), ("a.mp4", "too short")]


def test_members_of_a_shard(tmp_path):
    clips.write(tmp_path / "a.mp4", 5)
    (tmp_path / "b.mp4").write_bytes(b"x" * 50)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.mp4", "b.mp4"):
            tar.add(tmp_path / name, name)
    assert check(tmp_path / "s.tar", [f"out={tmp_path}/q.jsonl", "workers=1"]) == 0
    assert [row["path"] for row in rows(tmp_path / "q.jsonl")] == ["s.tar/b.mp4"]
    assert [item.path.name for item in read_list(tmp_path / "s.tar", quarantine=tmp_path / "q.jsonl").items] == ["a.mp4"]


def test_how_much_is_decoded(tmp_path):
    """A hole where no frame is sampled is only found by decode=all."""
    clips.damage(clips.write(tmp_path / "hole.mp4", 60, gop=10, b_frames=0), 10)
    clips.write(tmp_path / "good.mp4", 4)
    for decode, found in (("none", []), ("some", []), ("all", ["hole.mp4"])):
        assert check(tmp_path, [f"decode={decode}", "workers=1"]) == 0
        assert [row["path"] for row in rows(tmp_path / "quarantine.jsonl")] == found, decode


def test_wrong_calls(tmp_path):
    for target, overrides in ((tmp_path / "none", []), (tmp_path, []), (tmp_path, ["decode=most"]), (tmp_path, ["worker=1"])):
        with pytest.raises(ConfigError):
            check(target, overrides)
    clips.write(tmp_path / "one.mp4", 1)
    assert check(tmp_path, ["workers=1"]) == 1  # nothing usable is left


def die_on_three(item: int) -> int:
    if item == 3:
        os._exit(11)
    return item * item


def test_a_crash_costs_only_the_file_at_fault():
    assert list(in_processes(die_on_three, range(9), workers=2, crashed=lambda item: -item)) == [0, 1, 4, -3, 16, 25, 36, 49, 64]
