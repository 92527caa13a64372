from __future__ import annotations

import builtins
import lzma
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite3d.pointcloud.data.files import load_points, read_points
from suite3d.pointcloud.data.formats.binary import guess_columns
from suite3d.pointcloud.data.formats.lzf import lzf_decompress
from suite3d.source import BadSample


def scan(rows: int = 500, columns: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(rows, 3)) * [20, 20, 1]
    if columns == 4:
        return np.concatenate([xyz, rng.random((rows, 1))], axis=1).astype("<f4")
    return np.concatenate([xyz, rng.integers(0, 256, (rows, 1)), rng.integers(0, 32, (rows, 1))], axis=1).astype("<f4")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def pcd(rows: np.ndarray, kind: str, *, points: int | None = None, body: bytes | None = None) -> bytes:
    """A PCD file with fields x y z intensity(float) ring(u16)."""
    count = len(rows) if points is None else points
    header = f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity ring\nSIZE 4 4 4 4 2\nTYPE F F F F U\nCOUNT 1 1 1 1 1\nWIDTH {count}\nHEIGHT 1\n"
    header += f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {kind}\n"
    if body is None:
        columns = [rows[:, k].astype("<f4") for k in range(4)] + [rows[:, 4].astype("<u2")]
        if kind == "ascii":
            body = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in rows).encode()
        elif kind == "binary":
            body = b"".join(struct.pack("<ffffH", *map(float, row[:4]), int(row[4])) for row in rows)
        else:
            raw = b"".join(column.tobytes() for column in columns)
            packed = lzf_literals(raw)
            body = struct.pack("<II", len(packed), len(raw)) + packed
    return header.encode() + body


def lzf_literals(raw: bytes) -> bytes:
    return b"".join(bytes([len(raw[k : k + 32]) - 1]) + raw[k : k + 32] for k in range(0, len(raw), 32))


def ply(rows: np.ndarray, kind: str) -> bytes:
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    header = f"ply\nformat {kind} 1.0\ncomment test\nelement vertex {len(rows)}\nproperty float x\nproperty float y\nproperty float z\n"
    header += "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if kind == "ascii":
        body = "".join(f"{r[0]:.9g} {r[1]:.9g} {r[2]:.9g} 255 0 51\n" for r in rows).encode() + b"3 0 1 2\n"
    else:
        body = b"".join(struct.pack(order + "fffBBB", *map(float, r[:3]), 255, 0, 51) for r in rows) + struct.pack(order + "Biii", 3, 0, 1, 2)
    return header.encode() + body


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("compressed", [False, True])
def test_bin_finds_its_columns(tmp_path: Path, columns: int, compressed: bool) -> None:
    rows = scan(columns=columns)
    data = rows.tobytes()
    path = write(tmp_path / ("a.bin.xz" if compressed else "a.bin"), lzma.compress(data) if compressed else data)
    xyz, feats, channels = read_points(path)
    assert channels == (("intensity",) if columns == 4 else ("intensity", "ring"))
    np.testing.assert_array_equal(xyz, rows[:, :3])
    np.testing.assert_allclose(feats[:, 0], rows[:, 3] / (1 if columns == 4 else 255), rtol=1e-6)
    if columns == 5:
        np.testing.assert_array_equal(feats[:, 1], rows[:, 4])


@pytest.mark.parametrize("rows", [20, 100, 1000])
def test_width_is_found_where_the_size_fits_both(rows: int) -> None:
    for seed in range(20):
        assert guess_columns(scan(rows, 4, seed).ravel()) == 4
        assert guess_columns(scan(rows, 5, seed).ravel()) == 5


@pytest.mark.parametrize("width", [3, 6])
def test_other_widths_are_refused_not_misread(width: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.random((2000, 3)) * [8, 8, 3], rng.random((2000, 3)) * 255], axis=1)[:, :width].astype("<f4")
    with pytest.raises(ValueError, match="columns="):
        guess_columns(rows.ravel())


def test_explicit_columns_are_checked_against_the_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", scan(400, 5).tobytes())
    with pytest.raises(BadSample, match="look like 5"):
        load_points(path, 4)
    path = write(tmp_path / "b.bin", scan(400, 4).tobytes())
    with pytest.raises(BadSample, match="look like 4"):
        load_points(path, 5)


