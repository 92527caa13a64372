"""``init=`` and ``suite3d export`` of the video recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from suite3d.config import ConfigError
from suite3d.interop.load import LoadRefused
from suite3d.interop.save import save_encoder
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.backbones import UniFormer, UniFormerConfig
from suite3d.video.interop import export_run, initialise_encoder
from suite3d.video.methods.videomae import VideoMAE

CONFIG = ViTConfig(dim=36, depth=2, heads=3, clip=(4, 16, 16), patch=(2, 8, 8))


def make(seed: int) -> VideoMAE:
    generator = torch.Generator().manual_seed(seed)
    encoder = VisionTransformer(CONFIG, generator=generator)
    return VideoMAE(encoder, SelfDecoder(36, 24, 2, 3, 384, Positions("sincos_flat", encoder.grid, 24), generator=generator))


def a_run(folder: Path, method: nn.Module) -> Path:
    """A run directory as the engine leaves it."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"step": 3, "model": method.state_dict(), "average": None}, folder / "checkpoints" / "step_00000003.pt")
    save_encoder(folder / "encoder.safetensors", method.encoder, {"step": 3})
    return folder


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_a_run_starts_another(tmp_path: Path) -> None:
    source, target = make(0), make(1)
    run = a_run(tmp_path / "run", source)
    report = initialise_encoder(target.encoder, run)
    assert report["share"] == 1 and same(source.encoder, target.encoder) and not same(source.decoder, target.decoder)
    with pytest.raises(LoadRefused, match="of the parameters fit"):
        initialise_encoder(make(1), run, minimum=1.0)  # the encoder's file has no decoder
    assert initialise_encoder(target, run / "checkpoints" / "step_00000003.pt")["share"] == 1 and same(source, target)


def test_export_and_back(tmp_path: Path) -> None:
    source, target = make(0), make(1)
    run = a_run(tmp_path / "run", source)
    line = export_run(run, tmp_path / "out.pth")
    assert "VideoMAE pre-training checkpoint, 62 tensors" in line
    content = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert content.keys() == source.state_dict().keys()  # the published names
    assert initialise_encoder(target, tmp_path / "out.pth")["share"] == 1 and same(source, target)
    assert "fine-tuned" in export_run(run, tmp_path / "tuned.pth", ["layout=videomae_finetuned"])
    third = make(2)
    export_run(run / "encoder.safetensors", tmp_path / "hub", ["layout=transformers"])
    initialise_encoder(third.encoder, tmp_path / "hub")
    assert same(source.encoder, third.encoder)


def test_the_pixel_normalisation_of_the_run_goes_along(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", make(0))
    for expected, text in (([0.485, 0.456, 0.406], None), ([0.5, 0.5, 0.25], "augment: {mean: [0.5, 0.5, 0.25], std: [0.1, 0.2, 0.3]}")):
        if text is not None:
            (run / "config.yaml").write_text(text)
        export_run(run / "encoder.safetensors", tmp_path / "hub", ["layout=transformers"])
        assert json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())["image_mean"] == expected
        export_run(run, tmp_path / "out.pth")
        assert torch.load(tmp_path / "out.pth", weights_only=True)["suite3d"]["mean"] == expected


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        initialise_encoder(make(0), tmp_path / "nothing.pth")
    with pytest.raises(ConfigError, match="expected one of encoder.safetensors"):
        initialise_encoder(make(0), tmp_path)
    with pytest.raises(ConfigError, match="not a run with a saved encoder"):
        export_run(tmp_path, tmp_path / "out.pth")
    run = a_run(tmp_path / "run", make(0))
    with pytest.raises(ConfigError, match="unknown key 'form'"):
        export_run(run, tmp_path / "out.pth", ["form=timm"])
    with pytest.raises(ConfigError, match="layout expected one of videomae,"):
        export_run(run, tmp_path / "out.pth", ["layout=mmaction"])
    with pytest.raises(ConfigError, match="attention heads are not known"):
        export_run(run, tmp_path / "hub", ["layout=transformers"])  # a decoder of 24 channels is nobody's


def test_a_convolutional_encoder(tmp_path: Path) -> None:
    config = UniFormerConfig(dims=(8, 16, 32, 64), depths=(1, 1, 1, 1), head_dim=16)
    source, target = (UniFormer(config, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    save_encoder(tmp_path / "encoder.safetensors", source, {"step": 1})
    assert initialise_encoder(target, tmp_path)["share"] == 1 and same(source, target)
    torch.save({"model": {f"encoder.{key}": value for key, value in source.state_dict().items()} | {"queue": torch.ones(3)}}, tmp_path / "a.pt")
    method = nn.Module()
    method.encoder = UniFormer(config)
    assert initialise_encoder(method, tmp_path / "a.pt")["share"] == 1 and same(source, method.encoder)
