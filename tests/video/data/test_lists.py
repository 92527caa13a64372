"""Every list format users bring is read for what it is, what is missing is counted, and what could mean two things is refused."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from suite3d.video.data.lists import VideoItem, VideoList, read_list
from tests.video.data import clips


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def lines(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def short(clips_of: VideoList, root: Path) -> list[tuple]:
    return [(item.path.relative_to(root).as_posix(), item.label, item.start, item.frames) for item in clips_of.items]


def frame_folder(path: Path, count: int = 3, first: int = 1) -> None:
    touch(*(path / f"img_{number:05d}.jpg" for number in range(first, first + count)), path / "flow_x_00001.jpg")


def test_bare_folder_is_recursive_sorted_and_unlabelled(tmp_path):
    touch(
        tmp_path / "b/clip10.mp4",
        tmp_path / "b/clip9.MKV",
        tmp_path / "a.webm",
        tmp_path / "b/deep/z.avi",
        tmp_path / "b/notes.txt",
        tmp_path / ".x/h.mp4",
    )
    found = read_list(tmp_path)
    assert found.kind == "folder" and found.classes == []
    assert short(found, tmp_path) == [(name, None, 0, None) for name in ("a.webm", "b/clip9.MKV", "b/clip10.mp4", "b/deep/z.avi")]


def test_class_folders(tmp_path):
    touch(*(tmp_path / split / f"{name} it" / f"{number}.mp4" for split in ("train", "val") for name in ("run", "jump") for number in (1, 2)))
    with pytest.raises(ValueError, match="divided into train, val: say which"):
        read_list(tmp_path)
    found = read_list(tmp_path, split="val")
    assert found.kind == "class folders" and found.classes == ["jump it", "run it"]
    assert [item.label for item in found.items] == [0, 0, 1, 1]
    assert read_list(tmp_path / "train", layout="folder").classes == []
    with pytest.raises(ValueError, match="it holds train, val"):
        read_list(tmp_path, split="test")


@pytest.mark.parametrize("separator", [" ", ",", "\t", "::", ";"])
@pytest.mark.parametrize(
    "names", [("a.mp4", "b.mp4"), ("my clip 3.mp4", "k/other, one.mp4"), ("x", "y")], ids=["plain", "blanks and commas", "no suffix"]
)
def test_kinetics_lists(tmp_path, separator, names):
    for name in names:
        touch(tmp_path / "videos" / (name if "." in name else f"{name}.mp4"))
    path = lines(tmp_path / "train.csv", *(f"{name}{separator}{label}" for name, label in zip(names, (7, 0))), f"gone.mp4{separator}3")
    found = read_list(tmp_path / "videos", list_file=path)
    assert found.kind == "path label"
    assert [(item.path.stem, item.label) for item in found.items] == [(Path(names[0]).stem, 7), (Path(names[1]).stem, 0)]
    assert found.missing == [tmp_path / "videos" / "gone.mp4"] and len(found.classes) == 8
    assert "missing 1 of 3" in found.describe()


def test_lists_with_names_quotes_absolute_paths_and_none(tmp_path):
    touch(tmp_path / "a, b.mp4", tmp_path / "c.mp4", tmp_path / "d e.mp4")
    named = read_list(tmp_path, list_file=lines(tmp_path / "n.csv", '"a, b.mp4",playing cards', "c.mp4,archery"))
    assert named.classes == ["archery", "playing cards"] and [item.label for item in named.items] == [1, 0]
    absolute = read_list(Path("/"), list_file=lines(tmp_path / "abs.txt", f"{tmp_path}/c.mp4 1", f"{tmp_path}/d e.mp4 0"))
    assert short(absolute, tmp_path) == [("c.mp4", 1, 0, None), ("d e.mp4", 0, 0, None)]
    alone = read_list(lines(tmp_path / "paths.txt", "c.mp4", "# no clip", "", "d e.mp4"))
    assert alone.kind == "paths" and short(alone, tmp_path) == [("c.mp4", None, 0, None), ("d e.mp4", None, 0, None)]
    labels = lines(tmp_path / "labels.txt", "0 archery", "1 playing cards")
    assert read_list(tmp_path, list_file=lines(tmp_path / "l.csv", "c.mp4 1"), labels_file=labels).classes == ["archery", "playing cards"]
    with pytest.raises(ValueError, match="label 5 is outside 0..1"):
        read_list(tmp_path, list_file=lines(tmp_path / "l.csv", "c.mp4 5"), labels_file=labels)


def test_videomae_v2_windows(tmp_path):
    touch(tmp_path / "v.mp4")
    frame_folder(tmp_path / "frames one", 58)
    found = read_list(tmp_path, list_file=lines(tmp_path / "pre.txt", "v.mp4 0 -1", "frames one 1 58"))
    assert found.kind == "path start total"
    assert found.items == [VideoItem(tmp_path / "v.mp4", None, 0, None, "video"), VideoItem(tmp_path / "frames one", None, 0, 58, "frames")]
    only = read_list(tmp_path, list_file=lines(tmp_path / "pre.txt", "frames one 1 58"))
    assert only.items == [VideoItem(tmp_path / "frames one", None, 0, 58, "frames")]


def test_mmaction_raw_frames(tmp_path):
    frame_folder(tmp_path / "k/one", 5)
    frame_folder(tmp_path / "two words", 3)
    found = read_list(tmp_path, list_file=lines(tmp_path / "raw.txt", "k/one 5 2", "two words 3 0", "gone 8 1"))
    assert found.kind == "dir frames label" and found.items[0].kind == "frames"
    assert short(found, tmp_path) == [("k/one", 2, 0, 5), ("two words", 0, 0, 3)]
    assert len(found.missing) == 1


def test_three_columns_of_videos_are_not_guessed(tmp_path):
    touch(tmp_path / "v.mp4", tmp_path / "w.mp4")
    path = lines(tmp_path / "l.txt", "v.mp4 30 5", "w.mp4 12 60")
    with pytest.raises(ValueError, match="could mean path, start, total or path, frames, label"):
        read_list(tmp_path, list_file=path)
    assert short(read_list(tmp_path, list_file=path, layout="path start total"), tmp_path)[0] == ("v.mp4", None, 30, 5)
    assert short(read_list(tmp_path, list_file=path, layout="dir frames label"), tmp_path)[0] == ("v.mp4", 5, 0, 30)


def test_tables_with_a_header(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "yoga/abc_000010_000020.mp4")
    segments = read_list(lines(tmp_path / "s.csv", "path,start_frame,end_frame,label", "a.mp4,32,64,run", "a.mp4,0,32,jump"))
    assert segments.kind == "table" and short(segments, tmp_path) == [("a.mp4", 1, 32, 32), ("a.mp4", 0, 0, 32)]
    kinetics = lines(
        tmp_path / "k.csv", "label,youtube_id,time_start,time_end,split", "yoga,abc,10,20,train", "yoga,zzz,1,11,train", "yoga,v,1,2,val"
    )
    found = read_list(tmp_path, list_file=kinetics, split="train")
    assert found.kind == "kinetics csv" and short(found, tmp_path) == [("yoga/abc_000010_000020.mp4", 0, 0, None)]
    assert len(found.missing) == 1
    with pytest.raises(ValueError, match="line 2: expected 4 columns"):
        read_list(lines(tmp_path / "s.csv", "path,start_frame,end_frame,label", "a.mp4,32"))


def test_something_something(tmp_path):
    touch(tmp_path / "videos/74225.webm", tmp_path / "videos/1.mp4")
    rows = [
        {"id": "74225", "label": "putting a cup on a table", "template": "Putting [something] on a surface", "placeholders": ["a cup"]},
        {"id": "1", "label": "x", "template": "Holding [something]", "placeholders": []},
        {"id": "2", "label": "y", "template": "Holding [something]", "placeholders": []},
    ]
    path = lines(tmp_path / "train.json", json.dumps(rows))
    lines(tmp_path / "labels.json", json.dumps({"Holding something": "1", "Putting something on a surface": "0"}))
    found = read_list(tmp_path / "videos", list_file=path)
    assert found.kind == "ssv2" and found.classes == ["Putting something on a surface", "Holding something"]
    assert short(found, tmp_path) == [("videos/74225.webm", 0, 0, None), ("videos/1.mp4", 1, 0, None)] and len(found.missing) == 1
    test = read_list(tmp_path / "videos", list_file=lines(tmp_path / "test.json", json.dumps([{"id": "1"}])))
    assert test.items[0].label is None
    with pytest.raises(ValueError, match="json list of objects with 'id'"):
        read_list(tmp_path / "videos", list_file=lines(tmp_path / "bad.json", "{}"))


def test_ucf101_splits(tmp_path):
    touch(tmp_path / "v/Archery/v_Archery_g01_c01.avi", tmp_path / "v/YoYo/v_YoYo_g08_c02.mp4")
    lists = tmp_path / "ucfTrainTestlist"
    lines(lists / "classInd.txt", "1 Archery", "2 Bowling", "3 YoYo")
    lines(lists / "trainlist01.txt", "YoYo/v_YoYo_g08_c02.avi 3", "Bowling/v_Bowling_g01_c01.avi 2")
    lines(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi")
    train = read_list(tmp_path / "v", list_file=lists, split="train")
    assert train.kind == "ucf101" and train.classes == ["Archery", "Bowling", "YoYo"]
    assert short(train, tmp_path) == [("v/YoYo/v_YoYo_g08_c02.mp4", 2, 0, None)] and len(train.missing) == 1  # a re-encoded copy is found
    assert read_list(tmp_path / "v", list_file=lists / "testlist01.txt").items[0].label == 0
    with pytest.raises(ValueError, match="say split='train' or split='test'"):
        read_list(tmp_path / "v", list_file=lists)
    with pytest.raises(ValueError, match="index 1 is not that of 'YoYo'"):
        read_list(tmp_path / "v", list_file=lines(lists / "trainlist02.txt", "YoYo/v_YoYo_g08_c02.avi 1"))


def test_hmdb51_splits(tmp_path):
    touch(tmp_path / "v/wave/a b.avi", tmp_path / "v/wave/c.avi", tmp_path / "v/brush_hair/d.avi", tmp_path / "v/brush_hair/e.avi")
    lines(tmp_path / "s/wave_test_split1.txt", "a b.avi 1", "c.avi 2")
    lines(tmp_path / "s/brush_hair_test_split1.txt", "d.avi 0", "e.avi 1")
    found = read_list(tmp_path / "v", list_file=tmp_path / "s", split="train", fold=1)
    assert found.kind == "hmdb51 split 1 train" and found.classes == ["brush_hair", "wave"]
    assert short(found, tmp_path) == [("v/brush_hair/e.avi", 0, 0, None), ("v/wave/a b.avi", 1, 0, None)]
    assert [item.path.name for item in read_list(tmp_path / "v", list_file=tmp_path / "s", split="test").items] == ["c.avi"]
    with pytest.raises(ValueError, match="say split"):
        read_list(tmp_path / "v", list_file=tmp_path / "s")
    with pytest.raises(ValueError, match="fold=3"):
        read_list(tmp_path / "v", list_file=tmp_path / "s", split="train", fold=3)


def test_pictures_are_frames_or_stills_and_never_guessed(tmp_path):
    frame_folder(tmp_path / "a/v1", 4)
    frame_folder(tmp_path / "a/v2", 4)
    frames = read_list(tmp_path / "a")
    assert [(item.kind, item.path.name) for item in frames.items] == [("frames", "v1"), ("frames", "v2")]
    touch(*(tmp_path / "b" / name for name in ("cat.jpg", "dog.png")))
    assert [item.kind for item in read_list(tmp_path / "b").items] == ["image", "image"]
    touch(*(tmp_path / "c" / kind / f"{number:04d}.jpg" for kind in ("cat", "dog") for number in range(3)))
    with pytest.raises(ValueError, match="say images=frames or images=stills"):
        read_list(tmp_path / "c")
    stills = read_list(tmp_path / "c", images="stills")
    assert stills.classes == ["cat", "dog"] and len(stills.items) == 6
    assert [item.kind for item in read_list(tmp_path / "c", images="frames").items] == ["frames", "frames"]


def test_shards(tmp_path):
    video = clips.write(tmp_path / "v.mp4", 4)
    (tmp_path / "one.cls").write_text("4")
    with tarfile.open(tmp_path / "shards-000.tar", "w") as tar:
        for name in ("one", "two"):
            tar.add(video, f"{name}.mp4")
        tar.add(tmp_path / "one.cls", "one.cls")
    found = read_list(tmp_path / "shards-000.tar")
    assert found.kind == "shards" and len(found.classes) == 5
    assert [(item.path.name, item.label, item.kind) for item in found.items] == [("one.mp4", 4, "video"), ("two.mp4", None, "video")]
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shards-000.tar").read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read as an uncompressed tar"):
        read_list(tmp_path / "cut.tar")


def test_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_list(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="layout: expected one of"):
        read_list(tmp_path, layout="kinetics")
    with pytest.raises(ValueError, match="holds no videos"):
        read_list(tmp_path)
    touch(tmp_path / "v.mp4")
    for rows, message in [
        ((), "is empty"),
        (("a.mp4 1", "b.mp4 2"), "none of its 2 files exists; the first was looked for at .*a.mp4"),
        (("v.mp4 1",) * 30 + ("v.mp4 one 1 2 x",), "line 31: expected a path and a whole number separated by blank"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_list(tmp_path, list_file=lines(tmp_path / "list.txt", *rows))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not readable as a text list"):
        read_list(tmp_path, list_file=tmp_path / "binary.txt")


def test_quarantine_leaves_out_what_cannot_be_used(tmp_path):
    touch(*(tmp_path / f"{name}.mp4" for name in "abcd"))
    rows = [("a.mp4", "truncated"), ("b.mp4", "variable frame rate"), (str(tmp_path / "c.mp4"), "audio only")]
    path = lines(tmp_path / "q.jsonl", *(json.dumps({"path": name, "problem": problem, "detail": ""}) for name, problem in rows))
    found = read_list(tmp_path, quarantine=path)
    assert [item.path.name for item in found.items] == ["b.mp4", "d.mp4"] and found.excluded == {"truncated": 1, "audio only": 1}
    assert "2 left out by the quarantine file (1 audio only, 1 truncated)" in found.describe()
    with pytest.raises(ValueError, match="no such quarantine file"):
        read_list(tmp_path, quarantine=tmp_path / "none.jsonl")


@pytest.mark.skipif(not clips.SHARED.is_dir(), reason="needs ../shared/data/video")
def test_real_lists():
    found = read_list(clips.SHARED / "segments32.csv")
    assert len(found.items) == 99 and len(found.classes) == 10 and not found.missing
    assert {item.frames for item in found.items} == {32}
    assert read_list(clips.SHARED / "ucf101_subset").kind == "class folders"
