"""Is the representation alive? Effective rank, spread, alignment, uniformity, LDA rank, token similarity, and a plain sentence on collapse.

RankMe: Garrido et al., ICML 2023, equation 1. Alignment and uniformity: Wang & Isola, ICML 2020, equations 2 and 3.
LiDAR: Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024.
Dimensional collapse: Jing et al., ICLR 2022. Over-smoothed tokens: Gong et al., "Vision Transformers with Patch Diversification", 2021.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


def rank_me(features: Tensor, *, eps: float = 1e-7) -> float:
    """RankMe of ``(N, C)`` features: exp of the entropy of the singular values over their sum. 1 to min(N, C), 0 if all are zero."""
    return _entropy_rank(_singular_values(_matrix(features)), eps)


def effective_rank(features: Tensor, *, eps: float = 1e-7) -> float:
    """As :func:`rank_me`, of the centred features: directions in which the samples differ. A large common mean does not hide collapse."""
    centred = _matrix(features)
    return _entropy_rank(_singular_values(centred - centred.mean(dim=0)), eps)


def feature_std(features: Tensor) -> float:
    """Mean over channels of the standard deviation of the L2-normalised features, times sqrt(C): 1 when they fill the
    sphere evenly, 0 when all samples agree (Chen & He, CVPR 2021, section 4.1)."""
    x = _matrix(features)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return float(x.std(dim=0, correction=0).mean()) * math.sqrt(x.shape[1])


def spread(features: Tensor) -> float:
    """How far the directions of the samples differ, 0 to 1: ``sqrt(1 - |mean of the L2-normalised features|^2)``."""
    x = _matrix(features)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return math.sqrt(max(0.0, 1.0 - float(x.mean(dim=0).square().sum())))


def alignment(first: Tensor, second: Tensor, *, power: float = 2.0) -> float:
    """Mean distance**power between L2-normalised positive pairs ``(N, C)``; 0 is perfectly aligned."""
    if first.shape != second.shape:
        raise ValueError(f"alignment needs pairs: expected equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (_matrix(first), _matrix(second)))
    return float((a - b).norm(dim=1).pow(power).mean())


def uniformity(features: Tensor, *, t: float = 2.0) -> float:
    """log mean exp(-t d^2) over pairs of L2-normalised ``(N, C)`` features; 0 is collapsed, lower is more uniform."""
    x = _matrix(features)
    if len(x) < 2:
        raise ValueError(f"uniformity needs at least two samples, got {len(x)}")
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    potential = (2 * t * (x @ x.T - 1)).exp()  # |a - b|^2 = 2 - 2 a.b
    pairs = (potential.sum() - potential.diagonal().sum()) / (len(x) * (len(x) - 1))
    return float(pairs.log())


def lidar_rank(features: Tensor, *, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """LiDAR: in how many directions do samples differ by more than the views of one sample do?

    With mu_x the mean over the views of sample x and mu the mean of those,

        S_b = mean_x (mu_x - mu)(mu_x - mu)^T,  S_w = mean_{x, view} (z - mu_x)(z - mu_x)^T + delta I
        LiDAR = exp(- sum_i p_i log p_i),  p_i = l_i / sum l + eps,  l = eigenvalues of S_w^{-1/2} S_b S_w^{-1/2}

    Eigenvalues, not their roots as in RankMe. Noise that the views do not share raises RankMe and not this. The features are taken as they
    are, so ``delta`` is in their units squared; the paper's experiments use 1000 samples of 50 views.

    Args:
        features: ``(n, q, C)``, q views of n samples.
        delta: added to the diagonal of the scatter within samples. The paper: 1e-4.

    Returns:
        1 to min(n - 1, C); 0 where all samples have the same mean.

    Raises:
        ValueError: another shape, fewer than two samples or two views, delta <= 0.
    """
    if features.ndim != 3 or min(features.shape[:2], default=0) < 2 or features.shape[2] < 1 or not delta > 0:
        raise ValueError(f"lidar_rank expected (n, q, C) of at least two samples and two views, and delta > 0, got {tuple(features.shape)}, {delta}")
    x = features.detach().double()
    means = x.mean(dim=1)  # [n, C]
    between = (means - means.mean(dim=0)) / math.sqrt(len(x))
    inside = (x - means[:, None]).flatten(0, 1)  # [n q, C]
    within = inside.T @ inside / len(inside) + delta * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    # S_w = L L^T: the eigenvalues of L^-1 S_b L^-T are those of S_w^-1/2 S_b S_w^-1/2.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False).T
    return _entropy_rank(_singular_values(whitened).square(), eps)


def token_similarity(tokens: Tensor) -> float:
    """Mean cosine between two different tokens of a sample, over all pairs and samples of ``(B, N, C)``: 1 when the tokens of each sample all
    agree (over-smoothing, patch collapse), about 0 when they point everywhere."""
    if tokens.ndim != 3 or tokens.shape[1] < 2 or tokens.numel() == 0:
        raise ValueError(f"token_similarity expected tokens (B, N, C) with at least two tokens a sample, got {tuple(tokens.shape)}")
    x = tokens.detach().double()
    x = x / x.norm(dim=2, keepdim=True).clamp_min(1e-12)
    count = x.shape[1]
    both = x.sum(dim=1).square().sum(dim=1) - x.square().sum(dim=(1, 2))  # [B] sum over ordered pairs
    return float((both / (count * (count - 1))).mean())


@dataclass
class TokenSimilarity:
    """:func:`token_similarity` of many batches, weighted by their samples."""

    total: float = 0.0
    samples: int = 0

    def add(self, tokens: Tensor) -> None:
        """Count the samples of ``(B, N, C)``; those of a single token say nothing and are left out."""
        if tokens.shape[1] > 1:
            self.total += len(tokens) * token_similarity(tokens)
            self.samples += len(tokens)

    def metrics(self) -> dict[str, float]:
        """``{"token_similarity"}``; empty where no sample had two tokens."""
        return {"token_similarity": self.total / self.samples} if self.samples else {}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the monitor sees.

    Attributes:
        collapsed: True while the features have been collapsed for ``patience`` checks in a row.
        message: one plain sentence when there is news (collapse, or recovery from it), otherwise empty.
        summary: the state in one sentence, always.
        rank: RankMe of the features.
        effective_rank: rank of the centred features.
        std: :func:`feature_std`.
        spread: :func:`spread`.
        uniformity: :func:`uniformity`.
    """

    collapsed: bool
    message: str
    summary: str
    rank: float = math.nan
    effective_rank: float = math.nan
    std: float = math.nan
    spread: float = math.nan
    uniformity: float = math.nan

    def metrics(self) -> dict[str, float]:
        """Scalars to log; empty where nothing could be measured."""
        named = {"rankme": self.rank, "effective_rank": self.effective_rank, "feature_std": self.std, "feature_spread": self.spread}
        named["uniformity"] = self.uniformity
        return {name: value for name, value in named.items() if math.isfinite(value)}


