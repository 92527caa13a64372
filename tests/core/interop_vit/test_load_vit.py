"""Files of every layout give the features of their own network, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from suite3d.interop.load import LoadRefused
from suite3d.interop.vit import load_vit, read_vit, vit_config_of
from suite3d.interop.vit.fit import resize_tubelet
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.positions import Positions, resample_table, sincos_flat
from suite3d.nn.vit import VisionTransformer, ViTConfig
from tests.core.interop_vit.foreign import (
    CLIP,
    DEPTH,
    FOREIGN,
    HEADS,
    PATCH,
    State,
    double,
    image_vit,
    mae_st,
    transformers_v4,
    videomae_finetuned,
    videomae_pretrained,
    vjepa2,
)
from tests.core.nn.naive_vit import flat_table

CONFIG = ViTConfig(dim=48, depth=DEPTH, heads=HEADS, mlp_ratio=2.0, clip=CLIP, patch=PATCH)


class Autoencoder(nn.Module):
    """What a pretraining method looks like from here."""

    def __init__(self, config: ViTConfig = CONFIG, decoder_heads: int = 2) -> None:
        super().__init__()
        self.encoder = VisionTransformer(config)
        self.decoder = SelfDecoder(48, 24, 2, decoder_heads, 384, Positions("sincos_flat", self.encoder.grid, 24), mlp_ratio=2.0)


def write(path: Path, state: State, wrapper: str | None = "model") -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {"state": {}}}, path)
    return path


def clip_of(size: tuple[int, int, int] = CLIP) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("name", list(FOREIGN))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_those_of_the_files_network(name: str, suffix: str, tmp_path: Path) -> None:
    foreign = FOREIGN[name]
    path = write(tmp_path / f"file{suffix}", foreign.state)
    config = vit_config_of(path, clip=foreign.clip, heads=HEADS)
    model = VisionTransformer(config).eval()
    report = load_vit(model, path, clip=foreign.clip, heads=HEADS, echo=None)
    assert report.share == 1 and not report.missing and not report.mismatched
    x = clip_of(foreign.clip)
    expected = foreign.features(double(foreign.state), x.double())
    with torch.no_grad():
        assert (model(x).double() - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "positions", "bias"),
    [
        ("videomae", "sincos_flat", "qv"),
        ("videomae_finetuned", "sincos_flat", "qv"),
        ("transformers_v4", "sincos_flat", "qv"),
        ("transformers_v5", "sincos_flat", "qv"),
        ("mae_st", "learned", "full"),
        ("vjepa1", "sincos", "full"),
        ("vjepa2", "rope_tiled", "full"),
        ("dinov2", "learned", "full"),
        ("timm", "learned", "full"),
    ],
)
def test_the_network_is_recognised(name: str, positions: str, bias: str, tmp_path: Path) -> None:
    foreign = FOREIGN[name]
    config = vit_config_of(write(tmp_path / "a.pth", foreign.state), clip=foreign.clip, heads=HEADS)
    assert (config.positions, config.qkv_bias) == (positions, bias)
    assert (config.dim, config.depth, config.hidden, config.clip) == (48, DEPTH, 96, foreign.clip)
    assert config.patch == ((1, 8, 8) if foreign.clip[0] == 1 else PATCH)
    assert config.class_token == (name in ("mae_st", "dinov2", "timm")) and bool(config.layer_scale) == (name == "dinov2")
    assert config.final_norm == (name != "videomae_finetuned")


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "target_encoder", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod.", "model."])
def test_wrappers_and_prefixes_come_off(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}{key}": value for key, value in FOREIGN["videomae"].state.items()}
    report = load_vit(VisionTransformer(CONFIG), write(tmp_path / "a.pth", state, wrapper), clip=CLIP, heads=HEADS, echo=None)
    assert report.share == 1


def test_the_target_encoder_of_vjepa_is_taken(tmp_path: Path) -> None:
    target, online = vjepa2(4), vjepa2(5)
    parts = {"encoder": online, "predictor": {"x": torch.ones(1)}, "target_encoder": target}
    content = {part: {f"module.backbone.{key}": value for key, value in state.items()} for part, state in parts.items()}
    torch.save({**content, "opt": {}, "epoch": 7}, tmp_path / "latest.pt")
    config = vit_config_of(tmp_path / "latest.pt", clip=CLIP, heads=HEADS)
    model = VisionTransformer(config)
    load_vit(model, tmp_path / "latest.pt", clip=CLIP, heads=HEADS, echo=None)
    assert torch.equal(model.patch_embed.proj.weight, target["patch_embed.proj.weight"])


def test_a_dino_teacher_beside_its_heads(tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in image_vit(7, scales=True, mask_token=True).items()} | {
        "dino_head.mlp.weight": torch.ones(2, 2)
    }
    torch.save({"teacher": state}, tmp_path / "teacher.pth")
    config = vit_config_of(tmp_path / "teacher.pth", clip=(1, 32, 32), heads=HEADS)
    report = load_vit(VisionTransformer(config), tmp_path / "teacher.pth", clip=(1, 32, 32), heads=HEADS, echo=None)
    assert report.share == 1 and set(report.unexpected) == {"mask_token", "dino_head.mlp.weight"}


def test_a_whole_pretraining_file_fills_encoder_and_decoder(tmp_path: Path) -> None:
    state, model = videomae_pretrained(), Autoencoder()
    report = load_vit(model, write(tmp_path / "a.pth", state), clip=CLIP, echo=None)
    assert len(report.matched) == len(state) and report.share == 1 and not report.unexpected
    assert torch.equal(model.decoder.encoder_to_decoder.weight, state["encoder_to_decoder.weight"])
    assert torch.equal(model.decoder.mask_token, state["mask_token"])
    again = Autoencoder()
    load_vit(again, write(tmp_path / "b.safetensors", transformers_v4()), clip=CLIP, echo=None)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_lost_biases_are_refused(tmp_path: Path) -> None:
    """transformers 5 came out with every query and value bias silently zero; a file without them must not pass as that network."""
    lost = {key: value for key, value in transformers_v4().items() if not key.endswith(("q_bias", "v_bias"))}
    model = VisionTransformer(CONFIG)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LoadRefused, match="no biases of queries and values for 'encoder.blocks.0.attn'"):
        load_vit(model, write(tmp_path / "a.pth", lost), clip=CLIP, echo=None)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    report = load_vit(VisionTransformer(replace(CONFIG, qkv_bias="none")), write(tmp_path / "a.pth", lost), clip=CLIP, echo=None)
    assert report.share == 1


@pytest.mark.parametrize("heads", [6, 4])
def test_vit_s_has_six_heads(heads: int, tmp_path: Path) -> None:
    """The hub's conversion says 16; all shapes fit either way."""
    small = ViTConfig(dim=384, depth=1, heads=6, clip=(2, 16, 16))
    state = {f"encoder.{key}": value for key, value in VisionTransformer(small).state_dict().items()}
    path = write(tmp_path / "a.pth", state)
    assert vit_config_of(path, clip=small.clip).heads == 6
    model = VisionTransformer(replace(small, heads=heads))
    if heads == 6:
        assert load_vit(model, path, clip=small.clip, echo=None).share == 1
        return
    with pytest.raises(LoadRefused, match="has 6 attention heads of 64 channels, the model 4"):
        load_vit(model, path, clip=small.clip, echo=None)


