"""What frozen features are worth: each protocol turns two labelled feature sets into numbers and says how it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from suite3d.config import ConfigError
from suite3d.engine.files import write_json
from suite3d.evaluate.features import FeatureSet
from suite3d.evaluate.fewshot import FewShotConfig, few_shot
from suite3d.evaluate.linear import LinearConfig, fit_linear
from suite3d.evaluate.probes import fit_ridge, knn_votes
from suite3d.evaluate.retrieval import RANKS, retrieval_recall
from suite3d.evaluate.scores import classification_scores

Bench = TypeVar("Bench")
Entry = dict[str, Any]
"""``metrics`` (by name; percent unless ``percent`` is False), ``protocol`` (with a line ``in short``), ``skipped``, perhaps ``shown`` (numbers
as text) and more."""


@dataclass(kw_only=True)
class KnnConfig:
    """Nearest neighbours. ``k``: numbers of neighbours, those beyond the bank's size are left out; ``temperature`` of their votes."""

    k: tuple[int, ...] = (20, 200)
    temperature: float = 0.07


@dataclass(kw_only=True)
class RetrievalConfig:
    """Retrieval. ``clips`` of a video whose features are averaged (a picture has one); ``ranks``: the k of R@k."""

    clips: int = 10
    ranks: tuple[int, ...] = RANKS


@dataclass(kw_only=True)
class SvmConfig:
    """Linear support vector machine, one against the rest. ``C``: penalties to choose from on a held-out fifth of the training rows."""

    C: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(kw_only=True)