@dataclass(kw_only=True)
class CollapseMonitor:
    """Watches ``(N, C)`` features during training and says in a sentence when they collapse.

    Three ways to collapse are told apart. *Constant*: every sample gets (nearly) the same vector, up to its length. *Line*: the samples differ
    along a single direction. *Shrunk*: the features fade to zero length. Each has a limit far from what healthy features
    show and must hold ``patience`` checks in a row; an encoder that never had more than a few directions (random, few
    channels) is judged against its own best.

    Attributes:
        every: of the calls to :meth:`update`, every how many-th looks (it costs two small eigenvalue problems).
        patience: checks in a row before the verdict.
        max_samples: rows used of each batch, evenly spaced.
        min_samples: fewer rows are not judged.
        constant_spread: below this spread the features are constant; below 2.5 times it too if they once had ten times their present spread.
        line_rank: below this effective rank the features lie on a line, if they once had twice it.
    """

    every: int = 10
    patience: int = 5
    max_samples: int = 1024
    min_samples: int = 16
    constant_spread: float = 0.02
    line_rank: float = 1.5
    _calls: int = field(default=0, repr=False)
    _last: Verdict = field(default=Verdict(collapsed=False, message="", summary="No features were seen yet."), repr=False)
    _suspicions: deque[str] = field(default_factory=deque, repr=False)
    _best_spread: float = field(default=0.0, repr=False)
    _best_rank: float = field(default=0.0, repr=False)
    _longest: float = field(default=0.0, repr=False)

    def metrics(self) -> dict[str, float]:
        """Scalars of the latest look."""
        return self._last.metrics()

    @torch.no_grad()
    def update(self, features: Tensor) -> Verdict:
        """Look at this step's features. Between looks the last verdict is repeated, without its message."""
        self._calls += 1
        if (self._calls - 1) % self.every:
            return replace(self._last, message="")
        before = self._last.collapsed
        verdict = self._look(_matrix(features))
        if verdict.collapsed != before:
            message = verdict.summary if verdict.collapsed else f"The representation has recovered. {verdict.summary}"
            verdict = replace(verdict, message=message)
        self._last = verdict
        return verdict

    def _look(self, x: Tensor) -> Verdict:
        if len(x) > self.max_samples:
            x = x[torch.linspace(0, len(x) - 1, self.max_samples, device=x.device).long()]
        if len(x) < self.min_samples:
            return replace(
                self._last, message="", summary=f"Too few feature rows to judge the representation: {len(x)} of at least {self.min_samples}."
            )
        if not torch.isfinite(x).all():
            sentence = "The features contain NaN or infinity: training has diverged. Lower the learning rate or clip gradients harder."
            return Verdict(collapsed=True, message="", summary=sentence)
        x = x.cpu()
        length = math.sqrt(float(x.square().sum(dim=1).mean()))
        rank, spread_now = effective_rank(x), spread(x)
        self._best_spread, self._best_rank, self._longest = max(self._best_spread, spread_now), max(self._best_rank, rank), max(self._longest, length)
        suspicion = self._suspect(length, rank, spread_now, x.shape[1])
        self._suspicions.append(suspicion)
        if len(self._suspicions) > self.patience:
            self._suspicions.popleft()
        collapsed = len(self._suspicions) == self.patience and all(self._suspicions)
        sentence = f"The representation looks healthy: effective rank {rank:.1f} of {x.shape[1]}, spread {100 * spread_now:.0f} %."
        if suspicion:
            sentence = f"The representation may be collapsing: {suspicion}"
        if collapsed:
            sentence = f"The representation has collapsed: for {self.patience} checks in a row {suspicion}"
        return Verdict(
            collapsed=collapsed,
            message="",
            summary=sentence,
            rank=rank_me(x),
            effective_rank=rank,
            std=feature_std(x),
            spread=spread_now,
            uniformity=uniformity(x),
        )

    def _suspect(self, length: float, rank: float, spread_now: float, channels: int) -> str:
        """Why these features look collapsed, or an empty string."""
        if length <= 1e-8 or length < 1e-4 * self._longest:
            return f"the features have shrunk to length {length:.1e}. Check weight decay and whether the loss rewards small features."
        if spread_now < self.constant_spread or spread_now < min(2.5 * self.constant_spread, 0.1 * self._best_spread):
            return (
                f"all samples get nearly the same feature (spread {100 * spread_now:.2g} %, {100 * self._best_spread:.0f} % at its best). "
                "Lower the learning rate, raise the momentum of the target, or strengthen the term that keeps samples apart."
            )
        if channels > 2 and rank < self.line_rank and self._best_rank > 2 * self.line_rank:
            return (
                f"the samples differ along a single direction (effective rank {rank:.2f} of {channels}, {self._best_rank:.1f} at its best). "
                "Add or strengthen a variance / covariance term, or lower the learning rate."
            )
        return ""


def _matrix(features: Tensor) -> Tensor:
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"expected features of shape (N, C) with N, C > 0, got {tuple(features.shape)}")
    return features.detach().double()


def _singular_values(x: Tensor) -> Tensor:
    """From the smaller Gram matrix: in double precision good to 1e-8 of the largest, below the eps of the entropy."""
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()


def _entropy_rank(singular_values: Tensor, eps: float) -> float:
    total = singular_values.sum()
    if float(total) <= 0:
        return 0.0
    share = singular_values / total + eps
    return float(torch.exp(-(share * share.log()).sum()))
