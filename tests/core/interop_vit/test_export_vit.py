"""Exports say again what their layout's own network computes, come back unchanged, and refuse what the other side cannot express."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from suite3d.interop.save import save_encoder
from suite3d.interop.vit import LAYOUTS, export_vit, load_vit, vit_config_of
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from tests.core.interop_vit.foreign import CLIP, HEADS, State, double, run_image, run_videomae, transformers_v4, transformers_v5, videomae_pretrained
from tests.core.interop_vit.test_load_vit import CONFIG, Autoencoder, clip_of, write


class Classifier(nn.Module):
    """What a fine-tuned network looks like from here."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VisionTransformer(replace(CONFIG, final_norm=False))
        self.fc_norm, self.head = nn.LayerNorm(48), nn.Linear(48, 5)


def loaded(tmp_path: Path) -> Autoencoder:
    model = Autoencoder().eval()
    load_vit(model, write(tmp_path / "source.pth", videomae_pretrained()), clip=CLIP, echo=None)
    return model


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_videomae_out_is_the_file_that_came_in(suffix: str, tmp_path: Path) -> None:
    line = export_vit(loaded(tmp_path), tmp_path / f"out{suffix}", layout="videomae")
    state = load_file(tmp_path / "out.safetensors") if suffix == ".safetensors" else torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert same(state, videomae_pretrained()) and f"{len(state)} tensors" in line


@pytest.mark.parametrize(("layout", "expected"), [("transformers", transformers_v4()), ("transformers_v5", transformers_v5())])
def test_transformers_out_is_their_file(layout: str, expected: State, tmp_path: Path) -> None:
    line = export_vit(loaded(tmp_path), tmp_path / "out", layout=layout)
    assert same(load_file(tmp_path / "out" / "model.safetensors"), expected) and "VideoMAEForPreTraining" in line
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-6 and config["num_attention_heads"] == HEADS and config["decoder_num_attention_heads"] == 2
    assert config["use_mean_pooling"] is False and config["qkv_bias"] is True and config["num_frames"] == 4
    again = Autoencoder()
    load_vit(again, tmp_path / "out", clip=CLIP, echo=None)
    assert same(again.state_dict(), loaded(tmp_path).state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back_with_its_features(layout: str, tmp_path: Path) -> None:
    model = loaded(tmp_path).encoder
    out = tmp_path / ("out" if layout.startswith("transformers") else "out.safetensors")
    export_vit(model, out, layout=layout)
    config = vit_config_of(out)  # the record in the file says clip, heads and positions
    again = VisionTransformer(config).eval()
    assert load_vit(again, out, echo=None).share == 1
    if layout == "timm":
        assert (config.clip, config.patch, config.heads, config.positions) == ((1, 32, 32), (1, 8, 8), HEADS, "learned")
    else:
        assert config == CONFIG and torch.equal(again(clip_of()), model(clip_of()))


def test_videomae_file_is_read_by_its_definition(tmp_path: Path) -> None:
    model = VisionTransformer(replace(CONFIG, qkv_bias="full"), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    export_vit(model, tmp_path / "out.pth", layout="videomae")  # the key biases go: they cancel
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert not any("qkv.bias" in key or "k_bias" in key for key in state)
    assert (run_videomae(double(state), clip_of().double()) - model(clip_of())).abs().max() < 1e-4


def test_fine_tuned_network(tmp_path: Path) -> None:
    model = Classifier()
    line = export_vit(model, tmp_path / "out.pth", layout="videomae_finetuned")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert {"fc_norm.weight", "head.bias", "patch_embed.proj.weight", "blocks.1.attn.v_bias"} <= state.keys() and "norm.weight" not in state
    assert "fine-tuned" in line
    line = export_vit(model, tmp_path / "hf", layout="transformers")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["VideoMAEForVideoClassification"] and config["num_labels"] == 5 and config["use_mean_pooling"] is True
    assert "classifier.weight" in load_file(tmp_path / "hf" / "model.safetensors") and "fc_norm has eps 1e-5" in line


def test_timm_out_computes_the_still_clip(tmp_path: Path) -> None:
    """Of one slot of time, the exported image transformer is exact: frames of the patch summed."""
    model = VisionTransformer(replace(CONFIG, clip=(2, 32, 32), class_token=True), generator=torch.Generator().manual_seed(0)).eval()
    line = export_vit(model, tmp_path / "out.safetensors", layout="timm")
    state = load_file(tmp_path / "out.safetensors")
    assert state["patch_embed.proj.weight"].shape == (48, 3, 8, 8) and state["pos_embed"].shape == (1, 17, 48) and "not equal" not in line
    still = clip_of((1, 32, 32))
    expected = model(still.expand(-1, -1, 2, -1, -1))
    assert (run_image(double(state), still.double()) - expected).abs().max() < 1e-4
    line = export_vit(VisionTransformer(CONFIG), tmp_path / "more.pth", layout="timm")
    assert (
        "not equal" in line and "class_token=False" in line and torch.load(tmp_path / "more.pth", weights_only=True)["pos_embed"].shape == (1, 16, 48)
    )


def test_the_file_says_what_its_layout_does_not(tmp_path: Path) -> None:
    export_vit(loaded(tmp_path), tmp_path / "out.safetensors", layout="videomae")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as handle:
        header = handle.metadata()
    record = json.loads(header["suite3d"])
    assert header["format"] == "pt" and record["config"]["heads"] == HEADS and record["config"]["positions"] == "sincos_flat"
    assert (
        record["config"]["eps"] == 1e-6 and record["config"]["patch"] == [2, 8, 8] and record["mean"][0] == 0.485 and "CC-BY-NC" in record["licence"]
    )


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({"positions": "rope"}, "videomae", "has 'rope'"),
        ({"positions": "learned"}, "transformers", "has 'learned'"),
        ({"position_grid": (2, 2, 2)}, "videomae", r"resampled from \(2, 2, 2\)"),
        ({"class_token": True}, "videomae_finetuned", "no class or register tokens"),
        ({"attention": "cosine"}, "transformers", "no cosine attention"),
        ({"attention": "cosine", "qkv_bias": "full"}, "videomae", "cannot be left out with cosine attention"),
        ({"positions": "rope"}, "timm", "neither positions 'rope'"),
        ({"clip": (4, 32, 24), "patch": (2, 8, 12)}, "transformers", "square patches"),
    ],
)
def test_what_the_other_side_cannot_express_is_refused(change: dict, layout: str, message: str, tmp_path: Path) -> None:
    model = VisionTransformer(replace(CONFIG, **change))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    with pytest.raises(ValueError, match=message):
        export_vit(model, tmp_path / "out.pth", layout=layout)
    assert not list(tmp_path.iterdir())


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of videomae"):
        export_vit(VisionTransformer(CONFIG), tmp_path / "a.pth", layout="mmcv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ending in"):
        export_vit(VisionTransformer(CONFIG), tmp_path / "a.onnx", layout="videomae")
    with pytest.raises(ValueError, match="pass config="):
        export_vit(write(tmp_path / "b.pth", videomae_pretrained()), tmp_path / "c.pth", layout="videomae")
    broken = VisionTransformer(CONFIG)
    with torch.no_grad():
        broken.norm.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"NaN or Inf in \['encoder.norm.bias'\]"):
        export_vit(broken, tmp_path / "d.pth", layout="videomae")