def test_heads_that_nobody_knows_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say heads="):
        vit_config_of(write(tmp_path / "a.pth", videomae_pretrained()), clip=CLIP)


def test_a_key_bias_cancels_in_the_softmax_only(tmp_path: Path) -> None:
    state = image_vit(9)
    path = write(tmp_path / "a.pth", state)
    config = replace(vit_config_of(path, clip=(1, 32, 32), heads=HEADS))
    full, qv = VisionTransformer(config).eval(), VisionTransformer(replace(config, qkv_bias="qv")).eval()
    load_vit(full, path, clip=(1, 32, 32), echo=None)
    report = load_vit(qv, path, clip=(1, 32, 32), echo=None)
    assert "the key bias left out" in report.reshaped["blocks.0.attn.q_bias"]
    torch.testing.assert_close(qv(clip_of((1, 32, 32))), full(clip_of((1, 32, 32))), atol=1e-5, rtol=1e-5)
    rotated = write(tmp_path / "b.pth", vjepa2())
    with pytest.raises(LoadRefused, match="key bias that is not 0"):
        load_vit(VisionTransformer(replace(CONFIG, positions="rope_tiled")), rotated, clip=CLIP, heads=HEADS, echo=None)
    with pytest.raises(LoadRefused, match=r"has biases of q, k, v"):
        load_vit(VisionTransformer(replace(CONFIG, positions="rope_tiled", qkv_bias="none")), rotated, clip=CLIP, heads=HEADS, echo=None)
    cosine = state | {f"blocks.{i}.attn.scale": torch.ones(3, 1, 1) for i in range(2)}
    with pytest.raises(LoadRefused, match="key bias that is not 0"):
        load_vit(
            VisionTransformer(replace(config, attention="cosine", qkv_bias="qv")),
            write(tmp_path / "c.pth", cosine),
            clip=(1, 32, 32),
            heads=HEADS,
            echo=None,
        )