def test_channels_name_the_columns(tmp_path: Path) -> None:
    rows = np.concatenate([scan(50), np.linspace(-0.1, 0, 50)[:, None]], axis=1).astype("<f4")
    path = write(tmp_path / "a.bin", rows.tobytes())
    points = load_points(path, channels=("_", "time"))
    assert points.channels == ("time",)
    np.testing.assert_array_equal(points.feats[:, 0], rows[:, 4])
    with pytest.raises(ValueError, match="unknown channel 'speed'"):
        load_points(path, channels=("intensity", "speed"))


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty bin": ("a.bin", b"", "empty file"),
    "odd bytes": ("a.bin", scan().tobytes()[:-3], "whole number of float32"),
    "cut row": ("a.bin", scan(501).tobytes()[:-4], "neither 4 nor 5|does not look like"),
    "text as bin": ("a.bin", b"this is no scan at all, just some text that goes on and on......"[:64], "columns"),
    "all nan": ("a.bin", np.full((10, 4), np.nan, "<f4").tobytes(), "columns=|NaN"),
    "tenth nan": ("a.bin", np.where(np.arange(500)[:, None] % 10 == 0, np.nan, scan()).astype("<f4").tobytes(), r"50 of 500 points \(10%\)"),
    "truncated xz": ("a.bin.xz", lzma.compress(scan().tobytes())[:-40], "."),
    "not xz": ("a.bin.xz", scan().tobytes(), "."),
    "short nuscenes": ("a.pcd.bin", scan(400, 5).tobytes()[:-8], "5 columns"),
    "npy garbage": ("a.npy", b"\x93NUMPY garbage", "."),
    "npz garbage": ("a.npz", b"PK garbage", "."),
    "pcd without data": ("a.pcd", b"VERSION 0.7\nFIELDS x y z\n", "DATA"),
    "not a pcd": ("a.pcd", bytes(range(256)) * 8, "not a PCD"),
    "pcd no z": ("a.pcd", b"FIELDS x y\nSIZE 4 4\nTYPE F F\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2\n", "no column 'z'"),
    "pcd short ascii": ("a.pcd", pcd(scan(5, 5), "ascii", points=9), "truncated|expected 9"),
    "pcd short binary": ("a.pcd", pcd(scan(5, 5), "binary", points=9), "truncated"),
    "pcd short lzf": ("a.pcd", pcd(scan(5, 5), "binary_compressed")[:-9], "truncated"),
    "pcd bad lzf": ("a.pcd", pcd(scan(5, 5), "binary_compressed", body=struct.pack("<II", 3, 90) + b"\xe0\xff\xff"), "corrupt"),
    "pcd odd data": ("a.pcd", pcd(scan(5, 5), "binary").replace(b"DATA binary", b"DATA zipped"), "zipped"),
    "pcd no points": ("a.pcd", pcd(scan(0, 5), "binary"), "no points"),
    "pcd type": ("a.pcd", pcd(scan(5, 5), "binary").replace(b"TYPE F F", b"TYPE Q F"), "TYPE 'Q'"),
    "not a ply": ("a.ply", b"solid cube\n", "not a PLY"),
    "ply no end": ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "end_header"),
    "ply short": ("a.ply", ply(scan(8), "binary_little_endian")[:200], "truncated|end_header"),
    "ply short ascii": ("a.ply", ply(scan(8), "ascii")[:330], "."),
    "ply only faces": ("a.ply", b"ply\nformat ascii 1.0\nelement face 0\nproperty float q\nend_header\n", "no vertex"),
    "not a las": ("a.las", b"LASF" + bytes(100), "."),
    "las text": ("a.las", b"hello world" * 40, "."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_and_refused(tmp_path: Path, case: str) -> None:
    name, data, reason = BROKEN[case]
    if name.endswith(".las"):
        pytest.importorskip("laspy")
    path = write(tmp_path / name, data)
    with pytest.raises(BadSample, match=reason) as caught:
        load_points(path)
    assert caught.value.path == str(path) and caught.value.reason


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="unreadable"):
        load_points(tmp_path / "none.bin")
    with pytest.raises(ValueError, match=r"\.laz"):
        load_points(write(tmp_path / "a.obj", b"v 0 0 0"))
    with pytest.raises(BadSample):
        load_points(tmp_path / "dir.bin" if (tmp_path / "dir.bin").mkdir() is None else tmp_path)


def test_few_nan_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = scan()
    rows[[3, 77]] = np.nan
    rows[100, 3] = np.inf
    points = load_points(write(tmp_path / "a.bin", rows.tobytes()))
    assert points.dropped == 3
    np.testing.assert_array_equal(points.xyz, np.delete(rows, [3, 77, 100], axis=0)[:, :3])


def test_organised_pcd_may_be_mostly_nan(tmp_path: Path) -> None:
    rows = scan(100, 5)
    rows[:80, :3] = np.nan
    points = load_points(write(tmp_path / "a.pcd", pcd(rows, "binary")))
    assert points.dropped == 80 and len(points.xyz) == 20


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd_kinds_agree(tmp_path: Path, kind: str) -> None:
    rows = scan(200, 5)
    points = load_points(write(tmp_path / "a.pcd", pcd(rows, kind)))
    assert points.channels == ("intensity", "ring") and points.intensity_scale == 255
    np.testing.assert_allclose(points.xyz, rows[:, :3], rtol=1e-6)
    np.testing.assert_array_equal(points.feats[:, 1], rows[:, 4])


