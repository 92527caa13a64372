"""Student's t against scipy and against its closed forms."""

from __future__ import annotations

import math

import pytest

from suite3d.evaluate.statistics import mean_interval, paired_difference, t_central_probability, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 30, 99, 100])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.95, 0.975, 0.995, 0.9999, 0.025])
def test_quantile_equals_scipy(degrees, probability):
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9, abs=1e-12)
    assert t_central_probability(2.3, degrees) == pytest.approx(2 * stats.t.cdf(2.3, degrees) - 1, rel=1e-12)


def test_quantile_has_its_closed_forms():
    for p in (0.6, 0.9, 0.975, 0.995):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)))
        a = 4 * p * (1 - p)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / a))
        assert t_quantile(p, 4) == pytest.approx(2 * math.sqrt(math.cos(math.acos(math.sqrt(a)) / 3) / math.sqrt(a) - 1))
    assert t_quantile(0.975, 2) == pytest.approx(4.30265273, abs=1e-8)  # the table everyone has


def test_interval_of_three_seeds():
    interval = mean_interval([60.0, 61.0, 65.0])
    assert interval.mean == pytest.approx(62) and interval.std == pytest.approx(math.sqrt(7))
    assert interval.high - interval.mean == pytest.approx(4.30265273 * math.sqrt(7 / 3))
    assert str(interval) == f"62.00 [{interval.low:.2f}, {interval.high:.2f}] (95 %, n = 3)"


def test_p_value_equals_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    a, b = [61.2, 60.1, 63.0, 59.9], [58.0, 59.5, 60.7, 57.1]
    difference = paired_difference(a, b)
    expected = stats.ttest_rel(a, b)
    assert difference.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))
    assert difference.excludes_zero and difference.format(signed=True).startswith("+2.22 [+0.40, +4.05]")


def test_pairing_removes_what_the_seeds_share():
    scratch = [40.0, 50.0, 60.0]
    difference = paired_difference([41.0, 51.1, 60.9], scratch)
    assert difference.excludes_zero and difference.mean == pytest.approx(1.0)
    assert not mean_interval([41.0 - 50, 51.1 - 50, 60.9 - 50]).excludes_zero


def test_one_value_has_no_interval_and_no_spread_has_no_width():
    single = mean_interval([3.0])
    assert single.low == -math.inf and single.high == math.inf and not single.excludes_zero and "no interval" in str(single)
    same = mean_interval([2.0, 2.0])
    assert (same.low, same.high, same.p_value) == (2.0, 2.0, 0.0)


def test_coverage_is_what_it_says():
    import numpy as np

    rng = np.random.default_rng(0)
    covered = [(i := mean_interval(rng.normal(size=3).tolist(), confidence=0.9)).low < 0 < i.high for _ in range(4000)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_must_be_there_and_finite(values):
    with pytest.raises(ValueError, match="expected"):
        mean_interval(values)


def test_pairs_must_match():
    with pytest.raises(ValueError, match="one scratch run per pretrained run, got 2 and 1"):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0], confidence=1.0)
