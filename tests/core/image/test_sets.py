"""Pictures from folders, class folders, shards, digits and fractals; damaged ones are named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from suite3d.image.data import fractals
from suite3d.image.data.fractals import FractalConfig, Fractals, draw_system
from suite3d.image.data.sets import Digits, ImageFolder
from suite3d.image.recipes.data import ImageDataConfig, build_images, describe_images, has_validation
from suite3d.report.png import write_png
from suite3d.source import BadSample


def picture(value: int, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def test_a_bare_folder_is_read_recursively_in_natural_order_without_labels(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for number, place in ((10, "10.png"), (2, "2.png"), (77, "deep/deeper/1.png")):
        write_png(tmp_path / place, picture(number))
    images = ImageFolder(tmp_path)
    assert [images.name(index) for index in range(len(images))] == ["2.png", "10.png", "deep/deeper/1.png"]
    assert images.classes == () and images.label(0) is None
    assert np.array_equal(images.read(2), picture(77))


def test_folders_are_classes_only_where_every_picture_lies_in_one(tmp_path: Path) -> None:
    for place in ("train/cat/a.png", "train/dog/b.png", "val/dog/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / place, picture(5))
    config = ImageDataConfig(root=tmp_path)
    train, val = build_images(config), build_images(config, validation=True)
    assert train.classes == val.classes == ("cat", "dog") and has_validation(config)
    assert [train.label(index) for index in range(len(train))] == [0, 1] and val.label(0) == 1, "a class missing in val keeps the numbers"
    write_png(tmp_path / "train" / "loose.png", picture(5))
    assert ImageFolder(tmp_path / "train").classes == ()
    (tmp_path / "val" / "bird").mkdir()
    write_png(tmp_path / "val" / "bird" / "d.png", picture(5))
    with pytest.raises(ValueError, match="class folder 'bird'"):
        ImageFolder(tmp_path, "val", classes=("cat", "dog"))


def test_shards_carry_pictures_and_class_numbers(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", picture(9))
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").unlink()
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for name, content in (("a.png", data), ("a.cls", b"3\n"), ("b.png", data)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    images = ImageFolder(tmp_path)
    assert [images.label(index) for index in range(2)] == [3, None] and len(images.classes) == 4
    assert np.array_equal(images.read(1), picture(9)) and images.name(0) == "shard-0.tar/a.png"


@pytest.mark.parametrize(("content", "reason"), [(b"", "zero bytes"), (b"hello", "not a picture"), (b"\x89PNG\r\n\x1a\n123", "")])
def test_a_damaged_picture_is_a_bad_sample_that_names_the_file(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadSample, match=f"bad.png.*{reason}"):
        ImageFolder(tmp_path).read(0)


def test_empty_and_missing_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no picture"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        build_images(ImageDataConfig(root=tmp_path / "nowhere"))


def test_digits_are_scikit_learns_and_their_splits_share_none() -> None:
    pytest.importorskip("sklearn")
    train, val = Digits("train"), Digits("val")
    assert len(train) == 1437 and len(val) == 360 and train.read(0).shape == (8, 8, 3)
    assert np.bincount([val.label(index) for index in range(360)], minlength=10).min() > 30
    assert describe_images(ImageDataConfig(kind="digits")) == "scikit-learn digits"


def test_fractals_are_a_function_of_seed_split_and_index() -> None:
    config = FractalConfig(classes=3, train=2, val=1, size=32, points=4000)
    first, again, val = Fractals(config), Fractals(config), Fractals(config, "val")
    assert len(first) == 6 and len(val) == 3 and [first.label(index) for index in range(4)] == [0, 1, 2, 0]
    assert np.array_equal(first.read(4), again.read(4)) and not np.array_equal(first.read(0), val.read(0))
    assert not np.array_equal(first.read(0), Fractals(FractalConfig(classes=3, size=32, seed=1)).read(0))
    lit = (first.read(1).astype(int) - np.median(first.read(1), axis=(0, 1))).any(axis=2).mean()
    assert 0.02 < lit, "something is drawn"


def test_fractals_are_drawn_once_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FractalConfig(classes=2, train=2, val=1, size=16, points=501)
    drawn: list[int] = []
    draw = Fractals._draw
    monkeypatch.setattr(Fractals, "_draw", lambda self, index, *camera: drawn.append(index) or draw(self, index, *camera))
    monkeypatch.setattr(fractals, "KEPT_BYTES", 2 * 16 * 16 * 3)
    pictures = Fractals(config)
    first = [pictures.read(index) for index in range(3)]
    assert all(np.array_equal(pictures.read(index), first[index]) for index in range(3))
    assert drawn == [0, 1, 2, 2], "two fit"


def test_fractal_pairs_show_the_same_fractal_from_elsewhere() -> None:
    images = Fractals(FractalConfig(classes=2, size=32, points=4000))
    rng = np.random.default_rng(0)
    one, two = images.pairs(0, rng), images.pairs(0, rng)
    assert one.shape == (32, 32, 3) and not np.array_equal(one, two)
    assert abs(one.astype(float).mean() - images.read(0).mean()) < 25, "the same colours"


@pytest.mark.parametrize("seed", range(5))
def test_systems_of_maps_contract_and_fill_the_picture(seed: int) -> None:
    maps, weights = draw_system(np.random.default_rng(seed))
    values = np.linalg.svd(maps[:, :, :2], compute_uv=False)
    assert values.max() < 1 and weights.sum() == pytest.approx(1)
    total = (values @ np.array([1.0, 2.0])).sum()
    assert (5 + len(maps)) / 2 - 0.3 < total < (6 + len(maps)) / 2 + 1e-6
