"""Object sets: folders in their layouts, broken files, meshes by area, and the procedural shapes."""

from __future__ import annotations

import numpy as np
import pytest

from suite3d.pointcloud.data.objects.catalogue import CATALOGUE
from suite3d.pointcloud.data.objects.mesh import Mesh, read_obj, read_off, sample_surface
from suite3d.pointcloud.data.objects.primitives import box, superquadric, supertoroid
from suite3d.pointcloud.data.objects.sets import NORMALS, ObjectFolder, has_split
from suite3d.pointcloud.data.objects.synthetic import ShapeConfig, Shapes
from suite3d.source import BadSample

RNG = np.random.default_rng(0)
CUBE = """OFF
8 6 0
0 0 0
1 0 0
1 1 0
0 1 0
0 0 1
1 0 1
1 1 1
0 1 1
4 0 3 2 1
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


def volume(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def write_cloud(path, points=20, normals=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = RNG.standard_normal((points, 3)).astype(np.float32)
    if normals:
        rows = np.concatenate([rows, rows / np.linalg.norm(rows, axis=1, keepdims=True)], axis=1)
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, points=rows)
    elif path.suffix == ".ply":
        body = "\n".join(" ".join(map(str, row)) for row in rows)
        path.write_text(f"ply\nformat ascii 1.0\nelement vertex {points}\nproperty float x\nproperty float y\nproperty float z\nend_header\n{body}\n")
    elif path.suffix == ".pcd":
        body = "\n".join(" ".join(map(str, row)) for row in rows)
        head = f"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {points}\nHEIGHT 1\nPOINTS {points}\nDATA ascii\n"
        path.write_text(head + body + "\n")
    else:
        path.write_text("\n".join(",".join(f"{value:.6f}" for value in row) for row in rows) + "\n")
    return rows


def test_every_format_reads_what_was_written(tmp_path):
    rows = {suffix: write_cloud(tmp_path / "cup" / f"a{suffix}") for suffix in (".npy", ".npz", ".ply", ".pcd", ".txt", ".xyz", ".pts")}
    folder = ObjectFolder(tmp_path)
    assert folder.classes == () and folder.label(0) is None, "one folder is no class"
    assert len(folder) == len(rows)
    for index in range(len(folder)):
        frame = folder.frame(index)
        np.testing.assert_allclose(frame.xyz, rows[folder.files[index].suffix], atol=1e-5)
        assert frame.feats.shape == (20, 0) and frame.xyz.dtype == np.float32


def test_upright_turns_and_does_not_mirror(tmp_path):
    rows = write_cloud(tmp_path / "a.npy", normals=True)
    for up, axis in (("x", 0), ("y", 1), ("z", 2)):
        frame = ObjectFolder(tmp_path, up=up, channels=NORMALS).frame(0)
        np.testing.assert_allclose(frame.xyz[:, 2], rows[:, axis])
        np.testing.assert_allclose(np.linalg.det(frame.xyz[:3]), np.linalg.det(rows[:3, :3]), rtol=1e-4)
        np.testing.assert_allclose(frame.feats[:, 2], rows[:, 3 + axis], atol=1e-6)


def test_splits_of_the_three_layouts(tmp_path):
    lists = tmp_path / "resampled"  # ModelNet40 resampled: files beside lists
    for name in ("cup_0001", "cup_0002", "car_0001", "car_0002"):
        write_cloud(lists / name.split("_")[0] / f"{name}.txt", normals=True)
    (lists / "modelnet40_train.txt").write_text("cup_0001\ncar_0001\n")
    (lists / "modelnet40_test.txt").write_text("cup_0002\ncar_0002\n")
    (lists / "modelnet10_train.txt").write_text("cup_0001\n")
    (lists / "modelnet10_test.txt").write_text("cup_0002\n")
    (lists / "modelnet40_shape_names.txt").write_text("car\ncup\n")
    inner = tmp_path / "modelnet"  # ModelNet: class/split/file
    outer = tmp_path / "outer"  # split/class/file
    for name, part in (("cup_0001", "train"), ("cup_0002", "test"), ("car_0001", "train"), ("car_0002", "test")):
        write_cloud(inner / name.split("_")[0] / part / f"{name}.npy")
        write_cloud(outer / part / name.split("_")[0] / f"{name}.npy")
    for root in (lists, inner, outer):
        train = ObjectFolder(root)
        val = ObjectFolder(root, "val", classes=train.classes)
        assert train.classes == ("car", "cup") and has_split(root)
        assert [path.stem for path in train.files] == ["car_0001", "cup_0001"] and [train.label(0), train.label(1)] == [0, 1]
        assert [path.stem for path in val.files] == ["car_0002", "cup_0002"]
    bare = tmp_path / "bare"
    write_cloud(bare / "cup" / "a.npy"), write_cloud(bare / "car" / "b.npy")
    assert len(ObjectFolder(bare)) == 2 and not has_split(bare)
    with pytest.raises(ValueError, match="no object of the split 'val'"):
        ObjectFolder(bare, "val")
    (lists / "modelnet40_train.txt").write_text("cup_0001\ncup_0009\n")
    with pytest.raises(ValueError, match="cup_0009"):
        ObjectFolder(lists)
    with pytest.raises(ValueError, match="class folder 'cup'"):
        ObjectFolder(outer, classes=("car", "jug"))
    with pytest.raises(ValueError, match="not a folder"):
        ObjectFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="channels"):
        ObjectFolder(outer, channels=("r",))


BROKEN = {
    "empty.off": "",
    "word.off": "OFX\n1 0 0\n0 0 0\n",
    "short.off": "OFF\n8 6 0\n0 0 0\n",
    "corner.off": "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n",
    "flat.off": "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n",
    "words.off": "OFF\n3 1 0\n0 0 0\n1 zero 0\n0 1 0\n3 0 1 2\n",
    "plane.off": "OFF\n3 1 0\n0 0\n1 0\n0 1\n3 0 1 0\n",
    "plane.obj": "v 0 0\nv 1 0\nv 0 1\nf 1 2 1\n",
    "none.obj": "# nothing\nvn 0 0 1\n",
    "far.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n",
    "zero.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n",
    "back.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -4\n",
    "words.obj": "v 0 zero 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "short.obj": "v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "ragged.txt": "1 2 3\n1 2\n",
    "wide.txt": "1 2 3 4 5\n1 2 3 4 5\n",
    "nan.txt": "1 2 nan\n1 2 3\n",
    "colours.txt": "1 2 3 255 255 0\n1 2 3 0 255 0\n",
    "void.txt": "",
    "cut.npy": "\x93NUMPY",
    "cut.ply": "ply\nformat ascii 1.0\n",
    "cut.npz": "PK",
    "cut.pcd": "VERSION .7\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_bad_samples(name, tmp_path):
    (tmp_path / name).write_text(BROKEN[name])
    with pytest.raises(BadSample, match=name):
        ObjectFolder(tmp_path).frame(0)


def test_normals_are_asked_for(tmp_path):
    write_cloud(tmp_path / "a.npy")
    with pytest.raises(BadSample, match="no normals"):
        ObjectFolder(tmp_path, channels=NORMALS).frame(0)


def test_off_meshes_are_sampled_by_area(tmp_path):
    (tmp_path / "cube.off").write_text(CUBE.replace("OFF\n8", "OFF8"))  # ModelNet's slip
    mesh = read_off(tmp_path / "cube.off")
    assert mesh.faces.shape == (12, 3) and volume(mesh) == pytest.approx(1)
    folder = ObjectFolder(tmp_path, mesh_points=6000, channels=NORMALS)
    frame = folder.frame(0)
    assert np.array_equal(frame.xyz, folder.frame(0).xyz), "the same points every time"
    on_face = np.isclose(frame.xyz, np.round(frame.xyz), atol=1e-6)
    assert on_face.any(axis=1).all()
    sides = (np.abs(frame.xyz - (frame.feats > 0)) < 1e-6)[np.abs(frame.feats) > 0.5]
    assert sides.all(), "the normal of each point looks out of its side"
    shares = [float((frame.feats[:, axis] * sign > 0.5).mean()) for axis in range(3) for sign in (-1, 1)]
    np.testing.assert_allclose(shares, 1 / 6, atol=0.002)
    uneven = Mesh(np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (5, 0, 0), (8, 0, 0), (5, 1, 0)], dtype=float), np.array([(0, 1, 2), (3, 4, 5)]))
    points, _ = sample_surface(uneven, 4000, np.random.default_rng(0))
    assert (points[:, 0] > 4).mean() == pytest.approx(0.75, abs=0.001)
    inside = points[points[:, 0] < 4]
    np.testing.assert_allclose(inside.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.02)  # uniform: at the centroid


def test_obj_is_the_same_mesh(tmp_path):
    lines = CUBE.splitlines()
    vertices, faces = lines[2:10], [line.split()[1:] for line in lines[10:]]
    slashed = [" ".join(f"{int(word) + 1}/7/{int(word) + 1}" for word in face) for face in faces[:3]]
    backwards = [" ".join(str(int(word) - 8) for word in face) for face in faces[3:]]  # -1 is the last vertex
    text = "\n".join(
        ["# a cube", "mtllib x.mtl", *(f"v {line}" for line in vertices), "vn 0 0 1", "s off", *(f"f {face}" for face in slashed + backwards)]
    )
    (tmp_path / "cube.obj").write_text(text)
    (tmp_path / "cube.off").write_text(CUBE)
    mesh, twin = read_obj(tmp_path / "cube.obj"), read_off(tmp_path / "cube.off")
    assert np.array_equal(mesh.vertices, twin.vertices) and np.array_equal(mesh.faces, twin.faces)
    assert len(ObjectFolder(tmp_path, mesh_points=50).frame(0).xyz) == 50


def test_primitives_are_closed_surfaces_that_look_outwards():
    assert volume(superquadric(steps=48)) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert volume(box(1, 2, 3)) == pytest.approx(6)
    assert volume(supertoroid(ring=1, tube=0.3, steps=48)) == pytest.approx(2 * np.pi**2 * 0.09, rel=0.01)
    for kind in CATALOGUE:
        for seed in range(3):
            mesh = kind(np.random.default_rng(seed))
            assert volume(mesh) > 0.03 and volume(mesh.moved(np.diag([-1.0, 1, 1]))) == pytest.approx(volume(mesh)), kind.__name__


def test_shapes_are_a_pure_function_of_seed_and_index():
    config = ShapeConfig(train=3, val=2, points=300)
    shapes = Shapes(config)
    assert len(shapes) == 45 and len(Shapes(config, "val")) == 30 and len(set(shapes.classes)) == 15
    assert len({shapes.name(index) for index in range(45)}) == 45
    for index in (0, 17, 44):
        frame, again = shapes.frame(index), Shapes(config).frame(index)
        assert np.array_equal(frame.xyz, again.xyz) and np.array_equal(frame.feats, again.feats)
        assert frame.xyz.shape == (300, 3) and frame.channels == NORMALS
        np.testing.assert_allclose(np.linalg.norm(frame.feats, axis=1), 1, atol=1e-5)
        assert shapes.classes[shapes.label(index)] in frame.name
    other = [Shapes(ShapeConfig(train=3, points=300, seed=1)).frame(17), Shapes(config, "val").frame(17), shapes.frame(2)]
    assert all(not np.allclose(one.xyz, shapes.frame(17).xyz) for one in other)
    for bad in ({"classes": 16}, {"train": 0}, {"noise": -1}):
        with pytest.raises(ValueError):
            ShapeConfig(**bad)
    with pytest.raises(ValueError, match="train and val"):
        Shapes(config, "test")
