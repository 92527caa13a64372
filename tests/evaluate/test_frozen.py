"""Scores, retrieval, linear probe, few-shot and feature files against slow definitions; choices never see the test set."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from suite3d.evaluate.features import FeatureSet, cached_features, weights_digest
from suite3d.evaluate.fewshot import FewShotConfig, draw_shots, few_shot
from suite3d.evaluate.linear import LinearConfig, fit_linear
from suite3d.evaluate.probes import knn_predict, knn_votes
from suite3d.evaluate.retrieval import retrieval_recall
from suite3d.evaluate.scores import classification_scores
from suite3d.labels import choose_subset, held_out_split


def blobs(n, *, classes=4, dim=12, spread=1.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99)) * 2
    labels = torch.arange(n) % classes
    return centres[labels] + spread * torch.randn(n, dim, generator=rng), labels


def test_scores_are_the_counted_ones():
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((50, 8)).astype(np.float32), rng.integers(0, 7, 50)
    top1 = top5 = 0
    right, count = [0] * 8, [0] * 8
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(8), key=lambda k: -row[k])
        top1 += order[0] == label
        top5 += label in order[:5]
        right[label] += order[0] == label
        count[label] += 1
    found = classification_scores(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found["top-1"] == pytest.approx(100 * top1 / 50) and found["top-5"] == pytest.approx(100 * top5 / 50)
    assert found["mean-class"] == pytest.approx(100 * np.mean([r / c for r, c in zip(right, count, strict=True) if c]))
    assert "top-5" not in classification_scores(torch.randn(3, 5), torch.tensor([0, 1, 2]))
    for bad, labels in ((torch.full((2, 3), torch.nan), [0, 1]), (torch.zeros(2, 3), [0, 3]), (torch.zeros(0, 3), [])):
        with pytest.raises(ValueError):
            classification_scores(bad, torch.tensor(labels, dtype=torch.int64))


def test_knn_votes_are_wus():
    (train, train_labels), (test, _) = blobs(40, spread=2.0), blobs(9, spread=2.0, seed=1)
    votes = knn_votes(train, train_labels, test, classes=4, k=5)
    for row, query in enumerate(test):
        similarity = [(float(torch.cosine_similarity(query, key, dim=0)), int(label)) for key, label in zip(train, train_labels, strict=True)]
        expected = [0.0] * 4
        for value, label in sorted(similarity, reverse=True)[:5]:
            expected[label] += float(np.exp(value / 0.07))
        torch.testing.assert_close(votes[row], torch.tensor(expected), rtol=1e-3, atol=1e-3)
    assert torch.equal(votes.argmax(1), knn_predict(train, train_labels, test, classes=4, k=5))


def test_retrieval_counts_a_query_once():
    rng = np.random.default_rng(1)
    gallery, queries = rng.standard_normal((60, 6)), rng.standard_normal((25, 6))
    gallery_labels, query_labels = rng.integers(0, 9, 60), rng.integers(0, 9, 25)
    expected = dict.fromkeys((1, 5, 10, 20, 50), 0)
    for query, label in zip(queries, query_labels, strict=True):
        distance = [-(query @ row) / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery]
        ranked = gallery_labels[np.argsort(distance)]
        for k in expected:
            expected[k] += label in ranked[:k]
    found = retrieval_recall(*map(torch.from_numpy, (gallery, gallery_labels, queries, query_labels)))
    assert found == pytest.approx({f"R@{k}": 100 * hits / 25 for k, hits in expected.items()}, abs=1e-6)
    assert list(retrieval_recall(torch.eye(6), torch.arange(6), torch.eye(6), torch.arange(6))) == ["R@1", "R@5"]


def test_linear_probe_reaches_the_convex_optimum():
    """Softmax regression is convex: a long run must come to what L-BFGS finds."""
    train, labels = blobs(200, spread=2.5)
    fit = fit_linear(train, labels, classes=4, config=LinearConfig(rates=(1.0,), epochs=3000, batch_size=200, weight_decay=1e-2))
    x = (train - train.mean(0)) / (train.var(0, correction=0) + 1e-6).sqrt()
    weight = torch.zeros(13, 4, requires_grad=True)
    padded = torch.cat([x, torch.ones(200, 1)], 1)
    optimiser = torch.optim.LBFGS([weight], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9, tolerance_change=1e-12)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(padded @ weight, labels) + 0.5e-2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(fit.logits(train).softmax(1), (padded @ weight.detach()).softmax(1), atol=2e-3, rtol=0)


def test_the_rate_is_chosen_on_held_out_training_samples_alone():
    train, labels = blobs(120, spread=3.0)
    groups = [f"video{row // 2}" for row in range(120)]
    config = LinearConfig(epochs=20, rates=(1e-6, 0.1, 1e4))
    fit = fit_linear(train, labels, classes=4, config=config, groups=groups)
    assert set(inspect.signature(fit_linear).parameters) == {"features", "labels", "classes", "config", "groups"}  # no way in for test labels
    assert set(fit.grid) == {"1e-06", "0.1", "10000"} and fit.grid[f"{fit.rate:g}"] == max(fit.grid.values()) and "held-out" in fit.chosen_on
    fit_rows, held = held_out_split(groups, labels.tolist(), 0.2)
    assert not {groups[row] for row in fit_rows} & {groups[row] for row in held}
    changed = labels.clone()
    changed[held] = (changed[held] + 1) % 4
    other = fit_linear(train, changed, classes=4, config=config, groups=groups)
    assert other.grid != fit.grid  # the held-out labels do decide
    alone = fit_linear(train, labels, classes=4, config=LinearConfig(epochs=20, rates=(fit.rate,)), groups=groups)
    torch.testing.assert_close(fit.weight, alone.weight)  # fitted again to everything


def test_held_out_part_takes_whole_groups_of_every_class():
    groups = [f"g{i // 3}" for i in range(90)] + ["only"]
    labels = [(i // 3) % 5 for i in range(90)] + [5]
    fit, held = held_out_split(groups, labels, 0.2)
    assert sorted(fit + held) == list(range(91)) and not {groups[i] for i in fit} & {groups[i] for i in held}
    assert [sum(labels[i] == c for i in held) for c in range(6)] == [3] * 5 + [0]
    shuffled = list(reversed(range(91)))
    again = held_out_split([groups[i] for i in shuffled], [labels[i] for i in shuffled], 0.2)[1]
    assert {shuffled[i] for i in again} == set(held)
    with pytest.raises(ValueError, match="held out"):
        held_out_split(["a", "b"], [0, 1], 0.2)


def test_fractions_by_class_are_nested_and_keep_every_class():
    names = [f"clip{i}" for i in range(120)]
    groups = [f"video{i // 2}" for i in range(120)]
    labels = [(i // 2) % 6 for i in range(120)]
    parts = [choose_subset(names, groups, share, indices=range(120), strata=labels) for share in ("1%", "10%", "50%", "100%")]
    assert [len(part) for part in parts] == [12, 12, 60, 120]
    for small, large in zip(parts, parts[1:], strict=False):
        assert set(small.indices) <= set(large.indices)
    assert {labels[i] for i in parts[0].indices} == set(range(6))
    assert parts[1].hash != choose_subset(names, groups, "10%", indices=range(120), strata=labels, draw=1).hash


def test_shots_are_nested_spread_over_groups_and_repeatable():
    labels = torch.arange(60) % 3
    groups = [f"v{i // 6}" for i in range(60)]  # each video has two clips of each class
    for seed in range(3):
        drawn = [draw_shots(labels, shots, seed, groups=groups) for shots in (2, 4, 10)]
        assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
        for rows, shots in zip(drawn, (2, 4, 10), strict=True):
            for label in range(3):
                own = [row for row in rows if labels[row] == label]
                assert len(own) == shots == len({groups[row] for row in own})
    assert draw_shots(labels, 2, 0) != draw_shots(labels, 2, 1)
    with pytest.raises(ValueError, match="fewer than 21"):
        draw_shots(labels, 21, 0)


@pytest.mark.parametrize("classifier", ["logistic", "nearest_mean"])
def test_few_shot_improves_with_shots_and_reports_each_draw(classifier):
    (train, labels), (test, test_labels) = blobs(200, spread=3.0), blobs(200, spread=3.0, seed=5)
    scores = few_shot(train, labels, test, test_labels, classes=6, config=FewShotConfig(shots=(1, 16), classifier=classifier))
    assert [len(score.values) for score in scores] == [3, 3]
    assert scores[0].interval.mean < scores[1].interval.mean
    assert scores[1].interval.mean == pytest.approx(np.mean(scores[1].values)) and scores[1].interval.low < scores[1].interval.high


def test_nearest_mean_by_hand():
    train, test = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.2, 1]]), torch.tensor([[2.0, 0.5], [0.1, 3]])
    config = FewShotConfig(shots=(2,), seeds=1, classifier="nearest_mean")
    (score,) = few_shot(train, torch.tensor([1, 1, 4, 4]), test, torch.tensor([1, 4]), classes=5, config=config)
    assert score.values == (100.0,)


def features(seed=0):
    return FeatureSet(
        features=torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)),
        labels=torch.tensor([0, 1, 0, 1]),
        names=list("abcd"),
        groups=list("aacd"),
        skipped=["x.mp4: empty"],
    )


def test_feature_files_answer_to_their_key_only(tmp_path):
    calls = []

    def extract():
        calls.append(1)
        return features()

    first = cached_features(tmp_path, {"weights": "1", "data": "2"}, extract)
    again = cached_features(tmp_path, {"data": "2", "weights": "1"}, extract)
    assert len(calls) == 1 and again.cached and not first.cached
    assert torch.equal(first.features, again.features) and again.groups == list("aacd") and again.skipped == ["x.mp4: empty"]
    cached_features(tmp_path, {"weights": "other", "data": "2"}, extract)
    assert len(calls) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    cached_features(tmp_path, {"weights": "1", "data": "2"}, extract)
    assert len(calls) == 3


def test_weights_digest_sees_every_value():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = weights_digest(net)
    assert weights_digest(net) == before
    with torch.no_grad():
        net[1].running_var[1] += 1e-6
    changed = weights_digest(net)
    assert changed != before
    assert weights_digest(net.half()) != changed
