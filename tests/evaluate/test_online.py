"""The online probe: what is read once, what is left out, and that no sample is on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite3d.evaluate import online
from suite3d.evaluate.online import OnlineProbe, OnlineProbeConfig, held_bytes, labels_of, probe_rows
from suite3d.source import BadSample


@dataclass
class Batch:
    values: Tensor
    labels: Tensor

    def to(self, device):
        return Batch(self.values.to(device), self.labels.to(device))


class Points:
    """Points around the centre of their class; sample 3 is broken."""

    def __init__(self, seed: int) -> None:
        self.seed, self.reads = seed, 0

    def __len__(self) -> int:
        return 40

    def label(self, index: int) -> int | None:
        return None if index == 0 else index % 4

    def name(self, index: int) -> str:
        return str(index)

    def get(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        self.reads += 1
        if index == 3:
            raise BadSample("3", "broken")
        noise = torch.randn(8, generator=torch.Generator().manual_seed(100 * self.seed + index))
        return 8 * nn.functional.one_hot(torch.tensor(index % 4), 8) + noise, index % 4

    def collate(self, samples, seeds):
        return Batch(torch.stack([value for value, _ in samples]), torch.tensor([label for _, label in samples]))


class PointProbe(OnlineProbe):
    kind = "points"

    def encode(self, encoder, inputs):
        assert not encoder.training
        tokens = encoder(inputs.values)[:, None].expand(-1, 3, -1)
        return tokens.mean(dim=1), tokens


def probe() -> PointProbe:
    return PointProbe(Points(0), Points(1), 4, OnlineProbeConfig(k=3, batch=7))


def model(width: float = 1.0) -> nn.Module:
    layer = nn.Linear(8, 8, bias=False)
    layer.weight.data = width * torch.eye(8)
    return nn.ModuleDict({"encoder": layer}).train()


def test_classes_that_lie_apart_are_found_and_the_encoder_goes_on_training() -> None:
    network = model()
    found = probe()(type("Model", (), {"encoder": network["encoder"]}), torch.device("cpu"))
    assert found["knn"] == found["ridge"] == 1.0 and found["knn_chance"] == 0.25
    assert found["token_similarity"] == pytest.approx(1.0)
    assert network["encoder"].training


def test_samples_are_read_once_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = probe()
    for _ in range(2):
        looked.score(lambda inputs: inputs.values, torch.device("cpu"))
    assert [source.reads for source in looked.sources] == [40, 40]
    monkeypatch.setattr(online, "CACHE_BYTES", 1000)
    looked = probe()
    for _ in range(2):
        looked.score(lambda inputs: inputs.values, torch.device("cpu"))
    assert [source.reads for source in looked.sources] == [80, 80]


def test_a_side_without_a_readable_sample_gives_no_score() -> None:
    looked = probe()
    looked.sources[1].get = lambda index, rng: (_ for _ in ()).throw(BadSample(str(index), "broken"))
    assert looked.score(lambda inputs: inputs.values, torch.device("cpu")) == {}


def test_rows_of_the_two_sides() -> None:
    labels = labels_of(Points(0))
    fit, scored = probe_rows(labels, None, 100)
    assert not set(fit) & set(scored) and set(fit) | set(scored) == set(range(1, 40))
    assert abs(len(fit) - len(scored)) <= 1 and {labels[row] for row in fit} == {labels[row] for row in scored} == {0, 1, 2, 3}
    fit, scored = probe_rows(labels, [2, None, 1], 8)
    assert scored == [2, 0] and len(fit) == 8
    assert sorted(labels[row] for row in fit) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("train, held", [([None, None], None), ([1, 1, 1], None), ([0, 1], [None])])
def test_no_probe_without_two_classes_or_anything_to_score(train, held) -> None:
    assert probe_rows(train, held, 10) is None


def test_bytes_are_counted_in_containers() -> None:
    batch = Batch(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert held_bytes([(batch, {"a": torch.zeros(5, dtype=torch.uint8)}), "text", 3]) == 24 + 24 + 5