def test_our_own_file_goes_anywhere(tmp_path: Path) -> None:
    model = VisionTransformer(CONFIG, generator=torch.Generator().manual_seed(2)).eval()
    save_encoder(tmp_path / "encoder.safetensors", model, {"step": 5})
    assert vit_config_of(tmp_path / "encoder.safetensors") == CONFIG
    again = VisionTransformer(CONFIG).eval()
    assert load_vit(again, tmp_path, echo=None).share == 1 and torch.equal(again(clip_of()), model(clip_of()))
    export_vit(tmp_path, tmp_path / "out.pth", layout="videomae")
    assert len(torch.load(tmp_path / "out.pth", weights_only=True)["model"]) == len(model.state_dict())
    rotated = VisionTransformer(replace(CONFIG, positions="rope", qkv_bias="full"), generator=torch.Generator().manual_seed(3)).eval()
    save_encoder(tmp_path / "rope.safetensors", rotated, {})
    assert vit_config_of(tmp_path / "rope.safetensors").positions == "rope"
    back = VisionTransformer(vit_config_of(tmp_path / "rope.safetensors")).eval()
    load_vit(back, tmp_path / "rope.safetensors", echo=None)
    assert torch.equal(back(clip_of()), rotated(clip_of()))


def test_names_and_shapes_of_a_whole_vit_b_file() -> None:
    """The 218 tensors of the published pre-training file."""
    with torch.device("meta"):
        encoder = VisionTransformer(ViTConfig())
        decoder = SelfDecoder(768, 384, 4, 6, 1536, Positions("sincos_flat", encoder.grid, 384))
    ours = {f"encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items()}
    outside = ("encoder_to_decoder.weight", "mask_token")
    ours |= {key if key in outside else f"decoder.{key}": tuple(value.shape) for key, value in decoder.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"encoder.patch_embed.proj.weight": (768, 3, 2, 16, 16), "encoder.patch_embed.proj.bias": (768,)}
    for part, dim, depth in (("encoder", 768, 12), ("decoder", 384, 4)):
        for i in range(depth):
            block = f"{part}.blocks.{i}"
            expected |= {f"{block}.{norm}.{kind}": (dim,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
            expected |= {f"{block}.attn.{kind}": (dim,) for kind in ("q_bias", "v_bias", "proj.bias")}
            expected |= {f"{block}.attn.qkv.weight": (3 * dim, dim), f"{block}.attn.proj.weight": (dim, dim)}
            expected |= {f"{block}.mlp.fc1.weight": (4 * dim, dim), f"{block}.mlp.fc1.bias": (4 * dim,)}
            expected |= {f"{block}.mlp.fc2.weight": (dim, 4 * dim), f"{block}.mlp.fc2.bias": (dim,)}
        expected |= {f"{part}.norm.weight": (dim,), f"{part}.norm.bias": (dim,)}
    expected |= {"encoder_to_decoder.weight": (384, 768), "mask_token": (1, 1, 384), "decoder.head.weight": (1536, 384), "decoder.head.bias": (1536,)}
    assert len(expected) == 218 and ours == expected
