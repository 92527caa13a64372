"""Loads that explain themselves, and those that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from suite3d.interop.load import LoadRefused, MatchColumns, load_weights, read_checkpoint


def small(seed: int = 0, inputs: int = 4, hidden: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))


def test_everything_comes_in() -> None:
    source, target, lines = small(0), small(1), []
    report = load_weights(target, source.state_dict(), echo=lines.append, source="a.pth")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    assert report.share == 1 and len(report.matched) == 9 and not report.missing and not report.unexpected
    assert lines == [str(report)]
    assert "a.pth: 9 of 9 tensors, 100.0 % of 74 parameters" in lines[0]


def test_report_counts_each_kind() -> None:
    target = small(1)
    before = target[2].bias.detach().clone()
    state = small(0).state_dict()
    del state["2.bias"]
    state["head.weight"] = torch.zeros(3)
    state["1.weight"] = torch.zeros(9)
    report = load_weights(target, state, echo=None, minimum=0.5)
    assert report.missing == ("2.bias",) and report.unexpected == ("head.weight",)
    assert report.mismatched == {"1.weight": "(9,) in the file, (8,) in the model"}
    assert report.loaded_parameters == 74 - 2 - 8 and report.share == pytest.approx(64 / 74)
    assert torch.equal(target[2].bias, before)
    text = str(report)
    assert "missing    1: 2.bias" in text and "unexpected 1: head.weight" in text and "wrong shape 1: 1.weight (9,)" in text
    assert report.as_dict()["share"] == report.share


def test_too_little_is_refused_and_nothing_changes() -> None:
    target = small(1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value for key, value in small(0).state_dict().items() if key.startswith("1.")}
    with pytest.raises(LoadRefused, match=r"21\.6 % of the parameters fit, at least 90 % are needed"):
        load_weights(target, state)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    assert issubclass(LoadRefused, ValueError)


def test_buffers_do_not_count_as_parameters() -> None:
    state = {key: value for key, value in small(0).state_dict().items() if "running" in key or "num" in key}
    with pytest.raises(LoadRefused, match=r"0\.0 % of the parameters"):
        load_weights(small(1), state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_numbers_are_refused(bad: float) -> None:
    state = small(0).state_dict()
    state["0.weight"] = state["0.weight"].clone()
    state["0.weight"][0, 0] = bad
    with pytest.raises(LoadRefused, match=r"1 tensors of a state dict hold NaN or Inf: 0\.weight"):
        load_weights(small(1), state)


def test_rename() -> None:
    source = {f"net.{key}": value for key, value in small(0).state_dict().items()} | {"other.weight": torch.ones(1)}
    target = small(1)
    report = load_weights(target, source, rename=lambda key: key.removeprefix("net.") if key.startswith("net.") else None, echo=None)
    assert report.share == 1 and report.unexpected == ("other.weight",)
    with pytest.raises(ValueError, match=r"both '0\.weight' and '0\.bias' to '0\.bias'"):
        load_weights(target, small(0).state_dict(), rename=lambda key: key.replace("0.weight", "0.bias"))


def test_precision_is_the_modules() -> None:
    target = small(1)
    load_weights(target, {key: value.double() for key, value in small(0).state_dict().items()}, echo=None)
    assert target[0].weight.dtype == torch.float32 and torch.equal(target[0].weight, small(0)[0].weight)


def test_columns_are_matched_by_name() -> None:
    source, target = small(0, inputs=4), small(1, inputs=5)
    columns = MatchColumns(source=("x", "y", "z", "intensity"), target=("x", "y", "z", "time", "intensity"))
    report = load_weights(target, source.state_dict(), allow_reshape={"0.weight": columns}, echo=None)
    assert torch.equal(target[0].weight[:, [0, 1, 2, 4]], source[0].weight)
    assert (target[0].weight[:, 3] == 0).all()
    assert list(report.reshaped) == ["0.weight"] and "zero: time" in str(report)
    assert report.loaded_parameters == report.total_parameters - 8
    points = torch.randn(6, 5)
    source.eval(), target.eval()
    torch.testing.assert_close(target(points), source(points[:, [0, 1, 2, 4]]))


def test_columns_of_equal_number_are_matched_by_name_too() -> None:
    source, target = small(0), small(1)
    columns = MatchColumns(source=("a", "b", "c", "d"), target=("d", "b", "e", "a"))
    load_weights(target, source.state_dict(), minimum=0.8, allow_reshape={"0.weight": columns}, echo=None)
    weight = source[0].weight
    assert torch.equal(target[0].weight, torch.stack([weight[:, 3], weight[:, 1], torch.zeros(8), weight[:, 0]], dim=1))
    assert str(columns) == "by name: d b a; zero: e; dropped: c"


def test_columns_that_do_not_describe_the_tensors() -> None:
    columns = MatchColumns(source=("a", "b"), target=("a", "b", "c", "d"))
    with pytest.raises(ValueError, match=r"cannot fit \(8, 4\) to \(8, 4\)"):
        load_weights(small(1), small(0).state_dict(), allow_reshape={"0.weight": columns})


@pytest.mark.parametrize("minimum", [0, -0.1, 1.1])
def test_minimum_must_be_a_share(minimum: float) -> None:
    with pytest.raises(ValueError, match="minimum expected a share"):
        load_weights(small(), small().state_dict(), minimum=minimum)


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model"])
@pytest.mark.parametrize("parallel", [False, True])
def test_wrappers_and_parallel_prefix_come_off(tmp_path: Path, wrapper: str | None, parallel: bool) -> None:
    state = small(0).state_dict()
    content: dict = {f"module.{key}": value for key, value in state.items()} if parallel else dict(state)
    if wrapper is not None:
        content = {"epoch": 3, "optimizer_state": None, wrapper: content}
    torch.save(content, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert read.keys() == state.keys() and all(torch.equal(value, state[key]) for key, value in read.items())


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"model_state": {"a": torch.ones(1)}, "extra": Evil(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="which is never run"):
        read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"b\.pth"):
        read_checkpoint(tmp_path / "b.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_broken_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_checkpoint(path)
    for content in (b"", b"not a checkpoint at all, just text" * 10):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_checkpoint(path)
    tensors = {"a": torch.randn(1000)}
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=name):
        read_checkpoint(path)


def test_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no tensors found; top-level keys are \['epoch', 'lr'\]"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(ValueError, match="expected named tensors, got a list"):
        read_checkpoint(tmp_path / "b.pth")
