"""seq-JEPA: look at a picture again and again, say how the gaze moved, and predict what the next look will give.

Ghaemi, Muller, Bakhtiari, "seq-JEPA: Autoregressive Predictive Learning of Invariant-Equivariant World Models", 2025 (figure 1).

    u_i = [encoder(x_i), action(a_i)],  i = 1 ... M,    h = transformer([aggregate, u_1 ... u_M])_aggregate
    L = 1 - cos( predictor([h, action(a_M)]), teacher(x_{M+1}) ),    teacher <- m teacher + (1 - m) encoder

a_i is the change from view i to view i + 1: where the next crop lies in units of this one's, whether one is mirrored and the other not, and what
separates their colours. The encoder keeps what changes with the action (equivariant), h what does not (invariant), from one loss.

Chosen here where the paper leaves it open or we are not certain of the released code: heights and widths of a crop enter as logarithms; a change of
colour is the difference of the two linear maps of RGB, twelve numbers, without blur and solarisation; the last view of the context, whose action
goes to the predictor, carries a learned vector in its place; positions in the sequence are learned. The transformer is pre-norm and starts from
the project's own weights. The seven slots: M + 1 views; no mask; all tokens; any encoder, pooled; a transformer and a predictor; the moving
average's pooled features; cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch, relative_box
from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import unit
from suite3d.methods.multi_view import check_views, view_features
from suite3d.nn.block import Block
from suite3d.nn.heads import projector
from suite3d.nn.initialise import initialise
from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update
from suite3d.output import Output

GEOMETRY, COLOURS = 5, 12
"""Numbers of an action: box and mirroring; the map of the colours."""


@dataclass(kw_only=True)
class SeqJEPAConfig:
    """seq-JEPA.

    Attributes:
        views: M, of the context; one more is predicted.
        action_dim: channels of an embedded action.
        colours: actions tell the change of colour too.
        depth, heads: of the transformer over the sequence.
        hidden: channels inside the predictor.
        momentum: of the teacher at the first and the last step, linear between.
    """

    views: int = 3
    action_dim: int = 128
    colours: bool = True
    depth: int = 3
    heads: int = 4
    hidden: int = 1024
    momentum: tuple[float, float] = (0.996, 0.996)

    def __post_init__(self) -> None:
        if self.views < 1 or self.action_dim < 1 or self.depth < 1:
            raise ValueError(f"expected at least one view, channel of an action and block, got {self.views}, {self.action_dim}, {self.depth}")
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum expected two increasing numbers in [0, 1], got {self.momentum}")


class SeqJEPA(nn.Module):
    """seq-JEPA around any image encoder.

    Args:
        encoder: ``(B, 3, S, S)`` -> ``(B, N, embed_dim)``.
        config: see :class:`SeqJEPAConfig`.

    Attributes:
        action: linear embedding of an action.
        blocks: the transformer over the sequence, of ``embed_dim + action_dim`` channels.
        predictor: from aggregate and last action to the features of the next view.
        teacher: moving average of the encoder.

    Raises:
        ValueError: channels that the heads do not divide.
    """

    def __init__(self, encoder: nn.Module, config: SeqJEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config or SeqJEPAConfig()
        self.encoder = encoder
        dim = int(encoder.embed_dim)  # type: ignore[arg-type]
        width = dim + self.config.action_dim
        self.action = nn.Linear(GEOMETRY + COLOURS * self.config.colours, self.config.action_dim)
        self.blocks = nn.ModuleList(Block(width, self.config.heads, qkv_bias="full") for _ in range(self.config.depth))
        self.norm = nn.LayerNorm(width)
        self.no_action = nn.Parameter(torch.empty(self.config.action_dim))
        self.aggregate = nn.Parameter(torch.empty(width))
        self.places = nn.Parameter(torch.empty(self.config.views, width))
        for block in (self.action, *self.blocks):
            initialise(block)
        for token in (self.no_action, self.aggregate, self.places):
            nn.init.trunc_normal_(token, std=0.02)
        self.predictor = projector([width + self.config.action_dim, self.config.hidden, dim])
        self.teacher = momentum_copy(encoder)

    def forward(self, batch: ImageBatch) -> Output:
        count = self.config.views
        check_views("seq-JEPA", batch, count + 1)
        seen = view_features(self.encoder, batch, range(count))  # [M, B, D]
        moves = torch.stack([self.action(action_between(batch, view, colours=self.config.colours)) for view in range(count)])  # [M, B, A]
        predicted = self.predictor(torch.cat((self.summary(seen, moves[:-1]), moves[-1]), dim=1))  # [B, D]
        with torch.no_grad():
            target = view_features(self.teacher, batch, range(count, count + 1))[0]  # [B, D]
        cosine = (unit(predicted) * unit(target)).sum(dim=1)  # [B]
        return Output(
            loss=mean_over_ranks((1 - cosine).sum(), len(cosine)),
            metrics={"target_std": unit(target).std(dim=0).mean() if len(target) > 1 else 0.0},
            features=seen.detach().flatten(0, 1),
        )

    def summary(self, seen: Tensor, moves: Tensor) -> Tensor:
        """Aggregate ``(B, D + A)`` of views ``(M, B, D)`` and the embedded moves ``(M - 1, B, A)`` between them."""
        last = self.no_action.expand(1, seen.shape[1], -1).to(seen.dtype)
        tokens = torch.cat((seen, torch.cat((moves.to(seen.dtype), last))), dim=2).transpose(0, 1)  # [B, M, D + A]
        tokens = torch.cat((self.aggregate.expand(len(tokens), 1, -1).to(tokens.dtype), tokens + self.places), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        summed: Tensor = self.norm(tokens[:, 0])
        return summed

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher."""
        momentum_update(self.teacher, self.encoder, momentum_at(step, total, *self.config.momentum))


@torch.no_grad()
def action_between(batch: ImageBatch, view: int, *, colours: bool) -> Tensor:
    """``(B, 5 or 17)`` float32, what leads from a view to the next: top and left, log of height and width of the next crop in units of this one,
    1 where their mirroring differs, and the difference of their colour maps (0 where neither is recoloured)."""
    now, then = batch.views[view], batch.views[view + 1]
    box = relative_box(batch, view + 1, view)  # [B, 4]
    parts = [box[:, :2], box[:, 2:].log(), (now.flips != then.flips).float()[:, None]]
    if colours:
        plain = torch.eye(3, 4, device=box.device).expand(len(box), -1, -1)
        first, second = (plain if draw.colors is None else draw.colors for draw in (now, then))
        parts.append((second - first).flatten(1))
    return torch.cat(parts, dim=1)
