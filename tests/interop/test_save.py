"""The flat encoder file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from suite3d.interop import save
from suite3d.interop.load import read_checkpoint
from suite3d.interop.save import read_metadata, save_encoder


@dataclass
class Config:
    dim: int = 3
    root: Path = Path("/data")


class Encoder(nn.Linear):
    def describe(self) -> dict:
        return {"class": "Encoder", "input_columns": ["x", "y"]}


def test_round_trip(tmp_path: Path) -> None:
    encoder = Encoder(2, 3)
    save_encoder(tmp_path / "sub" / "encoder.safetensors", encoder, {"encoder": Config(), "step": 7})
    path = tmp_path / "sub" / "encoder.safetensors"
    read = read_checkpoint(path)
    assert read.keys() == encoder.state_dict().keys() and all(torch.equal(value, read[key]) for key, value in encoder.state_dict().items())
    assert read_metadata(path) == {
        "encoder": {"dim": 3, "root": "/data"},
        "step": 7,
        "description": {"class": "Encoder", "input_columns": ["x", "y"]},
    }
    with safe_open(path, framework="pt") as handle:
        assert json.loads(handle.metadata()["metadata"])["step"] == 7
    assert [file.name for file in path.parent.iterdir()] == ["encoder.safetensors"]


def test_tied_and_transposed_weights_are_stored(tmp_path: Path) -> None:
    module = nn.Module()
    module.first = nn.Linear(3, 3)
    module.second = nn.Linear(3, 3)
    module.second.weight = module.first.weight
    module.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    save_encoder(tmp_path / "a.safetensors", module, {})
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(read["first.weight"], read["second.weight"]) and torch.equal(read["turned"], module.turned)


def test_a_failed_save_is_loud_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, nn.Linear(2, 3), {"step": 1})
    before = path.read_bytes()

    def full_disk(temporary: Path, payload: bytes) -> None:
        temporary.write_bytes(payload[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(save, "_write", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_encoder(path, nn.Linear(2, 3), {"step": 2})
    broken = nn.Linear(2, 3)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or Inf in \['weight'\]"):
        save_encoder(path, broken, {})
    with pytest.raises(ValueError, match="metadata expected json values"):
        save_encoder(path, nn.Linear(2, 3), {"what": object()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_metadata_of_foreign_files(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    assert read_metadata(tmp_path / "a.pth") == {}
