"""Video encoders: vision transformers, UniFormer, 3D residual networks.

Every one has ``embed_dim`` and returns ``(B, N, embed_dim)`` tokens in (t, h, w) order, not pooled; the convolutional ones have
``feature_map(x) -> (B, embed_dim, t, h, w)`` and ``strides`` besides.
"""

from suite3d.nn.vit_sizes import DecoderSize, ViTSize, decoder_size, vit_config, vit_size
from suite3d.video.backbones.resnet3d import VideoResNet, r2plus1d_18, r3d_18, r3d_50
from suite3d.video.backbones.uniformer import UniFormer, UniFormerConfig, uniformer_b, uniformer_s

__all__ = [
    "DecoderSize",
    "UniFormer",
    "UniFormerConfig",
    "ViTSize",
    "VideoResNet",
    "decoder_size",
    "r2plus1d_18",
    "r3d_18",
    "r3d_50",
    "uniformer_b",
    "uniformer_s",
    "vit_config",
    "vit_size",
]
