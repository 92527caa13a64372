"""Whole runs through the command line: fine-tuning beside its twin, testing again, every frozen protocol, action detection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.config import ConfigError
from suite3d.engine.files import read_json_lines
from suite3d.interop.save import read_metadata, save_encoder
from suite3d.labels import choose_subset
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.backbones import r3d_18
from suite3d.video.recipes.data import VideoDataConfig
from suite3d.video.recipes.frozen import evaluate_frozen
from suite3d.video.recipes.frozen_encoder import load_frozen
from suite3d.video.recipes.labelled import item_group, labelled_part, labelled_videos
from suite3d.write_video import write_video

SIZES = [
    "data.frames=4",
    "data.stride=2",
    "augment.size=16",
    "encoder.size=S",
    "encoder.dim=32",
    "encoder.depth=2",
    "encoder.heads=2",
    "encoder.patch=8",
    "encoder.tubelet=2",
]
LOOP = ["train.steps=3", "train.batch_size=4", "train.workers=0", "train.log_every=1", "train.save_every=0", "train.device=cpu"]


def clip(direction: int, seed: int, frames: int = 12) -> np.ndarray:
    """A bright bar over noise that moves left or right."""
    rng = np.random.default_rng(seed)
    out = rng.integers(40, 90, (1, 24, 32, 3)).repeat(frames, 0)
    start = rng.integers(32)
    for t in range(frames):
        columns = (start + 2 * direction * t + np.arange(4)) % 32
        out[t][:, columns] = 230
    return out.astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bars")
    for split, count in (("train", 8), ("val", 4)):
        for name, direction in (("left", -1), ("right", 1)):
            for number in range(count):
                write_video(root / split / name / f"{number}.mp4", clip(direction, 100 * number + direction + 1 + (split == "val")))
    (root / "val" / "left" / "broken.mp4").write_bytes(b"not a video")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classify") / "run"
    strong = [
        "data.repeats=2",
        "classifier.randaugment.layers=2",
        "classifier.mix.mixup=0.8",
        "classifier.mix.cutmix=1.0",
        "classifier.erase.probability=0.5",
    ]
    test = ["test.clips=2", "test.crops=3", "labels=50%", "train.visual_every=3"]
    assert main(["finetune", "video_classify", f"data.root={folder}", *SIZES, *LOOP, *strong, *test, f"run.dir={path}"]) == 0
    return path


def test_a_run_states_its_labels_and_its_protocol(run):
    result = json.loads((run / "result.json").read_text())
    assert set(result["metrics"]) == {"top-1", "mean-class"} and result["protocol"]["views"].startswith("2 clips x 3 crops")
    assert result["videos"] == 8 and len(result["skipped"]) == 1 and "broken.mp4" in result["skipped"][0]
    provenance = json.loads((run / "provenance.json").read_text())
    assert "8 of 16 videos" in provenance["labels"] and provenance["samples_seen"] == 24 and provenance["init"] == "scratch"
    rows = [row for row in read_json_lines(run / "metrics.jsonl") if row["kind"] == "train"]
    assert len(rows) == 3 and rows[0]["loss"] == pytest.approx(np.log(2), abs=0.02)
    assert list((run / "pictures").glob("augmented_*.png"))


def test_testing_again_gives_the_same_and_other_views_another_protocol(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert again["metrics"] == json.loads((run / "result.json").read_text())["metrics"]
    assert main(["evaluate", str(run), "test.clips=1", "test.crops=1"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["protocol"]["views"].startswith("1 clips x 1 crops")
    assert main(["evaluate", str(run), "test.clip=1"]) == 2 and "test.clips" in capsys.readouterr().err


def test_a_pretrained_arm_stands_beside_its_twin(run, folder, tmp_path):
    arguments = ["finetune", "video_classify", f"data.root={folder}", *SIZES, *LOOP, "train.steps=1", "test.clips=1", f"run.dir={tmp_path / 'twins'}"]
    assert main([*arguments, f"init={run}", "twin=scratch", "seeds=2", "frames=segments"]) == 0
    result = json.loads((tmp_path / "twins" / "result.json").read_text())
    assert list(result["metrics"]) == ["pretrained", "scratch"] and len(result["metrics"]["scratch"]["top-1"]) == 2
    assert "one of each of 4 equal parts" in result["protocol"]["frames"]
    load = json.loads((tmp_path / "twins" / "pretrained" / "seed0" / "load.json").read_text())
    assert load["missing"] == []


FROZEN = [
    "device=cpu",
    "linear.epochs=5",
    "attentive.epochs=1",
    "attentive.rates=[0.001,0.01]",
    "attentive.decays=[0.1]",
    "fewshot.shots=[1,2]",
    "random=true",
]


def test_every_frozen_protocol_from_one_command(run, tmp_path, capsys):
    command = ["evaluate", str(run), "knn,linear,attentive,fewshot,retrieval", *FROZEN, "knn.k=[3,200]", "retrieval.clips=3", f"out={tmp_path}"]
    assert main(command) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    kinds = [(entry["kind"], entry["weights"]) for entry in result["entries"]]
    assert len(kinds) == 10 and ("knn", "random weights") in kinds
    for entry in result["entries"]:
        assert all(0 <= value <= 100 for value in entry["metrics"].values()) and entry["protocol"]["in short"]
        assert len(entry["skipped"]) == 1 and "16 training" in entry["protocol"]["data"]
    knn = result["entries"][0]
    assert "k=3 top-1" in knn["metrics"] and "200" in knn["protocol"]["left out"]
    shots = next(entry for entry in result["entries"] if entry["kind"] == "fewshot")
    assert len(shots["draws"]["2-shot"]) == 3 and "n = 3" in shots["shown"]["2-shot top-1"]
    assert "retrieval R@1" in capsys.readouterr().out
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir())
    assert main([*command, "knn.k=[2]"]) == 0  # the features are read back
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()) == before


def test_online_tokens_and_limits(run, tmp_path):
    options = [*FROZEN[:5], f"out={tmp_path}", "tokens.online=true", "tokens.segments=2", "tokens.crops=3"]
    entry = evaluate_frozen(run, ["attentive"], options)["entries"][0]
    assert "anew in every epoch" in entry["protocol"]["training clips"] and "2 segments x 3 crops" in entry["protocol"]["in short"]
    with pytest.raises(ConfigError, match="tokens.online=true"):
        evaluate_frozen(run, ["attentive"], [f"out={tmp_path}", "device=cpu", "tokens.gigabytes=0.000001"])


def test_wrong_commands_are_refused_in_one_line(run, tmp_path, capsys):
    for words in (["evaluate", str(run), "knm"], ["evaluate", str(tmp_path), "knn"], ["evaluate", str(run), "knn", "knn.q=3"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_without_a_split_whole_videos_are_held_out(folder, tmp_path):
    for number in range(6):
        for name, direction in (("a", -1), ("b", 1)):
            for part in range(2):
                write_video(tmp_path / name / f"v_{name}_g{number:02d}_c{part:02d}.mp4", clip(direction, number, 2))
    videos = labelled_videos(VideoDataConfig(root=tmp_path), held_out=0.34)
    sides = [{item_group(item) for item in part} for part in (videos.train, videos.test)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 12 and len(videos.test) == 8 and "held out by a hash" in videos.how
    few, subset = labelled_part(videos, "25%", draw=0)
    more, _ = labelled_part(videos, "50%", draw=0)
    assert {item.path for item in few} < {item.path for item in more} and {item.label for item in few} == {0, 1} and len(few) == 4
    assert subset.hash == choose_subset([f"{i.path.parent.name}/{i.path.name}" for i in few], ["x"] * 4, 1.0, indices=range(4)).hash
    with pytest.raises(ConfigError, match="labels"):
        labelled_videos(VideoDataConfig(root=tmp_path / "a"), held_out=0.2)


def test_test_classes_are_matched_by_name(tmp_path):
    for split, names in (("train", ("a", "b", "c")), ("val", ("c", "b"))):
        for name in names:
            write_video(tmp_path / split / name / "0.mp4", clip(1, 0, 2))
    videos = labelled_videos(VideoDataConfig(root=tmp_path), held_out=0.2)
    assert {item.path.parent.name: videos.classes[item.label] for item in videos.test} == {"b": "b", "c": "c"}
    write_video(tmp_path / "val" / "d" / "0.mp4", clip(1, 0, 2))
    with pytest.raises(ConfigError, match="'d'"):
        labelled_videos(VideoDataConfig(root=tmp_path), held_out=0.2)


def test_action_detection_runs_out_of_the_box(tmp_path):
    data = [f"data.actors.folder={tmp_path / 'actors'}", "data.actors.train=6", "data.actors.val=3", "data.actors.size=32", "data.actors.frames=12"]
    arguments = ["finetune", "video_actions", *SIZES, *LOOP, *data, "train.visual_every=3", f"run.dir={tmp_path / 'run'}"]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["metrics"]["frame mAP@0.5"] <= 100 and result["protocol"]["persons"] == "annotated"
    lines = (tmp_path / "run" / "ava_results.csv").read_text().splitlines()
    truth = (tmp_path / "actors" / "val.csv").read_text().splitlines()
    assert len(lines) == 9 * len(truth)
    again = [*arguments[:-1], f"run.dir={tmp_path / 'other'}", f"data.persons={_persons(tmp_path, truth)}", "data.min_score=0.5"]
    root = [f"data.root={tmp_path / 'actors' / 'videos'}", f"data.label_map={tmp_path / 'actors' / 'actions.csv'}"]
    files = [f"data.annotations={tmp_path / 'actors' / 'train.csv'}", f"data.val_annotations={tmp_path / 'actors' / 'val.csv'}"]
    assert main([*again, *root, *files]) == 0
    assert len((tmp_path / "other" / "ava_results.csv").read_text().splitlines()) == 9 * (len(truth) - 1)


def _persons(folder: Path, truth: list[str]) -> Path:
    """Detected persons: the true boxes, one of them with a low score."""
    rows = [",".join(line.split(",")[:6]) for line in truth]
    (folder / "persons.csv").write_text("".join(f"{row},,{0.3 if place == 0 else 0.9}\n" for place, row in enumerate(rows)))
    return folder / "persons.csv"


def test_same_run_twice_is_the_same(folder, tmp_path):
    losses = []
    for name in ("a", "b"):
        arguments = ["finetune", "video_classify", f"data.root={folder}", *SIZES, *LOOP, "classifier.mix.mixup=0.8", "test.clips=1", "train.steps=2"]
        assert main([*arguments, "classifier.randaugment.layers=2", f"run.dir={tmp_path / name}"]) == 0
        losses.append([row["loss"] for row in read_json_lines(tmp_path / name / "metrics.jsonl") if row["kind"] == "train"])
    assert losses[0] == losses[1] and torch.tensor(losses[0]).isfinite().all()


def _save(path: Path, encoder: torch.nn.Module) -> Path:
    save_encoder(path, encoder, {"step": 1})
    return path


@pytest.mark.parametrize("kind", ["rope", "tokens", "r3d"])
def test_any_encoder_file_is_fine_tuned_and_probed_as_it_is(kind, folder, tmp_path):
    torch.manual_seed(0)
    small = {"dim": 24, "depth": 2, "heads": 2, "clip": (8, 32, 32), "patch": (2, 8, 8)}
    made = {
        "rope": lambda: VisionTransformer(ViTConfig(**small, positions="rope", qkv_bias="full")),
        "tokens": lambda: VisionTransformer(ViTConfig(**small, positions="learned", class_token=True, registers=2, layer_scale=0.1)),
        "r3d": lambda: r3d_18(width=4),
    }[kind]()
    file = _save(tmp_path / "encoder.safetensors", made)
    decay = "train.optim.layer_decay=1" if kind == "r3d" else "train.optim.layer_decay=0.5"
    arguments = ["finetune", "video_classify", f"data.root={folder}", *SIZES[:3], *LOOP, "train.steps=1", "test.clips=1", f"init={file}", decay]
    assert main([*arguments, "twin=scratch", f"run.dir={tmp_path / 'run'}"]) == 0
    arms = tmp_path / "run" / "pretrained" / "seed0", tmp_path / "run" / "scratch" / "seed0"
    described = [read_metadata(arm / "encoder.safetensors")["description"] for arm in arms]
    assert described[0]["class"] == described[1]["class"] == type(made).__name__
    assert main(["evaluate", str(arms[0])]) == 0
    result = evaluate_frozen(file, ["knn"], [f"data.root={folder}", *SIZES[:3], "knn.k=[3]", "device=cpu", f"out={tmp_path / 'out'}", "random=true"])
    assert len(result["entries"]) == 2
    loaded = load_frozen(file, (8, 32, 32))
    x = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), made.eval()(x), atol=1e-5, rtol=1e-4)