def test_lzf_back_references() -> None:
    # 3 literals, then 9 + 7 bytes copied from distance 3 (overlapping), then a short copy from distance 2
    stream = bytes([2]) + b"abc" + bytes([(7 << 5) | 0, 7, 2]) + bytes([(1 << 5) | 0, 1])
    whole = bytearray(b"abc")
    for count, distance in ((7 + 2 + 7, 3), (3, 2)):
        for _ in range(count):
            whole.append(whole[-distance])
    assert lzf_decompress(stream, len(whole)).tobytes() == bytes(whole)
    for size in (len(whole) - 1, len(whole) + 1):
        with pytest.raises(ValueError, match="expected"):
            lzf_decompress(stream, size)
    with pytest.raises(ValueError, match="corrupt"):
        lzf_decompress(bytes([(1 << 5) | 0, 1]), 3)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_kinds_agree(tmp_path: Path, kind: str) -> None:
    rows = scan(50)
    points = load_points(write(tmp_path / "a.ply", ply(rows, kind)))
    assert points.channels == ("r", "g", "b")
    np.testing.assert_allclose(points.xyz, rows[:, :3], rtol=1e-6)
    np.testing.assert_allclose(points.feats, np.tile([1, 0, 0.2], (50, 1)), atol=1e-6)


def test_numpy_layouts(tmp_path: Path) -> None:
    rows = scan(64)
    np.save(tmp_path / "plain.npy", rows)
    named = np.zeros(64, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("reflectivity", "u1"), ("t", "u4")])
    named["x"], named["y"], named["z"] = rows[:, :3].T
    named["reflectivity"], named["t"] = 51, np.arange(64) * 1_000_000
    np.save(tmp_path / "named.npy", named)
    np.savez(tmp_path / "parts.npz", xyz=rows[:, :3], intensity=rows[:, 3], boxes=np.zeros((3, 7)))
    np.savez(tmp_path / "points.npz", points=rows)
    for name in ("plain.npy", "parts.npz", "points.npz"):
        points = load_points(tmp_path / name)
        assert points.channels == ("intensity",)
        np.testing.assert_array_equal(np.column_stack([points.xyz, points.feats]), rows)
    points = load_points(tmp_path / "named.npy")
    assert points.channels == ("intensity", "time")
    np.testing.assert_allclose(points.feats[:, 0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(points.feats[:, 1], (np.arange(64) - 63) * 1e-3, atol=1e-7)
    np.save(tmp_path / "six.npy", np.zeros((4, 6)))
    with pytest.raises(BadSample, match="channels="):
        load_points(tmp_path / "six.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample):
        load_points(tmp_path / "object.npy")


def test_far_coordinates_keep_their_millimetres(tmp_path: Path) -> None:
    near = np.random.default_rng(0).random((50, 3)) * 100
    np.save(tmp_path / "far.npy", near + [4_500_000.0, 5_700_000.0, 300])
    points = load_points(tmp_path / "far.npy")
    np.testing.assert_allclose(points.xyz + points.origin, near + [4_500_000.0, 5_700_000.0, 300], atol=1e-4)
    assert np.abs(points.xyz).max() < 200


def test_missing_laspy_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "laspy":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'suite3d\[las\]'"):
        load_points(write(tmp_path / "a.las", b"LASF"))


def test_real_las_agrees_with_laspy(shared_data: Path) -> None:
    laspy = pytest.importorskip("laspy")
    for name in ("simple.las", "simple.laz", "autzen_trim.laz"):
        points, cloud = load_points(shared_data / "las" / name), laspy.read(shared_data / "las" / name)
        np.testing.assert_allclose(points.xyz + points.origin, cloud.xyz, atol=2e-3)
        np.testing.assert_allclose(points.feats[:, 0], np.asarray(cloud.intensity) / points.intensity_scale, rtol=1e-6)


# (points, sum of |x|, |y|, |z|) as Open3D 0.19 reads these files
REAL_CLOUDS = {
    "bunny.pcd": (397, [17.7687, 40.7531, 12.7330]),  # ascii
    "car6.pcd": (10031, [375096.4950, 647618.8002, 63155.1101]),  # binary_compressed
    "colored_cloud.pcd": (1000, [440.7133, 513.7772, 1210.1030]),  # binary
    "cube.ply": (24, [24, 24, 24]),
    "milk.pcd": (13704, [779.2814, 1874.0773, 10610.0294]),  # binary_compressed
}


@pytest.mark.parametrize("name", REAL_CLOUDS)
def test_real_clouds_agree_with_open3d(shared_data: Path, name: str) -> None:
    points = load_points(shared_data / "pcd" / name)
    count, sums = REAL_CLOUDS[name]
    assert len(points.xyz) == count
    np.testing.assert_allclose(np.abs(points.xyz.astype(np.float64)).sum(axis=0), sums, atol=1e-3)


def test_real_scans(shared_data: Path) -> None:
    kitti = load_points(shared_data / "kitti_object/training/velodyne/000008.bin")
    assert kitti.channels == ("intensity",) and kitti.xyz.shape == (122555, 3) and kitti.intensity_scale == 1
    nuscenes = load_points(next((shared_data / "nuscenes_keyframe/samples/LIDAR_TOP").glob("*.bin")))
    assert nuscenes.channels == ("intensity", "ring") and len(nuscenes.xyz) == 34752
    assert set(np.unique(nuscenes.feats[:, 1])) == set(range(32))
