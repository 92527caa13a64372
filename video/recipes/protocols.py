"""The protocols of ``suite3d evaluate`` on videos: which clips their features are of; the arithmetic is :mod:`suite3d.evaluate.protocols`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from suite3d.evaluate import protocols
from suite3d.evaluate.attentive import attentive_probe
from suite3d.evaluate.protocols import Entry, Frozen
from suite3d.video.recipes.frozen import Bench
from suite3d.video.recipes.propagation import propagate_videos


def _frozen(bench: Bench, *, clips: int = 0) -> Frozen:
    config = bench.config
    clips = clips or config.clips
    train, test = bench.pooled(clips=clips, crops=config.crops)
    return Frozen(
        train=train,
        test=test,
        classes=len(bench.videos.classes),
        kind="videos",
        views=f"mean of {clips} clips x {config.crops} crops",
        details=bench.describe(clips=clips, crops=config.crops),
        device=bench.device,
        seed=config.seed,
    )


def attentive(bench: Bench) -> Entry:
    """V-JEPA 2's attentive probe."""
    config, tokens = bench.config, bench.config.tokens
    settings = replace(config.attentive, seed=config.seed)
    train, test = bench.token_banks()
    found = attentive_probe(train, test, classes=len(bench.videos.classes), config=settings, device=bench.device)
    views = f"{tokens.segments} segments x {tokens.crops} crops"
    protocol = {
        "in short": (
            f"{settings.depth} blocks, {found.heads} heads, {len(settings.settings)} settings, {settings.epochs} epochs, {views}; "
            f"chosen on {found.chosen_on}"
        ),
        **bench.describe(clips=tokens.segments, crops=tokens.crops),
        "features": f"all tokens of the frozen encoder, those of {tokens.segments} segments together; softmax averaged over {tokens.crops} crops",
        "training clips": "cropped anew in every epoch" if tokens.online else "one fixed middle crop of each video",
        "optimiser": f"AdamW, cosine to 0, batch {settings.batch_size}",
        "chosen on": found.chosen_on,
    }
    chosen = {"lr": found.rate, "weight decay": found.decay}
    skipped = test.skipped + getattr(train, "skipped", [])
    return {"metrics": found.scores, "protocol": protocol, "chosen": chosen, "grid": found.grid, "skipped": skipped}


def propagation(bench: Bench) -> Entry:
    """Objects of a first frame followed through the video."""
    config = bench.config
    return propagate_videos(bench.encoder.to(bench.device), config.propagation, config.data.motion, augment=config.augment, device=bench.device)


PROTOCOLS: dict[str, Callable[[Bench], Entry]] = {
    "knn": lambda bench: protocols.knn(_frozen(bench), bench.config.knn),
    "linear": lambda bench: protocols.linear(_frozen(bench), bench.config.linear),
    "attentive": attentive,
    "fewshot": lambda bench: protocols.fewshot(_frozen(bench), bench.config.fewshot),
    "retrieval": lambda bench: protocols.retrieval(_frozen(bench, clips=bench.config.retrieval.clips), bench.config.retrieval),
    "propagation": propagation,
}
WITHOUT_CLASSES = frozenset({"propagation"})
"""Protocols that read no class of a video, so any run will do."""
