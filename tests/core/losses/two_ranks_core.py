"""Script of test_two_ranks_core.py; called like two_ranks.py. Everything in float64, so that only a wrong formula can differ."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from suite3d.losses.adaptive_temperature import adaptive_contrast
from suite3d.losses.alignment_uniformity import alignment_loss, uniformity_loss
from suite3d.losses.attraction_repulsion import attraction_repulsion
from suite3d.losses.bag_of_words import WordScale, bag_of_words, bag_of_words_loss
from suite3d.losses.barlow_twins import barlow_twins
from suite3d.losses.contrastive_mim import contrastive_mim
from suite3d.losses.decoupled import decoupled_contrast, weighted_decoupled_contrast
from suite3d.losses.equivariance import equivariance_by_classification, equivariance_by_contrast
from suite3d.losses.hard_negatives import hard_negative_contrast
from suite3d.losses.koleo import koleo
from suite3d.losses.mixed_negatives import mixed_info_nce
from suite3d.losses.multi_view import mv_dhel, mv_info_nce
from suite3d.losses.pixel_contrast import pixel_contrast, pixel_propagation
from suite3d.losses.scaled_cosine import scaled_cosine_error
from suite3d.losses.self_distillation import Centre, masked_distillation, self_distillation, sinkhorn_targets
from suite3d.losses.sigreg import lejepa, sigreg
from suite3d.losses.slot_contrast import slot_contrast
from suite3d.losses.sup_re_mix import sup_re_mix
from suite3d.losses.supervised_contrast import supervised_contrast
from suite3d.losses.swav import swav
from suite3d.losses.vicreg import vicreg
from suite3d.nn.pair_temperature import PairTemperature

SHARES = (5, 8)


def losses(rows: slice, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, sum(SHARES), 6, generator=generator, dtype=torch.float64)
    views = x[:, rows] @ weight  # [3, N, 6]
    a, b, c = views
    labels = torch.tensor([0, 1, 2, 0, 1, 3, 1, 0, 2, 4, -1, 2, 0])[rows]
    shares = torch.rand(sum(SHARES), sum(SHARES), generator=generator, dtype=torch.float64)[rows]
    torch.manual_seed(3)
    temperature = PairTemperature(3, lowest=0.05).double()
    teacher = x[:2, rows]
    centre = Centre(6, momentum=0.5)
    centre.update(teacher)
    scores = torch.nn.functional.normalize(views, dim=2)
    scale, words = WordScale(), torch.randn(7, 6, generator=generator, dtype=torch.float64)
    scale.update(teacher.transpose(0, 1), words)
    bags = bag_of_words(teacher.transpose(0, 1), words, delta=scale.value)
    near = x[0, rows, :3, None] > x[1, rows, None, :3]  # some samples have no near places
    maps = (torch.randn(3, sum(SHARES), 5, 6, generator=generator, dtype=torch.float64)[:, rows] @ weight)[..., :3]  # [3, N, 5, 3]
    return {
        "decoupled": decoupled_contrast(a, b, temperature=0.2),
        "decoupled weighted": weighted_decoupled_contrast(a, b, temperature=0.2),
        "mv info nce": mv_info_nce(views, temperature=0.3),
        "mv dhel": mv_dhel(views, temperature=0.3),
        "attraction repulsion": attraction_repulsion(a, views[1:].transpose(0, 1)),
        "mixed negatives": mixed_info_nce(a, b, x[2], c[:, None], temperature=0.2),
        "hard negatives": hard_negative_contrast(a, b, temperature=0.3),
        "adaptive temperature": adaptive_contrast(a.unflatten(1, (2, 3)), b.unflatten(1, (2, 3)), temperature),
        "supervised contrast": supervised_contrast(a, labels, temperature=0.3),
        "sup re mix": sup_re_mix(a, labels.double(), shares, window=2.0),
        "barlow twins": barlow_twins(a, b),
        "vicreg": vicreg(a, b).loss,
        "swav": swav(scores, queued=torch.nn.functional.normalize(teacher, dim=2)),
        "dino": self_distillation(views, centre.targets(teacher, temperature=0.5)),
        "dino sinkhorn": self_distillation(views, sinkhorn_targets(teacher, temperature=1.0)),
        "ibot": masked_distillation(views.transpose(0, 1), x[:, rows].transpose(0, 1).softmax(2), x[:, rows, 0].T > 0),
        "koleo": koleo(a),
        "sigreg": sigreg(a, generator=torch.Generator().manual_seed(1), slices=8),
        "lejepa": lejepa(views, generator=torch.Generator().manual_seed(2), weight=0.5, slices=8)[0],
        "bag of words": bag_of_words_loss(torch.stack((a @ words.T, b @ words.T)), bags),
        "pixel contrast": pixel_contrast(maps[0, :, :3], maps[1, :, :3], near),
        "pixel propagation": pixel_propagation(maps[0, :, :3], maps[1, :, :3], near),
        "slot contrast": slot_contrast(maps[0], maps[1], x[0, rows, :5] > 0, x[1, rows, :5] > -0.5),
        "equivariance classification": equivariance_by_classification([a[:, :5]], labels[:, None]),
        "equivariance contrast": equivariance_by_contrast(maps[0], maps[1], temperature=20.0),
        "contrastive mim": contrastive_mim(a[:, 0], b[:, 0], b[:, 1], c, temperature=0.5),
        "scaled cosine": scaled_cosine_error(a, x[0, rows]),
        "alignment": alignment_loss(a, b),
        "uniformity": uniformity_loss(a),
    }


def main(out: str, store: str, rank: int, world: int) -> None:
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    first = sum(SHARES[:rank])
    rows = slice(first, first + SHARES[rank]) if world > 1 else slice(0, sum(SHARES))
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    results = {}
    for name, loss in losses(rows, weight).items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        value = loss.detach().clone()
        if world > 1:
            dist.all_reduce(gradient)
            dist.all_reduce(value)
        results[name] = (value / world, gradient / world)
    if rank == 0:
        torch.save(results, out)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