def test_a_stacked_bias_holds_zeros_for_the_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", videomae_pretrained())
    full, qv = VisionTransformer(replace(CONFIG, qkv_bias="full")).eval(), VisionTransformer(CONFIG).eval()
    for model in (full, qv):
        load_vit(model, path, clip=CLIP, echo=None)
    q, k, v = full.blocks[0].attn.qkv.bias.chunk(3)
    assert torch.equal(q, qv.blocks[0].attn.q_bias) and not k.any() and torch.equal(v, qv.blocks[0].attn.v_bias)
    torch.testing.assert_close(full(clip_of()), qv(clip_of()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "positions"), [("vjepa2", "rope"), ("vjepa2", "sincos"), ("videomae", "sincos"), ("mae_st", "sincos_flat"), ("videomae", "none")]
)
def test_other_positions_are_refused(name: str, positions: str, tmp_path: Path) -> None:
    foreign = FOREIGN[name]
    path = write(tmp_path / "a.pth", foreign.state)
    config = replace(vit_config_of(path, clip=CLIP, heads=HEADS), positions=positions)
    with pytest.raises(LoadRefused, match="positions"):
        load_vit(VisionTransformer(config), path, clip=CLIP, heads=HEADS, echo=None)


def test_fixed_positions_are_recomputed_for_the_files_grid_and_resampled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", videomae_pretrained())
    longer = replace(CONFIG, clip=(8, 32, 48))
    model = VisionTransformer(longer)
    report = load_vit(model, path, clip=CLIP, echo=None)
    assert "sincos_flat, recomputed for 2x4x4 tokens and resampled to 4x4x6" in report.source
    expected = resample_table(flat_table(32, 48).float(), (2, 4, 4), (4, 4, 6))
    torch.testing.assert_close(model.pos_embed.table, expected)
    assert model.config.position_grid == (2, 4, 4)
    again = VisionTransformer(ViTConfig(**model.describe()["config"]))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(clip_of((8, 32, 48))), model.eval()(clip_of((8, 32, 48))))
    short = Autoencoder(replace(CONFIG, clip=(2, 16, 32)))
    load_vit(short, path, clip=CLIP, echo=None)
    torch.testing.assert_close(short.decoder.pos_embed.table, resample_table(sincos_flat(32, 24), (2, 4, 4), (1, 2, 4)))


def test_learned_positions_are_resampled(tmp_path: Path) -> None:
    state = image_vit(6)
    path = write(tmp_path / "a.pth", state)
    config = replace(vit_config_of(path, clip=(1, 32, 32), heads=HEADS), clip=(1, 48, 32))
    model = VisionTransformer(config)
    report = load_vit(model, path, clip=(1, 32, 32), echo=None)
    assert "1x4x4 -> 1x6x4 tokens" in report.reshaped["pos_embed.table"]
    torch.testing.assert_close(model.pos_embed.table, resample_table(state["pos_embed"][0, 1:], (1, 4, 4), (1, 6, 4)))
    torch.testing.assert_close(model.cls_token, state["cls_token"] + state["pos_embed"][:, :1])


