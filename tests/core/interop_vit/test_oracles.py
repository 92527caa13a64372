"""The libraries themselves as the reference: networks built from a configuration, no downloads.

Not required: skipped where the library cannot be imported (``pip install transformers``, ``pip install timm``).
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite3d.interop.vit import export_vit, load_vit, vit_config_of
from suite3d.nn.vit import VisionTransformer
from tests.core.interop_vit.foreign import CLIP, videomae_pretrained
from tests.core.interop_vit.test_export_vit import Classifier
from tests.core.interop_vit.test_load_vit import CONFIG, Autoencoder, clip_of, write

TOLERANCE = 1e-4
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
IMAGE = (1, 32, 32)


def library(name: str, *needed: str) -> ModuleType:
    """The library, or a skip that says why not."""
    try:
        module = importlib.import_module(name)
        for attribute in needed:
            getattr(module, attribute)
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"{name} cannot be used as the reference here: {type(error).__name__}: {str(error)[:120]}")
    return module


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """All parameters random, so that a bias that gets lost shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def saved(module: Any, folder: Path) -> Path:
    module.save_pretrained(folder)
    return folder


def videomae(transformers: ModuleType, *, mean_pooling: bool = False) -> Any:
    return transformers.VideoMAEConfig(
        **SMALL,
        image_size=32,
        num_frames=4,
        patch_size=8,
        intermediate_size=96,
        decoder_hidden_size=24,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=2,
        decoder_intermediate_size=48,
        use_mean_pooling=mean_pooling,
        layer_norm_eps=1e-6,
        num_labels=5,
    )


def masks() -> tuple[Tensor, Tensor, Tensor]:
    """Bool mask, visible and hidden indices of two clips."""
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(32, generator=generator) for _ in range(2)])
    mask = torch.ones(2, 32, dtype=torch.bool).scatter(1, order[:, :12], False)
    return mask, (~mask).nonzero()[:, 1].view(2, 12), mask.nonzero()[:, 1].view(2, 20)


def decoded(theirs: Any, features: Tensor, mask: Tensor) -> Tensor:
    """What their pre-training network predicts, without its loss."""
    tokens, table = theirs.encoder_to_decoder(features), theirs.position_embeddings.expand(2, -1, -1)
    seen, hidden = tokens + table[~mask].view(2, -1, 24), theirs.mask_token + table[mask].view(2, -1, 24)
    return theirs.decoder(torch.cat([seen, hidden], dim=1), 20).logits


@torch.no_grad()
def test_transformers_videomae_in(tmp_path: Path) -> None:
    transformers = library("transformers", "VideoMAEForPreTraining")
    theirs = drawn(transformers.VideoMAEForPreTraining(videomae(transformers)))
    ours = Autoencoder().eval()
    report = load_vit(ours, saved(theirs, tmp_path / "hub"), clip=CLIP, echo=None)
    assert report.share == 1 and not report.unexpected
    mask, visible, hidden = masks()
    features = theirs.videomae(clip_of().transpose(1, 2), mask).last_hidden_state
    assert (ours.encoder(clip_of(), visible) - features).abs().max() < TOLERANCE
    assert (ours.decoder(features, visible, hidden) - decoded(theirs, features, mask)).abs().max() < TOLERANCE
    in_memory = Autoencoder().eval()  # the names of the modules, which are not those on the hub
    load_vit(in_memory, write(tmp_path / "memory.pth", theirs.state_dict()), clip=CLIP, echo=None)
    assert all(torch.equal(value, in_memory.state_dict()[key]) for key, value in ours.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["transformers", "transformers_v5"])
def test_transformers_videomae_out(layout: str, tmp_path: Path) -> None:
    transformers = library("transformers", "VideoMAEForPreTraining")
    ours = Autoencoder().eval()
    load_vit(ours, write(tmp_path / "a.pth", videomae_pretrained()), clip=CLIP, echo=None)
    export_vit(ours, tmp_path / "out", layout=layout)
    theirs, info = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    mask, visible, hidden = masks()
    features = theirs.eval().videomae(clip_of().transpose(1, 2), mask).last_hidden_state
    assert (ours.encoder(clip_of(), visible) - features).abs().max() < TOLERANCE
    assert (ours.decoder(features, visible, hidden) - decoded(theirs, features, mask)).abs().max() < TOLERANCE


@torch.no_grad()
def test_transformers_classifier_out_and_in(tmp_path: Path) -> None:
    transformers = library("transformers", "VideoMAEForVideoClassification")
    ours = drawn(Classifier())
    export_vit(ours, tmp_path / "out", layout="transformers")
    theirs, info = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = ours.head(ours.fc_norm(ours.encoder(clip_of()).mean(1)))
    assert (theirs.eval()(clip_of().transpose(1, 2)).logits - expected).abs().max() < TOLERANCE
    again = Classifier().eval()
    report = load_vit(again, saved(theirs, tmp_path / "back"), clip=CLIP, echo=None)
    assert report.share == 1 and all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


