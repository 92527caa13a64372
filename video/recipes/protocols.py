"""The protocols of ``suite3d evaluate``: each turns frozen features into numbers and says how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from suite3d.evaluate.attentive import attentive_probe
from suite3d.evaluate.fewshot import few_shot
from suite3d.evaluate.linear import fit_linear
from suite3d.evaluate.probes import knn_votes
from suite3d.evaluate.retrieval import retrieval_recall
from suite3d.evaluate.scores import classification_scores
from suite3d.video.recipes.frozen import Bench

Entry = dict[str, Any]
"""``metrics`` (percent by name), ``protocol`` (with a line ``in short``), ``skipped``, perhaps ``shown`` (numbers as text) and more."""


def knn(bench: Bench) -> Entry:
    """Weighted nearest neighbours; the bank holds training videos only."""
    config = bench.config
    train, test = bench.pooled(clips=config.clips, crops=config.crops)
    bank, labels, queries = (tensor.to(bench.device) for tensor in (train.features, train.labels, test.features))
    asked = config.knn.k
    used = [k for k in asked if k <= len(train)] or [min(asked[0], len(train))]
    metrics: dict[str, float] = {}
    for k in used:
        votes = knn_votes(bank, labels, queries, classes=len(bench.videos.classes), k=k, temperature=config.knn.temperature)
        metrics |= {f"k={k} {name}": value for name, value in classification_scores(votes.cpu(), test.labels).items()}
    left = [k for k in asked if k not in used]
    protocol = {
        "in short": f"cosine, T={config.knn.temperature:g}, bank of {len(train)} training videos, {config.clips} x {config.crops} views",
        **bench.describe(clips=config.clips, crops=config.crops),
        "left out": f"k={left}: larger than the bank" if left else "nothing",
    }
    return {"metrics": metrics, "protocol": protocol, "skipped": train.skipped + test.skipped}


def linear(bench: Bench) -> Entry:
    """Batch norm without affine parameters and a linear layer."""
    config = bench.config
    train, test = bench.pooled(clips=config.clips, crops=config.crops)
    settings = replace(config.linear, seed=config.seed)
    rows, labels = train.features.to(bench.device), train.labels.to(bench.device)
    fit = fit_linear(rows, labels, classes=len(bench.videos.classes), config=settings, groups=train.groups)
    protocol = {
        "in short": f"BN + linear, SGD, {settings.epochs} epochs, lr {fit.rate:g} chosen on {fit.chosen_on}",
        **bench.describe(clips=config.clips, crops=config.crops),
        "optimiser": f"SGD, momentum {settings.momentum:g}, weight decay {settings.weight_decay:g}, batch {settings.batch_size}, cosine",
        "chosen on": fit.chosen_on,
    }
    metrics = classification_scores(fit.logits(test.features.to(bench.device)).cpu(), test.labels)
    return {"metrics": metrics, "protocol": protocol, "chosen": {"lr": fit.rate}, "grid": fit.grid, "skipped": train.skipped + test.skipped}


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


def fewshot(bench: Bench) -> Entry:
    """A few training videos of each class, several draws."""
    config = bench.config
    train, test = bench.pooled(clips=config.clips, crops=config.crops)
    scores = few_shot(
        train.features, train.labels, test.features, test.labels, classes=len(bench.videos.classes), config=config.fewshot, groups=train.groups
    )
    protocol = {
        "in short": f"{config.fewshot.classifier}, {config.fewshot.seeds} draws of the shots, all {len(test)} test videos; 95 % interval over draws",
        **bench.describe(clips=config.clips, crops=config.crops),
    }
    return {
        "metrics": {f"{score.shots}-shot top-1": score.interval.mean for score in scores},
        "shown": {f"{score.shots}-shot top-1": str(score.interval) for score in scores},
        "draws": {f"{score.shots}-shot": list(score.values) for score in scores},
        "protocol": protocol,
        "skipped": train.skipped + test.skipped,
    }


def retrieval(bench: Bench) -> Entry:
    """Test videos query the training videos."""
    config = bench.config.retrieval
    train, test = bench.pooled(clips=config.clips, crops=bench.config.crops)
    protocol = {
        "in short": f"cosine, {len(train)} training videos, {len(test)} test queries, mean of {config.clips} clips x {bench.config.crops} crops",
        **bench.describe(clips=config.clips, crops=bench.config.crops),
    }
    sides = [tensor.to(bench.device) for tensor in (train.features, train.labels, test.features, test.labels)]
    metrics = retrieval_recall(*sides, ranks=config.ranks)
    return {"metrics": metrics, "protocol": protocol, "skipped": train.skipped + test.skipped}


PROTOCOLS: dict[str, Callable[[Bench], Entry]] = {
    "knn": knn,
    "linear": linear,
    "attentive": attentive,
    "fewshot": fewshot,
    "retrieval": retrieval,
}