@pytest.mark.parametrize("inflate", ["mean", "centre"])
def test_image_weights_see_a_still_clip_as_the_image(inflate: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", image_vit(6))
    image = VisionTransformer(vit_config_of(path, clip=(1, 32, 32), heads=HEADS)).eval()
    load_vit(image, path, clip=(1, 32, 32), echo=None)
    video = VisionTransformer(replace(image.config, clip=(4, 32, 32), patch=(4, 8, 8))).eval()
    report = load_vit(video, path, clip=(1, 32, 32), inflate=inflate, echo=None)
    assert "patches of 1 -> 4 frames" in report.reshaped["patch_embed.proj.weight"]
    frame = clip_of((1, 32, 32))
    torch.testing.assert_close(video(frame.expand(-1, -1, 4, -1, -1)), image(frame), atol=1e-5, rtol=1e-5)
    moving = clip_of((4, 32, 32))
    other = moving.clone()
    other[:, :, 0] = 0
    assert torch.equal(video(moving), video(other)) == (inflate == "centre")


def test_video_weights_on_an_image_are_those_of_the_still_clip() -> None:
    weight = torch.randn(5, 3, 2, 4, 4)
    still = torch.randn(1, 3, 1, 4, 4)
    as_clip = torch.nn.functional.conv3d(still.expand(-1, -1, 2, -1, -1), weight)
    torch.testing.assert_close(torch.nn.functional.conv3d(still, resize_tubelet(weight, 1)), as_clip)
    assert resize_tubelet(weight, 2) is weight


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = videomae_pretrained()
    path = write(tmp_path / "a.pth", state)
    with pytest.raises(LoadRefused, match=r"13 tensors the model has no place for"):
        load_vit(VisionTransformer(replace(CONFIG, depth=1)), path, clip=CLIP, echo=None)
    with pytest.raises(LoadRefused, match=r"lacks 13 tensors of the model's encoder \(encoder.blocks.2"):
        load_vit(VisionTransformer(replace(CONFIG, depth=3)), path, clip=CLIP, minimum=0.1, echo=None)
    scaled = image_vit(7, scales=True)
    config = vit_config_of(write(tmp_path / "b.pth", image_vit(7)), clip=(1, 32, 32), heads=HEADS)
    with pytest.raises(LoadRefused, match=r"no place for \(encoder.blocks.0.ls1.gamma"):
        load_vit(VisionTransformer(config), write(tmp_path / "c.pth", scaled), clip=(1, 32, 32), echo=None)
    with pytest.raises(LoadRefused, match="NaN or Inf"):
        load_vit(
            VisionTransformer(CONFIG), write(tmp_path / "d.pth", state | {"encoder.norm.bias": torch.full((48,), float("nan"))}), clip=CLIP, echo=None
        )
    with pytest.raises(LoadRefused, match=r"[0-9.]+ % of the parameters fit"):
        load_vit(VisionTransformer(replace(CONFIG, mlp_ratio=4.0)), path, clip=CLIP, echo=None)


def test_files_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no known vision transformer"):
        read_vit(write(tmp_path / "a.pth", {"conv1.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match="no tensors found"):
        read_vit(write(tmp_path / "b.pth", {}, "epoch"))
    with pytest.raises(FileNotFoundError, match="expected one of"):
        read_vit(tmp_path)
    with pytest.raises(ValueError, match="square"):
        read_vit(write(tmp_path / "c.pth", image_vit(6) | {"pos_embed": torch.ones(1, 15, 48)}))
    with pytest.raises(ValueError, match="does not fit a clip of"):
        read_vit(write(tmp_path / "d.pth", image_vit(6)), clip=(1, 64, 64))
    ours = {f"encoder.{key}": value for key, value in VisionTransformer(CONFIG).state_dict().items()}
    torch.save({"step": 3, "model": ours, "average": None}, tmp_path / "step_00000003.pt")
    with pytest.raises(ValueError, match="without their sizes and positions"):
        read_vit(tmp_path / "step_00000003.pt")
    with pytest.raises(ValueError, match="expected a VisionTransformer"):
        load_vit(nn.Linear(1, 1), write(tmp_path / "e.pth", image_vit(6)))


def test_final_norm_may_be_new_or_left_out(tmp_path: Path) -> None:
    report = load_vit(VisionTransformer(CONFIG), write(tmp_path / "a.pth", videomae_finetuned()), clip=CLIP, echo=None)
    assert report.missing == ("norm.weight", "norm.bias") and {"fc_norm.weight", "head.bias"} <= set(report.unexpected)
    report = load_vit(VisionTransformer(replace(CONFIG, final_norm=False)), write(tmp_path / "b.pth", videomae_pretrained()), clip=CLIP, echo=None)
    assert report.share == 1 and "norm.weight" in report.unexpected


def test_where_weights_are_from_stays_with_them(tmp_path: Path) -> None:
    model = VisionTransformer(replace(CONFIG, positions="learned", qkv_bias="full", class_token=True))
    load_vit(model, write(tmp_path / "mae_st.pth", mae_st()), clip=CLIP, heads=HEADS, echo=None)
    origin = model.describe()["origin"]
    assert origin["file"] == "mae_st.pth" and origin["layout"] == "mae_st" and "CC-BY-NC" in origin["licence"]