@torch.no_grad()
def test_transformers_lone_encoder_out(tmp_path: Path) -> None:
    transformers = library("transformers", "VideoMAEModel")
    ours = drawn(VisionTransformer(CONFIG))
    export_vit(ours, tmp_path / "out", layout="transformers")
    theirs, info = transformers.VideoMAEModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (theirs.eval()(clip_of().transpose(1, 2)).last_hidden_state - ours(clip_of())).abs().max() < TOLERANCE


@torch.no_grad()
def test_transformers_vjepa2_needs_the_tiled_rotation(tmp_path: Path) -> None:
    transformers = library("transformers", "VJEPA2Model")
    config = transformers.VJEPA2Config(
        **SMALL, crop_size=32, patch_size=8, frames_per_clip=4, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1
    )
    theirs = drawn(transformers.VJEPA2Model(config))
    folder = saved(theirs, tmp_path / "hub")
    ours = VisionTransformer(vit_config_of(folder, clip=CLIP)).eval()
    load_vit(ours, folder, clip=CLIP, echo=None)
    expected = theirs.encoder(clip_of().transpose(1, 2)).last_hidden_state
    assert (ours(clip_of()) - expected).abs().max() < TOLERANCE
    right = VisionTransformer(replace(ours.config, positions="rope")).eval()
    right.load_state_dict(ours.state_dict())
    assert (right(clip_of()) - expected).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"), [("Dinov2", {}), ("Dinov2", {"use_swiglu_ffn": True}), ("Dinov2WithRegisters", {"num_register_tokens": 3})]
)
def test_transformers_dinov2_in(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    transformers = library("transformers", f"{name}Model")
    config = getattr(transformers, f"{name}Config")(**SMALL, image_size=32, patch_size=8, **options)
    theirs = drawn(getattr(transformers, f"{name}Model")(config))
    compare_image(theirs, saved(theirs, tmp_path / "hub"))


@torch.no_grad()
def test_transformers_vit_in(tmp_path: Path) -> None:
    transformers = library("transformers", "ViTModel")
    theirs = drawn(transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, intermediate_size=96)))
    compare_image(theirs, saved(theirs, tmp_path / "hub"))


@torch.no_grad()
def test_transformers_image_mae_in(tmp_path: Path) -> None:
    transformers = library("transformers", "ViTMAEForPreTraining")
    config = transformers.ViTMAEConfig(
        **SMALL, image_size=32, patch_size=8, intermediate_size=96, mask_ratio=0.0, decoder_num_hidden_layers=1, decoder_hidden_size=32,
        decoder_num_attention_heads=4, decoder_intermediate_size=64,
    )  # fmt: skip
    theirs = drawn(transformers.ViTMAEForPreTraining(config))
    folder = saved(theirs, tmp_path / "hub")
    ours = VisionTransformer(vit_config_of(folder, clip=IMAGE)).eval()
    load_vit(ours, folder, clip=IMAGE, echo=None)
    image = clip_of(IMAGE)
    kept = theirs.vit(image[:, :, 0], noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    assert (torch.cat(ours.encode(image), dim=1) - kept).abs().max() < TOLERANCE


def compare_image(theirs: nn.Module, folder: Path) -> None:
    ours = VisionTransformer(vit_config_of(folder, clip=IMAGE)).eval()
    report = load_vit(ours, folder, clip=IMAGE, echo=None)
    assert report.share == 1
    image = clip_of(IMAGE)
    assert (torch.cat(ours.encode(image), dim=1) - theirs(image[:, :, 0]).last_hidden_state).abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_timm_in(name: str, tmp_path: Path) -> None:
    timm = library("timm", "create_model")
    theirs = drawn(timm.create_model(name, img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=0))
    path = write(tmp_path / "timm.safetensors", theirs.state_dict())
    ours = VisionTransformer(vit_config_of(path, clip=IMAGE, heads=3)).eval()
    report = load_vit(ours, path, clip=IMAGE, heads=3, echo=None)
    assert report.share == 1 and not report.unexpected
    image = clip_of(IMAGE)
    assert (torch.cat(ours.encode(image), dim=1) - theirs.forward_features(image[:, :, 0])).abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("class_token", [True, False])
def test_timm_out(class_token: bool, tmp_path: Path) -> None:
    library("timm", "create_model")
    vision = library("timm.models.vision_transformer", "VisionTransformer")
    ours = drawn(VisionTransformer(replace(CONFIG, clip=(2, 32, 32), class_token=class_token)))
    line = export_vit(ours, tmp_path / "timm.pth", layout="timm")
    options: dict[str, Any] = {} if class_token else {"class_token": False, "global_pool": "avg", "fc_norm": False}
    theirs = vision.VisionTransformer(
        img_size=(32, 32), patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=0, **options
    ).eval()
    theirs.load_state_dict(torch.load(tmp_path / "timm.pth", weights_only=True))
    assert "num_classes=0" in line and ("class_token=False" in line) != class_token
    still = clip_of(IMAGE)
    expected = torch.cat(ours.encode(still.expand(-1, -1, 2, -1, -1)), dim=1)
    assert (theirs.forward_features(still[:, :, 0]) - expected).abs().max() < TOLERANCE