class Frozen:
    """Features ``(n, D)`` of training and test samples, and what a protocol has to say about them.

    Attributes:
        train, test: the two sets; the test labels are used to score only.
        classes: how many there are.
        kind: what a sample is called ("videos", "pictures").
        views: views of a sample that were averaged, in a few words.
        details: what a feature is, as lines of the protocol.
        device: where the arithmetic runs. seed: of whatever is drawn.
    """

    train: FeatureSet
    test: FeatureSet
    classes: int
    kind: str
    views: str
    details: dict[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    @property
    def skipped(self) -> list[str]:
        return self.train.skipped + self.test.skipped

    def sides(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training features and labels, test features and labels, on the device."""
        train, test = self.train, self.test
        return tuple(part.to(self.device) for part in (train.features, train.labels, test.features, test.labels))  # type: ignore[return-value]


def knn(frozen: Frozen, config: KnnConfig) -> Entry:
    """Weighted nearest neighbours; the bank holds training samples only."""
    bank, labels, queries, _ = frozen.sides()
    size = len(frozen.train)
    used = [k for k in config.k if k <= size] or [min(config.k[0], size)]
    metrics: dict[str, float] = {}
    for k in used:
        votes = knn_votes(bank, labels, queries, classes=frozen.classes, k=k, temperature=config.temperature)
        metrics |= {f"k={k} {name}": value for name, value in classification_scores(votes.cpu(), frozen.test.labels).items()}
    left = [k for k in config.k if k not in used]
    protocol = {
        "in short": f"cosine, T={config.temperature:g}, bank of {size} training {frozen.kind}, {frozen.views}",
        **frozen.details,
        "left out": f"k={left}: larger than the bank" if left else "nothing",
    }
    return {"metrics": metrics, "protocol": protocol, "skipped": frozen.skipped}


def linear(frozen: Frozen, config: LinearConfig) -> Entry:
    """Batch norm without affine parameters and a linear layer."""
    settings = replace(config, seed=frozen.seed)
    rows, labels, queries, _ = frozen.sides()
    fit = fit_linear(rows, labels, classes=frozen.classes, config=settings, groups=frozen.train.groups)
    protocol = {
        "in short": f"BN + linear, SGD, {settings.epochs} epochs, lr {fit.rate:g} chosen on {fit.chosen_on}",
        **frozen.details,
        "optimiser": f"SGD, momentum {settings.momentum:g}, weight decay {settings.weight_decay:g}, batch {settings.batch_size}, cosine",
        "chosen on": fit.chosen_on,
    }
    metrics = classification_scores(fit.logits(queries).cpu(), frozen.test.labels)
    return {"metrics": metrics, "protocol": protocol, "chosen": {"lr": fit.rate}, "grid": fit.grid, "skipped": frozen.skipped}


def ridge(frozen: Frozen, penalty: float) -> Entry:
    """Least squares on one-hot labels, in closed form."""
    rows, labels, queries, _ = frozen.sides()
    probe = fit_ridge(rows, labels, classes=frozen.classes, penalty=penalty)
    predicted = torch.nn.functional.one_hot(probe.predict(queries), frozen.classes).float()
    scores = classification_scores(predicted.cpu(), frozen.test.labels)
    protocol = {"in short": f"ridge regression on one-hot labels, penalty {penalty:g}, {frozen.views}", **frozen.details}
    return {"metrics": {name: value for name, value in scores.items() if name != "top-5"}, "protocol": protocol, "skipped": frozen.skipped}


def svm(frozen: Frozen, config: SvmConfig) -> Entry:
    """scikit-learn's linear support vector machine on standardised features. Raises ValueError without scikit-learn."""
    try:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ValueError("svm needs scikit-learn: pip install scikit-learn") from error
    rows, labels = frozen.train.features.numpy(), frozen.train.labels.numpy()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(frozen.seed)).numpy()
    held, kept = order[: max(len(rows) // 5, 1)], order[max(len(rows) // 5, 1) :]

    def fitted(penalty: float, chosen: Any) -> Any:
        return make_pipeline(StandardScaler(), LinearSVC(C=penalty, random_state=frozen.seed)).fit(rows[chosen], labels[chosen])

    grid = {f"C={penalty:g}": 100 * float(fitted(penalty, kept).score(rows[held], labels[held])) for penalty in config.C}
    best = config.C[list(grid.values()).index(max(grid.values()))]
    decided = fitted(best, order).decision_function(frozen.test.features.numpy())
    scores = torch.as_tensor(decided, dtype=torch.float32)
    if scores.ndim == 1:  # two classes
        scores = torch.stack((-scores, scores), dim=1)
    protocol = {"in short": f"linear SVM on standardised features, C={best:g} chosen on a fifth of the training {frozen.kind}", **frozen.details}
    return {
        "metrics": classification_scores(scores, frozen.test.labels),
        "protocol": protocol,
        "chosen": {"C": best},
        "grid": grid,
        "skipped": frozen.skipped,
    }


def nearest_mean(frozen: Frozen) -> Entry:
    """Cosine similarity to the mean of each class's unit features."""
    rows, labels, queries, _ = frozen.sides()
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    means = torch.zeros(frozen.classes, rows.shape[1], device=rows.device).index_add_(0, labels, unit)
    scores = torch.nn.functional.normalize(queries.float(), dim=1) @ torch.nn.functional.normalize(means, dim=1).T
    absent = torch.bincount(labels, minlength=frozen.classes) == 0
    protocol = {"in short": f"cosine to the mean of each class, {len(rows)} training {frozen.kind}, {frozen.views}", **frozen.details}
    metrics = classification_scores(scores.masked_fill(absent, -2.0).cpu(), frozen.test.labels)
    return {"metrics": metrics, "protocol": protocol, "skipped": frozen.skipped}


def fewshot(frozen: Frozen, config: FewShotConfig) -> Entry:
    """A few training samples of each class, several draws."""
    train, test = frozen.train, frozen.test
    scores = few_shot(train.features, train.labels, test.features, test.labels, classes=frozen.classes, config=config, groups=train.groups)
    protocol = {
        "in short": f"{config.classifier}, {config.seeds} draws of the shots, all {len(test)} test {frozen.kind}; 95 % interval over draws",
        **frozen.details,
    }
    return {
        "metrics": {f"{score.shots}-shot top-1": score.interval.mean for score in scores},
        "shown": {f"{score.shots}-shot top-1": str(score.interval) for score in scores},
        "draws": {f"{score.shots}-shot": list(score.values) for score in scores},
        "protocol": protocol,
        "skipped": frozen.skipped,
    }


def retrieval(frozen: Frozen, config: RetrievalConfig) -> Entry:
    """Test samples query the training samples."""
    protocol = {
        "in short": f"cosine, {len(frozen.train)} training {frozen.kind}, {len(frozen.test)} test queries, {frozen.views}",
        **frozen.details,
    }
    return {"metrics": retrieval_recall(*frozen.sides(), ranks=config.ranks), "protocol": protocol, "skipped": frozen.skipped}


@dataclass(kw_only=True)
class PooledConfig:
    """Settings of the protocols that need one vector a sample; ``ridge``: penalty of the ridge classifier."""

    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    fewshot: FewShotConfig = field(default_factory=FewShotConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    svm: SvmConfig = field(default_factory=SvmConfig)
    ridge: float = 1e-2


class PooledBench(Protocol):
    """An encoder on labelled samples, each of which is seen once."""

    @property
    def config(self) -> PooledConfig: ...

    def frozen(self) -> Frozen:
        """One vector a sample."""


POOLED: dict[str, Callable[[PooledBench], Entry]] = {
    "knn": lambda bench: knn(bench.frozen(), bench.config.knn),
    "linear": lambda bench: linear(bench.frozen(), bench.config.linear),
    "ridge": lambda bench: ridge(bench.frozen(), bench.config.ridge),
    "svm": lambda bench: svm(bench.frozen(), bench.config.svm),
    "nearest_mean": lambda bench: nearest_mean(bench.frozen()),
    "fewshot": lambda bench: fewshot(bench.frozen(), bench.config.fewshot),
    "retrieval": lambda bench: retrieval(bench.frozen(), bench.config.retrieval),
}
"""The protocols that pictures and objects share."""


def evaluate_benches(
    run: Path,
    benches: Mapping[str, Bench],
    kinds: Sequence[str],
    protocols: Mapping[str, Callable[[Bench], Entry]],
    out: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Every protocol on every encoder; writes ``out/result.json`` and returns it, with a ``note`` for a person.

    Args:
        run: what is evaluated.
        benches: by the name of the weights ("encoder", "random weights"): an encoder on its data.
        kinds: some of the ``protocols``. One that the data do not allow (ValueError) is left out, with its reason.
        out: folder.
        settings: the whole configuration.

    Raises:
        ConfigError: not one of the protocols is possible.
    """
    entries, left_out = [], {}
    for name, bench in benches.items():
        for kind in kinds:
            try:
                entries.append({"kind": kind, "weights": name, **protocols[kind](bench)})
            except ValueError as error:
                left_out[kind] = str(error)
    if not entries:
        raise ConfigError("; ".join(f"{kind}: {reason}" for kind, reason in left_out.items()))
    result = frozen_result(run, entries, settings) | {"left out": left_out}
    write_json(out / "result.json", result)
    said = [f"{kind} left out: {reason}" for kind, reason in left_out.items()]
    return {**result, "note": "\n".join([*said, f"written to {out / 'result.json'}"])}


def check_kinds(kinds: Sequence[str], known: Iterable[str]) -> None:
    """Raises ConfigError for protocols that are not ``known``, or for none."""
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise ConfigError(f"evaluate: unknown protocol '{','.join(unknown)}': expected some of {', '.join(known)}")


def frozen_result(run: Path, entries: Sequence[Entry], settings: dict[str, Any]) -> dict[str, Any]:
    """All entries (each with its ``kind`` and ``weights``) in one place; the table has a row for every number, with the protocol beside the
    first of each kind."""
    metrics: dict[str, float] = {}
    shown: dict[str, dict[str, str]] = {}
    notes: dict[str, str] = {}
    columns = list(dict.fromkeys(entry["weights"] for entry in entries))
    mixed = not all(entry.get("percent", True) for entry in entries)  # then every number says its own unit
    for entry in entries:
        for place, (name, value) in enumerate(entry["metrics"].items()):
            label = f"{entry['kind']} {name}"
            metrics[label if entry["weights"] == columns[0] else f"{label} ({entry['weights']})"] = value
            plain = f"{value:.2f} %" if mixed and entry.get("percent", True) else f"{value:.2f}"
            shown.setdefault(label, {})[entry["weights"]] = entry.get("shown", {}).get(name, plain)
            notes.setdefault(label, entry["protocol"]["in short"] if place == 0 else "")
    rows = [[label, *(values.get(column, "") for column in columns), notes[label]] for label, values in shown.items()]
    return {
        "run": str(run),
        "metrics": metrics,
        "primary": next(iter(metrics)),
        "table": {"columns": ["frozen features" if mixed else "frozen features, %", *columns, "protocol"], "rows": rows},
        "entries": list(entries),
        "settings": settings,
    }
