"""OpenPCDet files: names, layouts, counts, and what must be refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.interop.load import LoadRefused
from suite3d.interop.save import save_encoder
from suite3d.ops import SparseConv3d, SparseTensor, SubMConv3d
from suite3d.pointcloud.detection.detector import build_detector
from suite3d.pointcloud.detection.presets import kitti_second
from suite3d.pointcloud.encoders import SST, LidarEncoder, PillarEncoder, SSTConfig, VoxelBackBone8x, VoxelGrid, VoxelResBackBone8x
from suite3d.pointcloud.interop.export import export_run
from suite3d.pointcloud.interop.initialise import initialise_encoder
from suite3d.pointcloud.interop.layouts import LAYOUTS, UndecidedLayout, decide_layout, from_layout, to_layout
from suite3d.pointcloud.interop.load import load_lidar_weights
from suite3d.pointcloud.interop.openpcdet import read_openpcdet, save_openpcdet, to_openpcdet

GRID = VoxelGrid(point_range=(0.0, 0.0, 0.0, 1.6, 1.6, 2.4), voxel_size=(0.1, 0.1, 0.1))
BOTH = pytest.mark.parametrize("cls", [VoxelBackBone8x, VoxelResBackBone8x])


def make(cls: type, seed: int = 0, channels: tuple[str, ...] = ("intensity",), width: float = 0.25) -> LidarEncoder:
    return cls(GRID, channels=channels, width=width, generator=torch.Generator().manual_seed(seed))


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def strip_record(path: Path) -> None:
    """Make the file look as if OpenPCDet itself had written it."""
    content = torch.load(path, weights_only=True)
    del content["suite3d"]
    torch.save(content, path)


@pytest.mark.parametrize("layout", LAYOUTS)
@BOTH
@pytest.mark.parametrize("recorded", [True, False])
def test_out_and_in_is_bit_exact(tmp_path: Path, cls: type, layout: str, recorded: bool) -> None:
    source, target = make(cls), make(cls, seed=1)
    count = save_openpcdet(tmp_path / "a.pth", source.state_dict(), layout=layout, step=12)
    if not recorded:
        strip_record(tmp_path / "a.pth")
    report = load_lidar_weights(target, tmp_path / "a.pth", echo=None)
    assert report.share == 1 and len(report.matched) == count - 1 and not report.unexpected
    assert same(source, target)
    assert "global_step 12" in report.source


def test_plain_safetensors_without_a_record(tmp_path: Path) -> None:
    source, target = make(VoxelBackBone8x), make(VoxelBackBone8x, seed=1)
    state = to_openpcdet(source.state_dict(), layout="spconv1")
    save_file(state, tmp_path / "a.safetensors")
    report = load_lidar_weights(target, tmp_path / "a.safetensors", echo=None)
    assert same(source, target) and report.unexpected == ("global_step",)


def test_file_has_openpcdets_entries(tmp_path: Path) -> None:
    save_openpcdet(tmp_path / "a.pth", make(VoxelBackBone8x, width=1).state_dict(), layout="spconv1", epoch=3, step=40)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(content)[:5] == ["epoch", "it", "model_state", "optimizer_state", "version"]
    state = content["model_state"]
    assert next(iter(state)) == "global_step" and state["global_step"].tolist() == [40]
    assert state["backbone_3d.conv_input.0.weight"].shape == (3, 3, 3, 4, 16)
    assert state["backbone_3d.conv_out.0.weight"].shape == (3, 1, 1, 64, 128)
    assert len(state) == 73


def second_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of OpenPCDet's SECOND on KITTI with spconv >= 2.2: 163 tensors."""
    shapes: dict[str, tuple[int, ...]] = {"global_step": (1,)}

    def norm(name: str, width: int) -> None:
        shapes.update(
            {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {f"{name}.num_batches_tracked": ()}
        )

    convs = {
        "conv_input": (16, 3, 3, 3, 4),
        "conv1.0": (16, 3, 3, 3, 16),
        "conv2.0": (32, 3, 3, 3, 16),
        "conv3.0": (64, 3, 3, 3, 32),
        "conv_out": (128, 3, 1, 1, 64),
    }
    convs |= {f"conv2.{i}": (32, 3, 3, 3, 32) for i in (1, 2)}
    convs |= {f"conv{s}.{i}": (64, 3, 3, 3, 64) for s, i in ((3, 1), (3, 2), (4, 0), (4, 1), (4, 2))}
    for name, shape in convs.items():
        shapes[f"backbone_3d.{name}.0.weight"] = shape
        norm(f"backbone_3d.{name}.1", shape[0])
    for stage, (cin, cout) in enumerate(((256, 128), (128, 256))):
        for layer in range(6):
            index = 1 + 3 * layer
            shapes[f"backbone_2d.blocks.{stage}.{index}.weight"] = (cout, cin if layer == 0 else cout, 3, 3)
            norm(f"backbone_2d.blocks.{stage}.{index + 1}", cout)
        shapes[f"backbone_2d.deblocks.{stage}.0.weight"] = (cout, 256, stage + 1, stage + 1)
        norm(f"backbone_2d.deblocks.{stage}.1", 256)
    for head, width in (("conv_cls", 18), ("conv_box", 42), ("conv_dir_cls", 12)):
        shapes |= {f"dense_head.{head}.weight": (width, 512, 1, 1), f"dense_head.{head}.bias": (width,)}
    return shapes


def test_openpcdet_would_report_73_of_163(tmp_path: Path) -> None:
    second = second_shapes()
    assert len(second) == 163
    encoder = VoxelBackBone8x(VoxelGrid(point_range=(0, -40, -3, 70.4, 40, 1), voxel_size=(0.05, 0.05, 0.1)))
    save_openpcdet(tmp_path / "a.pth", encoder.state_dict(), layout="spconv2")
    given = torch.load(tmp_path / "a.pth", weights_only=True)["model_state"]
    assert sum(key in second and tuple(value.shape) == second[key] for key, value in given.items()) == 73
    assert all(key in second for key in given)


def test_our_second_is_openpcdets_name_for_name_and_shape_for_shape() -> None:
    preset = kitti_second()
    encoder = VoxelBackBone8x(VoxelGrid(point_range=preset.point_range, voxel_size=preset.voxel_size), channels=preset.channels)
    state = to_openpcdet(build_detector(preset.kind, encoder, preset.class_names, preset.config).state_dict(), layout="spconv2")
    assert {key: tuple(value.shape) for key, value in state.items()} == second_shapes()


def test_a_whole_second_file_loads_into_the_encoder(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.rand(shape, generator=generator) if shape else torch.tensor(5) for key, shape in second_shapes().items()}
    for key, value in state.items():
        if value.ndim == 5:
            state[key] = value.permute(1, 2, 3, 4, 0).contiguous()  # as spconv 1.x stores it
    torch.save(
        {"epoch": 80, "it": 74240, "model_state": state, "optimizer_state": None, "version": "pcdet+0.3.0+0000000"}, tmp_path / "second_7862.pth"
    )
    encoder = make(VoxelBackBone8x, width=1)
    report = load_lidar_weights(encoder, tmp_path / "second_7862.pth", echo=None)
    assert len(report.matched) == 72 and report.share == 1 and len(report.unexpected) == 163 - 73
    assert torch.equal(encoder.state_dict()["conv3.1.0.weight"], state["backbone_3d.conv3.1.0.weight"].permute(4, 0, 1, 2, 3))


def test_the_wrong_backbone_is_refused(tmp_path: Path) -> None:
    """3DTrans #28: a residual file fits a tenth of the plain backbone, which went unnoticed there."""
    save_openpcdet(tmp_path / "a.pth", make(VoxelResBackBone8x, width=1).state_dict(), layout="spconv2")
    strip_record(tmp_path / "a.pth")
    plain = make(VoxelBackBone8x, seed=1, width=1)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with pytest.raises(LoadRefused, match=r"24 of 72 tensors, 10\.0 % of 711,872 parameters") as refusal:
        load_lidar_weights(plain, tmp_path / "a.pth")
    assert "another encoder class" in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    save_encoder(tmp_path / "b.safetensors", make(VoxelResBackBone8x), {})
    with pytest.raises(LoadRefused, match="VoxelResBackBone8x"):
        initialise_encoder(make(VoxelBackBone8x), tmp_path / "b.safetensors")


def test_another_width_is_refused(tmp_path: Path) -> None:
    save_openpcdet(tmp_path / "a.pth", make(VoxelBackBone8x, width=0.5).state_dict(), layout="spconv2")
    with pytest.raises(LoadRefused, match="wrong shape"):
        load_lidar_weights(make(VoxelBackBone8x), tmp_path / "a.pth")


def dense_conv(x: Tensor, stored: Tensor, bias: Tensor | None, layout: str, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Convolution with a weight as the given spconv version stores it, as a sum over the kernel's cells."""
    spatial = {"spconv1": stored, "spconv2.1": stored.transpose(3, 4), "spconv2": stored.permute(1, 2, 3, 4, 0)}[layout]  # (z, y, x, in, out)
    kernel = spatial.shape[:3]
    padded = F.pad(x, [side for axis in (2, 1, 0) for side in (padding[axis],) * 2])
    cells = [(padded.shape[axis + 2] - kernel[axis]) // stride[axis] + 1 for axis in range(3)]
    out = torch.zeros(x.shape[0], spatial.shape[4], *cells) if bias is None else bias.view(1, -1, 1, 1, 1).expand(x.shape[0], -1, *cells).clone()
    for dz, dy, dx in itertools.product(*(range(side) for side in kernel)):
        z, y, c = (slice(start, start + stride[axis] * (cells[axis] - 1) + 1, stride[axis]) for axis, start in enumerate((dz, dy, dx)))
        out += torch.einsum("bizyx,io->bozyx", padded[:, :, z, y, c], spatial[dz, dy, dx])
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@BOTH
def test_every_exported_weight_means_the_same_convolution(tmp_path: Path, cls: type, layout: str) -> None:
    """Each weight of the file, applied densely in the file's own layout to a random 9^3 grid, does what our layer does at the active sites."""
    encoder = make(cls)
    save_openpcdet(tmp_path / "a.pth", encoder.state_dict(), layout=layout)
    stored = read_openpcdet(tmp_path / "a.pth").state
    generator = torch.Generator().manual_seed(0)
    active = (torch.rand(1, 9, 9, 9, generator=generator) < 0.2).nonzero().int()
    layers = [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, SubMConv3d | SparseConv3d)]
    assert len(layers) == (12 if cls is VoxelBackBone8x else 21)
    for name, layer in layers:
        x = SparseTensor(
            coords=active, feats=torch.randn(len(active), layer.weight.shape[4], generator=generator), spatial_shape=(9, 9, 9), batch_size=1
        )
        strided = isinstance(layer, SparseConv3d)
        stride, padding = (layer.stride, layer.padding) if strided else ((1, 1, 1), (1, 1, 1))
        with torch.no_grad():
            got = layer(x)
        want = dense_conv(x.dense(), stored[f"backbone_3d.{name}.weight"], stored.get(f"backbone_3d.{name}.bias"), layout, stride, padding)
        assert got.spatial_shape == tuple(want.shape[2:])
        _, z, y, cell = got.coords.long().T
        torch.testing.assert_close(got.feats, want[0, :, z, y, cell].T, atol=1e-5, rtol=1e-5)


def test_layouts_are_inverse() -> None:
    weight = torch.randn(5, 3, 1, 2, 4)
    for layout, shape in (("spconv1", (3, 1, 2, 4, 5)), ("spconv2.1", (3, 1, 2, 5, 4)), ("spconv2", (5, 3, 1, 2, 4))):
        assert to_layout(weight, layout).shape == shape
        assert torch.equal(from_layout(to_layout(weight, layout), layout), weight)
    with pytest.raises(ValueError, match="layout expected one of"):
        to_layout(weight, "spconv3")


def test_layout_is_decided_from_the_whole_file() -> None:
    wanted = {"a": torch.zeros(16, 3, 3, 3, 16), "b": torch.zeros(32, 3, 3, 3, 16)}
    for layout in LAYOUTS:
        assert decide_layout({key: to_layout(value, layout) for key, value in wanted.items()}, wanted) == layout
    square = {"a": to_layout(wanted["a"], "spconv1")}
    with pytest.raises(UndecidedLayout, match=r"fit \['spconv1', 'spconv2.1'\] alike"):
        decide_layout(square, wanted)
    cube = {"a": torch.zeros(3, 3, 3, 3, 3)}
    with pytest.raises(UndecidedLayout, match="say with layout="):
        decide_layout(cube, cube)
    mixed = {"a": to_layout(wanted["a"], "spconv2"), "b": to_layout(wanted["b"], "spconv1")}
    with pytest.raises(UndecidedLayout, match="contradict each other"):
        decide_layout(mixed, wanted)


def test_named_layout_must_agree_with_the_file(tmp_path: Path) -> None:
    save_openpcdet(tmp_path / "a.pth", make(VoxelBackBone8x).state_dict(), layout="spconv1")
    with pytest.raises(ValueError, match="in layout spconv1, but layout=spconv2 was asked for"):
        load_lidar_weights(make(VoxelBackBone8x), tmp_path / "a.pth", layout="spconv2")
    strip_record(tmp_path / "a.pth")
    with pytest.raises(LoadRefused):
        load_lidar_weights(make(VoxelBackBone8x), tmp_path / "a.pth", layout="spconv2")


def test_stem_with_another_number_of_channels(tmp_path: Path) -> None:
    four, five = make(VoxelBackBone8x), make(VoxelBackBone8x, seed=1, channels=("time", "intensity"))
    save_openpcdet(tmp_path / "a.pth", four.state_dict(), layout="spconv1")
    strip_record(tmp_path / "a.pth")
    with pytest.raises(LoadRefused, match=r"reads 4 inputs and the model's 5 \(x y z time intensity\)"):
        load_lidar_weights(five, tmp_path / "a.pth")
    with pytest.raises(LoadRefused, match="names given are x y z intensity time"):
        load_lidar_weights(five, tmp_path / "a.pth", channels=("intensity", "time"))
    report = load_lidar_weights(five, tmp_path / "a.pth", channels=("intensity",), echo=None)
    assert list(report.reshaped) == ["conv_input.0.weight"]
    stem = five.conv_input[0].weight
    assert torch.equal(stem[..., [0, 1, 2, 4]], four.conv_input[0].weight) and (stem[..., 3] == 0).all()


def test_recorded_channels_need_no_naming(tmp_path: Path) -> None:
    source = make(PillarLike, channels=("intensity", "time"))
    save_encoder(tmp_path / "encoder.safetensors", source, {"step": 3})
    target = make(PillarLike, seed=1, channels=("elongation", "intensity"))
    report = initialise_encoder(target, tmp_path)
    assert "by name: x y z intensity mean_dx" in report["reshaped"][source.stem] and "zero: elongation" in report["reshaped"][source.stem]
    old, new = source.state_dict()[source.stem], target.state_dict()[target.stem]
    assert torch.equal(new[:, 4], old[:, 3]) and torch.equal(new[:, 5:], old[:, 5:]) and (new[:, 3] == 0).all()
    with pytest.raises(ConfigError, match="does not exist"):
        initialise_encoder(target, tmp_path / "nothing.safetensors")


def PillarLike(grid: VoxelGrid, *, channels: tuple[str, ...], width: float, generator: torch.Generator) -> PillarEncoder:
    grid = VoxelGrid(point_range=grid.point_range, voxel_size=(0.1, 0.1, 2.4))
    return PillarEncoder(grid, channels=channels, dims=(16,), generator=generator)


def test_pillars_keep_their_own_prefix(tmp_path: Path) -> None:
    source, target = make(PillarLike), make(PillarLike, seed=1)
    save_openpcdet(tmp_path / "a.pth", source.state_dict(), layout="spconv2", input_columns=source.input_columns)
    assert "vfe.pfn_layers.0.linear.weight" in read_openpcdet(tmp_path / "a.pth").state
    load_lidar_weights(target, tmp_path / "a.pth", echo=None)
    assert same(source, target)


def test_what_openpcdet_does_not_have() -> None:
    grid = VoxelGrid(point_range=(0, 0, 0, 8, 8, 4), voxel_size=(1, 1, 4))
    sst = SST(grid, config=SSTConfig(point_dims=(8,), dim=8, heads=2, blocks=1, feedforward=8))
    with pytest.raises(ValueError, match="no place for 'layers"):
        to_openpcdet(sst.state_dict(), layout="spconv2")


class TinyDetector(nn.Module):
    """Names as in a detector; what they do does not matter here."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = make(VoxelBackBone8x, seed=seed)
        self.neck = nn.Sequential(nn.Conv2d(32, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 3, 1)


@pytest.mark.parametrize("layout", ["spconv1", "spconv2"])
def test_whole_detector_goes_out_and_comes_back(tmp_path: Path, layout: str) -> None:
    source, target = TinyDetector(0), TinyDetector(1)
    save_openpcdet(tmp_path / "a.pth", source.state_dict(), layout=layout)
    assert {"backbone_2d.0.weight", "dense_head.bias", "backbone_3d.conv1.0.0.weight"} <= read_openpcdet(tmp_path / "a.pth").state.keys()
    strip_record(tmp_path / "a.pth")
    assert load_lidar_weights(target, tmp_path / "a.pth", minimum=1, echo=None).share == 1
    assert same(source, target)
    with pytest.raises(ValueError, match=r"a module with one as \.encoder, got Linear"):
        load_lidar_weights(nn.Linear(2, 2), tmp_path / "a.pth")


def write_run(folder: Path, module: nn.Module, average: nn.Module | None = None) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(
        {"step": 9, "model": module.state_dict(), "average": None if average is None else average.state_dict()},
        folder / "checkpoints" / "step_00000009.pt",
    )
    save_encoder(folder / "encoder.safetensors", (average or module).encoder, {"step": 9})


def test_export_of_a_fine_tuned_run(tmp_path: Path) -> None:
    model, average = TinyDetector(0), TinyDetector(1)
    write_run(tmp_path / "run", model, average)
    said = export_run(tmp_path / "run", tmp_path / "out.pth", ["layout=spconv1"])
    assert "detector after 9 steps" in said and "spconv1" in said
    target = TinyDetector(2)
    load_lidar_weights(target, tmp_path / "out.pth", minimum=1, echo=None)
    assert same(average, target)
    assert read_openpcdet(tmp_path / "out.pth").input_columns == ("x", "y", "z", "intensity")


def test_export_of_a_pretraining_run(tmp_path: Path) -> None:
    method = nn.Module()
    method.encoder = make(VoxelResBackBone8x)
    method.decoder = nn.Linear(3, 3)
    write_run(tmp_path / "run", method)
    assert "encoder after 9 steps, 143 tensors (142 and global_step), sparse weights for spconv2" in export_run(
        tmp_path / "run", tmp_path / "out.pth"
    )
    target = make(VoxelResBackBone8x, seed=1)
    load_lidar_weights(target, tmp_path / "out.pth", minimum=1, echo=None)
    assert same(method.encoder, target)
    other = make(VoxelResBackBone8x, seed=2)
    load_lidar_weights(other, tmp_path / "run" / "checkpoints" / "step_00000009.pt", minimum=1, echo=None)
    assert same(method.encoder, other)


def test_export_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run with a saved encoder"):
        export_run(tmp_path, tmp_path / "out.pth")
    write_run(tmp_path / "run", TinyDetector(0))
    with pytest.raises(ConfigError, match="layout expected one of spconv1"):
        export_run(tmp_path / "run", tmp_path / "out.pth", ["layout=spconv7"])
    with pytest.raises(ConfigError, match="unknown key 'layuot'"):
        export_run(tmp_path / "run", tmp_path / "out.pth", ["layuot=spconv2"])


def test_not_an_openpcdet_file(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"expected an OpenPCDet checkpoint with 'model_state', got \['state_dict'\]"):
        read_openpcdet(tmp_path / "a.pth")
