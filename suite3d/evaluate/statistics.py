"""Means over seeds with intervals, and paired differences: Student's t, exact for the few runs one can afford.

Gosset, "The probable error of a mean", Biometrika 1908. The distribution function for integer degrees of freedom is the
finite series of Abramowitz & Stegun 26.7.3 and 26.7.4, so nothing beyond the standard library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its two-sided confidence interval.

    Attributes:
        mean: sample mean.
        low, high: ends of the interval; -inf and inf with a single value, which says nothing about spread.
        std: sample standard deviation (n - 1); nan for n = 1.
        n: number of values.
        confidence: e.g. 0.95.
        p_value: two-sided p of "the true mean is 0" (t test); nan for n = 1.
    """

    mean: float
    low: float
    high: float
    std: float
    n: int
    confidence: float
    p_value: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def format(self, *, signed: bool = False, digits: int = 2) -> str:
        """``61.20 [58.11, 64.29] (95 %, n = 3)``; with ``signed`` a difference, ``+2.31 [...]``."""
        mark = "+" if signed else ""
        if self.n == 1:
            return f"{self.mean:{mark}.{digits}f} (n = 1, no interval)"
        return f"{self.mean:{mark}.{digits}f} [{self.low:{mark}.{digits}f}, {self.high:{mark}.{digits}f}] ({100 * self.confidence:g} %, n = {self.n})"

    def __str__(self) -> str:
        return self.format()


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of independent runs with its t interval ``mean +- t_{(1 + confidence) / 2, n - 1} s / sqrt(n)``.

    Raises:
        ValueError: no values, values that are not finite, or a confidence outside (0, 1).
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("expected at least one value, got none")
    if not all(math.isfinite(value) for value in numbers):
        raise ValueError(f"expected finite values, got {numbers}: a run without a result cannot be averaged")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    n = len(numbers)
    mean = math.fsum(numbers) / n
    if n == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf, std=math.nan, n=1, confidence=confidence, p_value=math.nan)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (n - 1))
    error = std / math.sqrt(n)
    reach = t_quantile(0.5 * (1 + confidence), n - 1) * error
    p_value = (0.0 if mean else 1.0) if error == 0 else 1 - t_central_probability(abs(mean) / error, n - 1)
    return Interval(mean=mean, low=mean - reach, high=mean + reach, std=std, n=n, confidence=confidence, p_value=p_value)


def paired_difference(pretrained: Sequence[float], scratch: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Interval of ``pretrained[i] - scratch[i]``, pairs that share a seed (labels, order, augmentation): the paired t test.

    Raises:
        ValueError: lists of different lengths, empty, or not finite.
    """
    if len(pretrained) != len(scratch):
        raise ValueError(f"a paired difference needs one scratch run per pretrained run, got {len(pretrained)} and {len(scratch)}")
    return mean_interval([a - b for a, b in zip(pretrained, scratch, strict=True)], confidence=confidence)


def t_central_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's t with integer ``degrees`` of freedom (Abramowitz & Stegun 26.7.3, 26.7.4)."""
    if degrees < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {degrees}")
    theta = math.atan(abs(t) / math.sqrt(degrees))
    cos, sin = math.cos(theta), math.sin(theta)
    odd = degrees % 2
    term = cos if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sin * total) if odd else sin * total


def t_quantile(probability: float, degrees: int) -> float:
    """The t with P(T <= t) = ``probability``, by bisection on the angle arctan(t / sqrt(degrees)).

    Raises:
        ValueError: a probability outside (0, 1) or fewer than 1 degree of freedom.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie between 0 and 1, got {probability}")
    central = abs(2 * probability - 1)
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if t_central_probability(math.sqrt(degrees) * math.tan(middle), degrees) < central:
            low = middle
        else:
            high = middle
    return math.copysign(math.sqrt(degrees) * math.tan(low), probability - 0.5)
