"""Segmentation by retrieval against slow definitions: attention to the memory, rare classes first, IoU by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.evaluate.in_context import (
    InContextConfig,
    LabelledTokens,
    build_memory,
    confusion,
    labelled_tokens,
    retrieve_labels,
    segmentation_scores,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(count, classes, seed=0):
    features = torch.nn.functional.normalize(draw(count, 6, seed=seed), dim=1)
    return LabelledTokens(features=features, shares=draw(count, classes, seed=seed + 1).softmax(1))


@pytest.mark.parametrize(("neighbours", "block"), [(4, 1 << 24), (4, 50), (100, 1)])
def test_retrieval_is_attention_to_the_nearest(neighbours, block):
    memory, queries = tokens(23, 3), draw(4, 5, 6, seed=9)
    found = retrieve_labels(queries, memory, neighbours=neighbours, temperature=0.1, block=block)
    assert found.shape == (4, 5, 3)
    for y in range(4):
        for x in range(5):
            cosine = sorted(((float(torch.cosine_similarity(queries[y, x], key, dim=0)), k) for k, key in enumerate(memory.features)), reverse=True)
            best = cosine[:neighbours]
            weight = torch.tensor([value / 0.1 for value, _ in best]).softmax(0)
            expected = sum(w * memory.shares[k] for w, (_, k) in zip(weight, best, strict=True))
            torch.testing.assert_close(found[y, x], expected, rtol=1e-4, atol=1e-5)
    exact = retrieve_labels(memory.features.view(1, 23, 6), memory, neighbours=5, temperature=1e-3)
    torch.testing.assert_close(exact[0], memory.shares, rtol=1e-4, atol=1e-4)


def test_a_full_memory_keeps_rare_classes():
    shares = torch.zeros(200, 3)
    shares[:180, 0], shares[180:196, 1], shares[196:, 2] = 1, 1, 1
    picture = LabelledTokens(features=draw(200, 4), shares=shares)
    generator = torch.Generator().manual_seed(0)
    kept = [build_memory([picture, picture], 40, generator=generator) for _ in range(20)]
    assert all(len(memory) == 40 for memory in kept)
    counts = torch.stack([memory.shares.sum(dim=0) for memory in kept]).mean(dim=0) / 2  # of 20 a picture
    # u < t / n_c keeps 4 + 16 t / 16 + 180 t / 180 = 20 tokens for t = 8; even drawing would keep 18, 1.6 and 0.4.
    torch.testing.assert_close(counts, torch.tensor([8.0, 8.0, 4.0]), atol=1.0, rtol=0)
    assert counts[2] == 4
    whole = build_memory([picture, picture], 400, generator=generator)
    assert torch.equal(whole.features, torch.cat([picture.features] * 2))
    with pytest.raises(ValueError, match="at least one labelled token"):
        build_memory([LabelledTokens(features=torch.zeros(0, 4), shares=torch.zeros(0, 3))], 5, generator=generator)


def test_tokens_without_a_known_pixel_stay_out():
    features, shares = draw(2, 2, 4), torch.tensor([[[1.0, 0], [0.5, 0.5]], [[0, 0], [0, 1]]])
    found = labelled_tokens(features, shares, torch.tensor([[1.0, 0.2], [0.0, 1.0]]))
    assert len(found) == 3 and torch.equal(found.shares, shares.flatten(0, 1)[[0, 1, 3]])
    torch.testing.assert_close(found.features.norm(dim=1), torch.ones(3))


def test_scores_are_counted():
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 4, (9, 11)), rng.integers(0, 3, (9, 11))
    truth[:2] = 255
    counts = confusion(torch.from_numpy(found), torch.from_numpy(truth), 4, ignored=255)
    overlaps = []
    for number in range(3):  # class 3 does not occur in the truth
        shared = ((found == number) & (truth == number)).sum()
        union = (((found == number) | (truth == number)) & (truth != 255)).sum()
        overlaps.append(shared / union)
    scores = segmentation_scores(counts)
    assert scores["mIoU"] == pytest.approx(100 * np.mean(overlaps))
    assert scores["pixel accuracy"] == pytest.approx(100 * (found == truth)[2:].mean())
    with pytest.raises(ValueError, match="no pixel"):
        segmentation_scores(torch.zeros(3, 3))


def test_wrong_settings_are_refused():
    for wrong in ({"neighbours": 0}, {"temperature": 0.0}, {"references": ()}, {"references": (-1,)}):
        with pytest.raises(ValueError, match="expected"):
            InContextConfig(**wrong)
