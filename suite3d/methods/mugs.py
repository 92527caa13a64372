"""Mugs: tell pictures apart, tell pictures with their neighbours apart, and put pictures into clusters, all at once.

Zhou et al., "Mugs: A Multi-Granular Self-Supervised Learning Framework", 2022 (figure 1, section 3).

    L = w_1 L_instance + w_2 L_local + w_3 L_group,    each the mean over large views g of the teacher and views v != g of the student
    L_instance = InfoNCE( predictor(head(c_v)), head'(c_g) )          c: class token; negatives: a queue of the teacher's earlier keys
    L_local    = InfoNCE( predictor(head(l_v)), head'(l_g) )          l: local group; negatives: a queue of its own
    L_group    = DINO's loss on the class tokens
    l = first token of transformer([a, k nearest neighbours of a in a memory]),    a: mean of the patch tokens

The memory holds the teacher's means of the patch tokens of earlier large views. The teacher (encoder, heads without predictors, transformer) is
the student's moving average, and its encoder is what survives.

Differences to the released code, and choices: views are the weak ones of DINO, without the strong AutoAugment of half of the pictures; every
pair of views counts the same (there pairs with large and with small student views have half of the weight each); student and teacher share one
memory, compared and read by the same vectors, after the encoder's last norm. The weights are 1/3 each, so that the loss is a mean. The rest as
in :mod:`suite3d.methods.dino`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.losses.rows import dots, unit
from suite3d.losses.self_distillation import self_distillation
from suite3d.methods.dino import LARGE, DistillationConfig, SelfDistillation, distillation_metrics
from suite3d.methods.multi_view import check_views
from suite3d.nn.block import Block
from suite3d.nn.initialise import initialise
from suite3d.nn.momentum import momentum_copy
from suite3d.nn.queue import FeatureQueue
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output

GRAINS = ("instance", "local")


@dataclass(kw_only=True)
class MugsConfig(DistillationConfig):
    """Mugs.

    Attributes:
        weights: w_1, w_2, w_3.
        temperature: of both contrasts.
        dim, predictor_hidden: channels of the keys and inside the predictors.
        queue: negatives of each contrast. memory: means to look for neighbours in.
        neighbours: k. depth: blocks of the transformer over a local group.
    """

    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    temperature: float = 0.2
    dim: int = 256
    predictor_hidden: int = 4096
    queue: int = 65536
    memory: int = 65536
    neighbours: int = 8
    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        if min(self.weights) < 0 or self.depth < 1:
            raise ValueError(f"expected weights of at least 0 and a block, got {self.weights} and {self.depth}")
        if not 1 <= self.neighbours <= self.memory:
            raise ValueError(f"neighbours expected 1 to memory={self.memory}, got {self.neighbours}")


class LocalGroup(nn.Module):
    """A vector and its k nearest neighbours in a memory, merged by a small transformer.

    Args:
        dim, heads, depth: channels, attention heads, blocks.
        neighbours: k.
    """

    def __init__(self, dim: int, heads: int, depth: int, *, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias="full") for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise(self)

    def forward(self, means: Tensor, memory: Tensor) -> Tensor:
        """``(N, dim)``, memory ``(M, dim)`` -> ``(N, dim)``. Neighbours by cosine; no gradient reaches the memory."""
        with torch.no_grad():
            nearest = dots(unit(means), unit(memory)).topk(self.neighbours, dim=1).indices  # [N, k]
        group = torch.cat((means[:, None], memory[nearest].to(means.dtype)), dim=1)  # [N, 1 + k, dim]
        for block in self.blocks:
            group = block(group)
        merged: Tensor = self.norm(group[:, 0])
        return merged


class Mugs(SelfDistillation):
    """Mugs around a vision transformer with a class token.

    Args:
        student: what the gradient trains.
        config: see :class:`MugsConfig`.

    Attributes:
        projectors, predictors: of the two contrasts. local_group: see :class:`LocalGroup`.
        queues: the keys of earlier batches of each contrast. memory: the teacher's earlier means.
    """

    def __init__(self, student: VisionTransformer, config: MugsConfig | None = None) -> None:
        config = config or MugsConfig()
        if student.cls_token is None:
            raise ValueError("Mugs compares class tokens, the encoder has none: expected class_token=true")
        super().__init__(student, config)
        self.config = config
        width, dim = student.embed_dim, config.dim
        self.projectors = nn.ModuleDict({grain: perceptron(width, config.hidden, config.hidden, dim) for grain in GRAINS})
        self.predictors = nn.ModuleDict({grain: perceptron(dim, config.predictor_hidden, dim) for grain in GRAINS})
        self.local_group = LocalGroup(width, student.num_heads, config.depth, neighbours=config.neighbours)
        self.teacher_projectors, self.teacher_local_group = momentum_copy(self.projectors), momentum_copy(self.local_group)
        self.queues = nn.ModuleDict({grain: FeatureQueue(config.queue, dim) for grain in GRAINS})
        self.memory = FeatureQueue(config.memory, width)
        self.memory.rows.mul_(math.sqrt(width))  # the length of what a LayerNorm returns

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return super().pairs() + [(self.teacher_projectors, self.projectors), (self.teacher_local_group, self.local_group)]

    def forward(self, batch: ImageBatch) -> Output:
        check_views("Mugs", batch, LARGE)
        self.hold_prototypes()
        memory = self.memory.rows.clone()
        classes, means = self._tokens(self.student, batch, range(len(batch.views)))  # [V, B, D] each
        with torch.no_grad():
            seen, seen_means = self._tokens(self.encoder, batch, range(LARGE))  # [2, B, D] each
            wanted = self.targets(self.teacher_head(seen), self.centre)
            keys = self._project(self.teacher_projectors, seen, self.teacher_local_group(seen_means.flatten(0, 1), memory))
        projected = self._project(self.projectors, classes, self.local_group(means.flatten(0, 1), memory))
        losses = {grain: self._contrast(grain, self.predictors[grain](projected[grain]), keys[grain]) for grain in GRAINS}
        losses["group"] = self_distillation(self.head(classes), wanted, temperature=self.config.student_temperature)
        if self.training:
            self._remember(keys, seen_means)
        loss = sum((weight * part for weight, part in zip(self.config.weights, losses.values(), strict=True)), torch.zeros_like(losses["group"]))
        metrics: dict[str, Tensor | float] = {f"{name}_loss": value.detach() for name, value in losses.items()}
        metrics |= distillation_metrics(wanted, self.teacher_temperature)
        return Output(loss=loss, metrics=metrics, features=classes[:LARGE].detach().flatten(0, 1))

    @staticmethod
    def _tokens(encoder: nn.Module, batch: ImageBatch, views: range) -> tuple[Tensor, Tensor]:
        """Class tokens and means of the patch tokens of the views, ``(V, B, D)`` each."""
        assert isinstance(encoder, VisionTransformer)
        encoded = [encoder.encode(pixels) for _, pixels in batch.runs(views)]
        classes = torch.cat([prefix[:, 0] for prefix, _ in encoded])
        means = torch.cat([patches.mean(dim=1) for _, patches in encoded])
        return classes.unflatten(0, (len(views), -1)), means.unflatten(0, (len(views), -1))

    @staticmethod
    def _project(projectors: nn.ModuleDict, classes: Tensor, groups: Tensor) -> dict[str, Tensor]:
        """Unit vectors ``(V, B, dim)`` of both contrasts, from class tokens ``(V, B, D)`` and local groups ``(V * B, D)``."""
        rows = {"instance": classes, "local": groups.view_as(classes)}
        return {grain: F.normalize(projectors[grain](rows[grain]), dim=-1) for grain in GRAINS}

    def _contrast(self, grain: str, queries: Tensor, keys: Tensor) -> Tensor:
        """Mean over large views g and views v != g of the InfoNCE of ``queries[v]`` with ``keys[g]``."""
        queue = self.queues[grain]
        assert isinstance(queue, FeatureQueue)
        negatives = queue.rows.clone()  # the push of this step must not change what the backward pass reads
        parts = []
        for view, key in enumerate(keys):
            others = torch.cat([part for place, part in enumerate(queries) if place != view])  # [(V - 1) B, dim]
            parts.append(queue_info_nce(others, key.repeat(len(queries) - 1, 1), negatives, temperature=self.config.temperature))
        return torch.stack(parts).mean()

    def _remember(self, keys: dict[str, Tensor], means: Tensor) -> None:
        for grain, rows in keys.items():
            self.queues[grain].push(rows.flatten(0, 1))  # type: ignore[operator]
        self.memory.push(means.flatten(0, 1))


def perceptron(*dims: int) -> nn.Sequential:
    """Linear layers without biases, GELU between them; weights normal with deviation 0.02, cut at 2."""
    layers: list[nn.Module] = []
    for before, after in zip(dims[:-1], dims[1:], strict=True):
        linear = nn.Linear(before, after, bias=False)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])
