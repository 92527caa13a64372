"""Frames of any size through encoders, label files of every kind, and the layout of DAVIS."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.evaluate.frame_encoder import FrameEncoder, resized
from suite3d.evaluate.token_labels import IGNORED
from suite3d.image.backbones.resnet import ResNet
from suite3d.image.data.davis import davis_videos
from suite3d.image.data.masks import read_labels
from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.report.png import encode_png, write_png
from suite3d.source import BadSample

PIXELS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def label_png(values: np.ndarray, *, depth: int = 8, palette: bool = True) -> bytes:
    """A palette or grey PNG of any depth, by the format's definition: rows of packed big-endian values without filter."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    height, width = values.shape
    rows = b""
    for row in values:
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0))
    colors = chunk(b"PLTE", bytes(range(3 * 2**depth)) if depth < 8 else bytes(range(256)) * 3) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + head + colors + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


KINDS = [(depth, palette) for palette in (True, False) for depth in (1, 2, 4, 8)] + [(16, False)]


@pytest.mark.parametrize(("depth", "palette"), KINDS)
def test_label_values_come_as_they_are_stored(depth: int, palette: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(depth).integers(0, min(2**depth, 5000), (7, 13))
    (tmp_path / "labels.png").write_bytes(label_png(values, depth=depth, palette=palette))
    assert (read_labels(tmp_path / "labels.png") == values).all()


def test_label_files_that_hold_no_labels_are_refused(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 9, (5, 6, 1)).astype(np.uint8)
    write_png(tmp_path / "grey.png", np.repeat(grey, 3, axis=2))
    assert (read_labels(tmp_path / "grey.png") == grey[..., 0]).all()
    write_png(tmp_path / "colour.png", np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8))
    (tmp_path / "cut.png").write_bytes(label_png(np.zeros((40, 40), int))[:60])
    for name, message in (("colour.png", "coloured"), ("cut.png", "picture"), ("absent.png", "cannot be read")):
        with pytest.raises(BadSample, match=message):
            read_labels(tmp_path / name)


@pytest.mark.parametrize("positions", ["sincos_flat", "sincos_2d", "learned", "rope"])
def test_frames_of_the_encoders_own_size_get_its_own_tokens(positions: str) -> None:
    config = ViTConfig(dim=24, depth=2, heads=2, clip=(1, 16, 24), patch=(1, 8, 8), positions=positions, class_token=True)  # type: ignore[arg-type]
    encoder = VisionTransformer(config, generator=torch.Generator().manual_seed(0)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
    found = FrameEncoder(encoder=encoder, size=16, batch=2, **PIXELS)(frames)  # type: ignore[arg-type]
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = encoder((torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(found.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (3, 2, 3, 24)
    large = FrameEncoder(encoder=encoder, size=32, **PIXELS)(np.zeros((2, 50, 101, 3), np.uint8))  # type: ignore[arg-type]
    assert large.shape == (2, 4, 8, 24), "the aspect stays, up to whole patches"


def test_a_clip_encoder_sees_a_still_clip_at_its_first_moment() -> None:
    config = ViTConfig(dim=24, depth=0, heads=2, clip=(8, 16, 16), patch=(2, 8, 8), positions="sincos")
    encoder = VisionTransformer(config).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    found = FrameEncoder(encoder=encoder, size=16, **PIXELS)(frames)  # type: ignore[arg-type]
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    still = ((torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std)[:, :, None].expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        whole = encoder(still).view(2, 4, 2, 2, 24)  # without blocks every token stands alone
    torch.testing.assert_close(found, whole[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, whole[:, 1])
    with pytest.raises(ValueError, match="at most 8 frames"):
        resized(encoder, (10, 16, 16))


def test_convolutional_encoders_give_their_map() -> None:
    encoder = ResNet(18, width=8).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    found = FrameEncoder(encoder=encoder, size=64, **PIXELS)(frames)  # type: ignore[arg-type]
    assert found.shape == (2, 2, 3, encoder.embed_dim)


def davis(root: Path, *, first: int = 0, white: bool = False) -> None:
    """Two videos of 5 frames with a moving square, one of them not in the list, one frame of the other without a mask."""
    for video in ("apple", "ball", "spare"):
        for frame in range(5):
            labels = np.zeros((24, 40), int)
            labels[4:14, 5 + 3 * frame : 15 + 3 * frame] = 255 if white else 2
            for part in ("JPEGImages/480p", "Annotations/480p"):
                (root / part / video).mkdir(parents=True, exist_ok=True)
            write_png(root / "JPEGImages/480p" / video / f"{frame:05d}.png", np.repeat((labels[..., None] > 0) * 200, 3, axis=2).astype(np.uint8))
            if frame >= first and not (video == "ball" and frame == 2):
                (root / "Annotations/480p" / video / f"{frame:05d}.png").write_bytes(label_png(labels, palette=not white))
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("apple\nball\n")


def test_davis_layout_is_read(tmp_path: Path) -> None:
    davis(tmp_path / "a")
    videos = davis_videos(tmp_path / "a")
    assert [video.name for video in videos] == ["apple", "ball"]
    frames, masks = videos[1].load()
    assert frames.shape == (5, 24, 40, 3) and (masks[2] == IGNORED).all() and set(np.unique(masks[[0, 1, 3, 4]])) == {0, 2}
    assert ((frames[0, ..., 0] > 100) == (masks[0] == 2)).all()
    davis(tmp_path / "b", first=1, white=True)
    frames, masks = davis_videos(tmp_path / "b")[0].load()
    assert len(frames) == 4 and set(np.unique(masks)) == {0, 1}, "what comes before the first mask is left out; white is object 1"
    (tmp_path / "a/Annotations/480p/apple/00001.png").write_bytes(label_png(np.zeros((3, 3), int)))
    with pytest.raises(BadSample, match="several sizes"):
        videos[0].load()
    with pytest.raises(ValueError, match="there is no"):
        davis_videos(tmp_path / "nowhere")
    (tmp_path / "a/ImageSets/2017/val.txt").write_text("other\n")
    with pytest.raises(ValueError, match="no video"):
        davis_videos(tmp_path / "a")


def test_image_runs_follow_objects_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    davis(tmp_path / "davis")
    (tmp_path / "davis/JPEGImages/480p/ball/00003.png").write_bytes(encode_png(np.zeros((3, 3, 3), np.uint8))[:40])
    small = ["data.fractals={classes: 2, train: 4, val: 2, size: 24, points: 500}", "augment.size=24", "train.steps=1", "train.batch_size=4"]
    small += ["train.workers=0", "encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "decoder.dim=16", "decoder.depth=1", "decoder.heads=2"]
    run = tmp_path / "run"
    assert main(["pretrain", "mae", *small, "encoder.patch=8", "train.probe_every=0", f"run.dir={run}"]) == 0
    assert main(["evaluate", str(run), "propagation", f"propagation.root={tmp_path / 'davis'}", "random=true"]) == 0
    result = json.loads((run / "evaluate/result.json").read_text())
    trained, random = result["entries"]
    assert list(trained["metrics"]) == ["J&F", "J", "F", "J recall", "F recall", "J&F kept", "J&F limit"] and random["weights"] == "random weights"
    assert trained["protocol"]["tokens"] == "3 x 5 a frame" and "aspect kept; each as a picture" in trained["protocol"]["frames"]
    assert len(trained["skipped"]) == 1 and "00003" in trained["skipped"][0]
    assert main(["evaluate", str(run), "propagation"]) == 2
    assert "propagation.root=FOLDER" in capsys.readouterr().err
