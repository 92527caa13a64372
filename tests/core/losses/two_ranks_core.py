"""Script of test_two_ranks_core.py; called like two_ranks.py. Everything in float64, so that only a wrong formula can differ."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch

from suite3d.losses.adaptive_temperature import adaptive_contrast
from suite3d.losses.alignment_uniformity import alignment_loss, uniformity_loss
from suite3d.losses.attraction_repulsion import attraction_repulsion
from suite3d.losses.bag_of_words import WordScale, bag_of_words, bag_of_words_loss
from suite3d.losses.barlow_twins import barlow_twins
from suite3d.losses.contrastive_mim import contrastive_mim
from suite3d.losses.decoupled import decoupled_contrast, weighted_decoupled_contrast
from suite3d.losses.equivariance import equivariance_by_classification, equivariance_by_contrast
from suite3d.losses.hallucinated_positives import hallucinated_positive_loss
from suite3d.losses.hard_negatives import hard_negative_contrast
from suite3d.losses.koleo import koleo
from suite3d.losses.mixed_negatives import mixed_info_nce
from suite3d.losses.multi_view import mv_dhel, mv_info_nce
from suite3d.losses.pixel_contrast import pixel_contrast, pixel_contrast_to, pixel_propagation, propagate
from suite3d.losses.scaled_cosine import scaled_cosine_error
from suite3d.losses.self_distillation import Centre, masked_distillation, self_distillation, sinkhorn_targets
from suite3d.losses.sigreg import lejepa, sigreg
from suite3d.losses.slot_contrast import slot_contrast, slots
from suite3d.losses.sup_re_mix import sup_re_mix
from suite3d.losses.supervised_contrast import supervised_contrast
from suite3d.losses.swav import swav
from suite3d.losses.vicreg import vicreg
from suite3d.nn.pair_temperature import PairTemperature
from tests.core.losses.rank_jobs import SHARES, gradients, group


def inputs(rows: slice, weight: torch.Tensor) -> SimpleNamespace:
    """What the losses of this rank's rows get; ``weight`` plays the model."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(weight.dtype)

    count = sum(SHARES)
    x, maps, words, queue = noise(3, count, 6)[:, rows], noise(3, count, 5, 6)[:, rows], noise(7, 3), noise(9, 6)
    shares = noise(count, count)[rows].sigmoid()
    torch.manual_seed(3)
    batch = SimpleNamespace(views=x @ weight, maps=(maps @ weight)[..., :3], teacher=x[:2], words=words, queue=queue, shares=shares)
    batch.labels = torch.tensor([0, 1, 2, 0, 1, 3, 1, 0, 2, 4, -1, 2, 0])[rows]
    batch.temperature = PairTemperature(3, lowest=0.05).to(weight.dtype)
    batch.centre, batch.scale = Centre(6, momentum=0.5), WordScale()
    batch.centre.update(batch.teacher)
    batch.scale.update(maps[2, ..., :3], words)
    batch.scores = torch.nn.functional.normalize(batch.views, dim=2)
    batch.logits = batch.views[..., :3] @ words.T
    batch.assignment = maps[0, ..., :4].softmax(2)
    batch.here, batch.there = x[0, :, :5] > 0, x[1, :, :5] > -0.5
    batch.near = x[0, :, :3, None] > x[1, :, None, :3]  # some samples have no near places
    return batch


def losses(batch: SimpleNamespace) -> dict[str, torch.Tensor]:
    a, b, c = batch.views
    pixels = batch.maps[:, :, :3]
    generator = torch.Generator().manual_seed(1)
    return {
        "decoupled": decoupled_contrast(a, b, temperature=0.2),
        "decoupled weighted": weighted_decoupled_contrast(a, b, temperature=0.2),
        "mv info nce": mv_info_nce(batch.views, temperature=0.3),
        "mv dhel": mv_dhel(batch.views, temperature=0.3),
        "attraction repulsion": attraction_repulsion(a, batch.views[1:].transpose(0, 1)),
        "mixed negatives": mixed_info_nce(a, b, batch.queue, c[:, None], temperature=0.2),
        "hallucinated positives": hallucinated_positive_loss(batch.maps[0, :, 0], batch.maps[1], temperature=0.2),
        "hard negatives": hard_negative_contrast(a, b, temperature=0.3),
        "adaptive temperature": adaptive_contrast(a.unflatten(1, (2, 3)), b.unflatten(1, (2, 3)), batch.temperature),
        "supervised contrast": supervised_contrast(a, batch.labels, temperature=0.3),
        "sup re mix": sup_re_mix(a, batch.labels.double(), batch.shares, window=2.0),
        "barlow twins": barlow_twins(a, b),
        "vicreg": vicreg(a, b).loss,
        "swav": swav(batch.scores, queued=torch.nn.functional.normalize(batch.teacher, dim=2)),
        "dino": self_distillation(batch.views, batch.centre.targets(batch.teacher, temperature=0.5)),
        "dino sinkhorn": self_distillation(batch.views, sinkhorn_targets(batch.teacher, temperature=1.0)),
        "ibot": masked_distillation(batch.maps[0], batch.maps[1].softmax(2), batch.here),
        "koleo": koleo(a),
        "sigreg": sigreg(a, generator=generator, slices=8),
        "lejepa": lejepa(batch.views, generator=generator, weight=0.5, slices=8)[0],
        "bag of words": bag_of_words_loss(batch.logits, bag_of_words(batch.maps[2], batch.words, delta=batch.scale.value)),
        "pixel contrast": pixel_contrast(pixels[0], pixels[1], batch.near),
        "pixel contrast one way": pixel_contrast_to(pixels[0], pixels[1], batch.near),
        "pixel propagation": pixel_propagation(propagate(pixels[0], pixels[2]), pixels[1], batch.near),
        "slot contrast": slot_contrast(slots(batch.maps[0], batch.assignment)[0], batch.maps[1, :, :4], batch.here[:, :4], batch.there[:, :4]),
        "equivariance classification": equivariance_by_classification([a[:, :5]], batch.labels[:, None]),
        "equivariance contrast": equivariance_by_contrast(batch.maps[0], batch.maps[1], temperature=20.0),
        "contrastive mim": contrastive_mim(a[:, 0], b[:, 0], b[:, 1], c, temperature=0.5),
        "scaled cosine": scaled_cosine_error(a, batch.teacher[0]),
        "alignment": alignment_loss(a, b),
        "uniformity": uniformity_loss(a),
    }


def main(out: str, store: str, rank: int, world: int) -> None:
    with group(store, rank, world) as rows:
        results = gradients(lambda weight: losses(inputs(rows, weight)), world, torch.float64)
        if rank == 0:
            torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
