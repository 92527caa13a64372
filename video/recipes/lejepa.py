"""LeJEPA on two clips of a video, around a vision transformer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from suite3d.nn.vit import VisionTransformer
from suite3d.source import Source
from suite3d.video.data.lists import VideoList
from suite3d.video.data.pairs import IntervalClipSource
from suite3d.video.methods.video_lejepa import VideoLeJEPA, VideoLeJEPAConfig
from suite3d.video.recipes.pretrain import VideoPretrainRecipe


@dataclass(kw_only=True)
class VideoLeJEPARecipe(VideoPretrainRecipe):
    """Prediction of clips by Gaussian embeddings."""

    method: VideoLeJEPAConfig = field(default_factory=VideoLeJEPAConfig)

    def build_method(self, encoder: VisionTransformer) -> nn.Module:
        return VideoLeJEPA(encoder, self.method)

    def build_source(self, videos: VideoList) -> Source:
        data = self.data
        return IntervalClipSource(
            videos.items, frames=data.frames, stride=data.stride, augment=self.augment, windows=2, repeats=data.repeats, reader=data.reader
        )
