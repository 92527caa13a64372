"""``suite3d evaluate RUN diagnostics``: is the representation of pictures alive, and what survives an augmentation? No label is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.engine.once import each_once
from suite3d.evaluate.diagnostics import TokenSimilarity, alignment, effective_rank, feature_std, lidar_rank, rank_me, uniformity
from suite3d.evaluate.probes import spread
from suite3d.evaluate.protocols import Entry
from suite3d.image.data.sets import ImageSet
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.recipes.probe import plain_view
from suite3d.image.views import ViewConfig
from suite3d.nn.pooling import features_and_tokens, pooled_features


def compared_view() -> ViewConfig:
    """MoCo v2's view without its blur: a crop of a fifth to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.2, 1.0), flip=0.5, jitter=0.8, gray=0.2)


@dataclass(kw_only=True)
class DiagnosticsConfig:
    """Diagnostics of frozen features.

    Attributes:
        pictures: at most, evenly spread over the training pictures.
        views: augmented views of each picture, for alignment and LiDAR (whose paper takes 50 of 1000 pictures).
        view: how they are drawn; its size, mean and deviation are those of ``augment``. The same for every run, whatever it was trained with,
            so that runs can be compared (the paper takes each run's own).
        delta: LiDAR's regulariser.
    """

    pictures: int = 1000
    views: int = 10
    view: ViewConfig = field(default_factory=compared_view)
    delta: float = 1e-4

    def __post_init__(self) -> None:
        if min(self.pictures, self.views) < 2:
            raise ConfigError(f"diagnostics expected at least two pictures and two views, got {self.pictures} and {self.views}")


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What an encoder says of n pictures: ``plain (n, D)``, ``views (n, q, D)``, how alike its tokens are, and what could not be read."""

    plain: Tensor
    views: Tensor
    similarity: TokenSimilarity
    skipped: list[str]


def diagnose(
    encoder: nn.Module, images: ImageSet, config: DiagnosticsConfig, *, augment: ViewConfig, data: str, device: torch.device, batch: int, workers: int
) -> Entry:
    """All diagnostics of one encoder.

    Args:
        encoder: on ``device``, in evaluation mode.
        images: the pictures. data: where they are from, in words.
        augment: size, mean and deviation of the pixels.
        batch, workers: pictures at a time, loader processes.

    Raises:
        ValueError: fewer than two pictures could be read.
    """
    rows = spread(list(range(len(images))), config.pictures)
    view = replace(config.view, size=augment.size, mean=augment.mean, std=augment.std)
    source = ImageSource(images, [plain_view(augment), ViewGroup(count=config.views, view=view)], indices=rows)
    found = look(encoder, source, device=device, batch=batch, workers=workers)
    if len(found.plain) < 2:
        raise ValueError(f"diagnostics need at least two pictures, {len(found.plain)} could be read; the first problems: {found.skipped[:3]}")
    count, width = found.plain.shape
    pairs = list(combinations(range(config.views), 2))
    metrics = {
        "rankme": rank_me(found.plain),
        "effective rank": effective_rank(found.plain),
        "lidar rank": lidar_rank(found.views, delta=config.delta),
        "feature std": feature_std(found.plain),
        "alignment": sum(alignment(found.views[:, a], found.views[:, b]) for a, b in pairs) / len(pairs),
        "uniformity": uniformity(found.plain),
        **{name.replace("_", " "): value for name, value in found.similarity.metrics().items()},
    }
    most = {"rankme": min(count, width), "effective rank": min(count - 1, width), "lidar rank": min(count - 1, width)}
    plain = f"one plain view of each of {count} training pictures"
    protocol = {
        "in short": f"{plain}; alignment and LiDAR: {config.views} augmented views each",
        "features": "frozen encoder, class token or mean over all places",
        "pixels": f"{augment.size} x {augment.size}",
        "data": f"{data}; no label is read",
        "rankme, effective rank": "exp of the entropy of the singular values over their sum, of the features and of the centred features",
        "lidar rank": f"exp of the entropy of the eigenvalues of the LDA matrix, pictures against views, delta {config.delta:g}",
        "feature std": "of unit features, mean over channels, times the root of their number: 1 fills the sphere, 0 is collapsed",
        "alignment": f"mean squared distance of unit features over all {len(pairs)} pairs of views: 0 is perfect",
        "uniformity": "log mean exp(-2 d^2) over pairs of pictures, unit features: 0 is collapsed, lower is better",
        "token similarity": "mean cosine of two places of a picture: 1 is over-smoothed",
        "views": f"{view.crop}, area {list(view.area)}, mirror {view.flip:g}, jitter {view.jitter:g}, grey {view.gray:g}",
    }
    shown = {name: f"{value:.2f} of {most[name]}" if name in most else f"{value:.4f}" for name, value in metrics.items()}
    return {"metrics": metrics, "percent": False, "shown": shown, "protocol": protocol, "skipped": found.skipped}


@torch.no_grad()
def look(encoder: nn.Module, source: ImageSource, *, device: torch.device, batch: int, workers: int) -> Looked:
    """Encode view 0 of every sample as it is and the others as augmented views; each picture is read once."""
    plain: list[Tensor] = []
    views: list[Tensor] = []
    skipped: list[str] = []
    similarity = TokenSimilarity()
    for part in each_once(source, range(len(source)), batch_size=batch, workers=workers):
        skipped += part.skipped
        if part.batch is None:
            continue
        pictures = part.batch.to(device)
        pooled, tokens = features_and_tokens(encoder, pictures.pixels(0))
        similarity.add(tokens)
        plain.append(pooled.float().cpu())
        others = [pooled_features(encoder, pictures.pixels(place)).float().cpu() for place in range(1, len(pictures.views))]
        views.append(torch.stack(others, dim=1))  # [B, q, D]
    if not plain:
        raise ValueError(f"no picture could be read; the first problems: {skipped[:3]}")
    return Looked(plain=torch.cat(plain), views=torch.cat(views), similarity=similarity, skipped=skipped)
