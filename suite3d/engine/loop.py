"""The training loop: one function to run a task in a run directory, start to end or from where it was killed."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from suite3d.engine.checkpoint import load_checkpoint, save_checkpoint
from suite3d.engine.distributed import World
from suite3d.engine.ema import WeightAverage
from suite3d.engine.exact import deterministic_cpu
from suite3d.engine.loader import LoadedBatch, StepBatches, first_readable, step_loader
from suite3d.engine.norms import recalibrate_norms
from suite3d.engine.optim import build_optimizer, clip_gradients, schedule, set_schedule
from suite3d.engine.order import SampleOrder, stream_seed
from suite3d.engine.reading import naming_dead_workers
from suite3d.engine.rundir import RunDirectory
from suite3d.engine.task import Task, TrainConfig
from suite3d.evaluate.diagnostics import CollapseMonitor
from suite3d.interop.save import save_encoder
from suite3d.output import Output

MAX_NONFINITE = 3
"""Steps in a row with a non-finite loss after which a run stops."""


class NonFiniteLoss(RuntimeError):
    """The loss was NaN or infinite several steps in a row."""


class Trainer:
    """State of a running task.

    Args:
        task: model and data.
        config: loop settings.
        run: where records go.
        world: this process among its peers.
        resolved: the full configuration, written to the run directory and compared on resume.
    """

    def __init__(self, task: Task, config: TrainConfig, run: RunDirectory, world: World, resolved: Any) -> None:
        self.task, self.config, self.run, self.world = task, config, run, world
        self.total = config.total_steps(len(task.train))
        share, rest = divmod(config.batch_size, config.accumulate * world.size)
        if rest:
            raise ValueError(f"train.batch_size={config.batch_size} must be divisible by accumulate x ranks = {config.accumulate * world.size}")
        first_readable(task.train)
        run.open(resolved)
        self.batches = StepBatches(task.train, SampleOrder(len(task.train), config.seed), micro_batch=share, rank=world.rank, world=world.size)
        self.model = task.model.to(world.device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self.average = WeightAverage(self.model, decay=config.ema) if config.ema > 0 else None
        self.monitor = CollapseMonitor()
        self.step = self._resume()
        run.rewind(self.step)
        self.forward = self._wrap(self.model)
        self.bad_steps = 0
        self.waited = 0.0
        self.last: Output | None = None

    def _wrap(self, model: nn.Module) -> nn.Module:
        compiled: nn.Module = torch.compile(model) if self.config.compile else model  # type: ignore[assignment]
        if self.world.size == 1:
            return compiled
        return DistributedDataParallel(
            compiled, device_ids=[self.world.device] if self.world.device.type == "cuda" else None, find_unused_parameters=True
        )

    def _resume(self) -> int:
        state = load_checkpoint(self.run.path / "checkpoints", device=self.world.device)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        if self.world.main:
            print(f"resuming {self.run.path} at step {state['step']} of {self.total}")
        return int(state["step"])

    @property
    def evaluated_model(self) -> nn.Module:
        """The weights to probe, evaluate and export: the average where one is kept."""
        return self.model if self.average is None else self.average.model

    def save(self) -> None:
        """Checkpoint and flat encoder. Errors (a full disk) are raised; the earlier files stay whole."""
        if not self.world.main:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
        }
        save_checkpoint(self.run.path / "checkpoints", self.step, state, keep=self.config.keep)
        encoder = self.evaluated_model.encoder
        assert isinstance(encoder, nn.Module)
        metadata = {"step": self.step, "encoder": self.task.encoder_config, "provenance": self.task.provenance}
        save_encoder(self.run.path / "encoder.safetensors", encoder, metadata)

    def train(self) -> None:
        """Run to the last step."""
        if self.step >= self.total:
            return
        config = self.config
        workers = max(0, min((os.cpu_count() or 1) - 1, 8)) if config.workers < 0 else config.workers
        per_step = config.accumulate
        loader = step_loader(
            self.batches, first=self.step * per_step, last=self.total * per_step, workers=workers, pin=self.world.device.type == "cuda"
        )
        self.model.train()
        self.window = time.perf_counter()
        self.window_step = self.step
        with naming_dead_workers(self.batches.notes):
            while self.step < self.total:
                start = time.perf_counter()
                loaded = [next(loader) for _ in range(per_step)]
                self.waited += time.perf_counter() - start
                self._one_step(loaded)
                self.step += 1
                self._periodic()
        self._recalibrate()
        self.save()

    def _recalibrate(self) -> None:
        """Batch statistics of the evaluated weights over the first micro-batches of the run, the same on every resume."""
        count = min(self.config.recalibrate, self.total * self.config.accumulate)
        if count:
            torch.manual_seed(stream_seed("recalibrate", self.config.seed))
            model = self.evaluated_model
            batches = (item.batch for item in map(self.batches.__getitem__, range(count)) if item.batch is not None)
            recalibrate_norms(model, batches, lambda batch: model(batch.to(self.world.device)))

    def _one_step(self, loaded: list[LoadedBatch]) -> None:
        bad = [entry for item in loaded for entry in item.skipped]
        if bad:
            self.run.skipped(self.step, bad)
        if not self.world.all_true(all(item.batch is not None for item in loaded)):
            self.run.log(self.step, "event", {"message": "no usable sample in a micro-batch; step skipped"})
            return
        torch.manual_seed(stream_seed("step", self.config.seed, self.step, self.world.rank))
        rate, beta = schedule(self.config.optim, self.step, self.total)
        set_schedule(self.optimizer, rate, beta)
        outputs = [self._backward(item, last=i == len(loaded) - 1) for i, item in enumerate(loaded)]
        loss = self.world.mean(torch.stack([output.loss.detach() for output in outputs]).mean())
        if not self._finite(loss, loaded):
            self.optimizer.zero_grad(set_to_none=True)
            return
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.config.optim.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        after = getattr(self.model, "after_step", None)
        if after is not None:
            after(self.step, self.total)
        if self.average is not None:
            self.average.update(self.model, self.step)
        self._record(outputs, {"loss": loss, "lr": rate, "grad_norm": norm})

    def _backward(self, item: LoadedBatch, *, last: bool) -> Output:
        batch = item.batch.to(self.world.device)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        hold = nullcontext() if last or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()
        with hold:
            with torch.autocast(self.world.device.type, dtype=half) if half else nullcontext():
                output: Output = self.forward(batch)
            self.scaler.scale(output.loss / self.config.accumulate).backward()
        return output

    def _finite(self, loss: Tensor, loaded: list[LoadedBatch]) -> bool:
        if bool(torch.isfinite(loss)):
            self.bad_steps = 0
            return True
        self.bad_steps += 1
        names = [name for item in loaded for name in item.batch.names]
        self.run.nonfinite(self.step, names)
        if self.bad_steps >= MAX_NONFINITE:
            raise NonFiniteLoss(
                f"the loss was not finite for {MAX_NONFINITE} steps in a row; the samples are listed in "
                f"{self.run.path / 'nonfinite.jsonl'}, the last were {names}"
            )
        return False

    def _record(self, outputs: list[Output], scalars: dict[str, Any]) -> None:
        last = outputs[-1]
        if last.features is not None:
            verdict = self.monitor.update(last.features.float())
            if verdict is not None and verdict.message and self.world.main:
                self.run.log(self.step, "event", {"message": verdict.message})
                print(verdict.message)
        self.last = last
        if (self.step + 1) % self.config.log_every == 0 or self.step + 1 == self.total:
            now = time.perf_counter()
            speed = (self.step + 1 - self.window_step) / max(now - self.window, 1e-9)
            values = {
                **scalars,
                **last.metrics,
                **self.monitor.metrics(),
                "steps_per_second": speed,
                "data_wait": self.waited / max(now - self.window, 1e-9),
                "seconds_left": (self.total - self.step - 1) / max(speed, 1e-9),
            }
            self.run.log(self.step, "train", values)
            if self.world.main:
                print(_progress(self.step + 1, self.total, {k: float(v) for k, v in values.items()}), flush=True)
            self.window, self.window_step, self.waited = now, self.step + 1, 0.0

    def _periodic(self) -> None:
        config, step = self.config, self.step
        due = lambda every: every > 0 and (step % every == 0 or step == self.total)  # noqa: E731
        if due(config.visual_every) and self.world.main and self.last is not None and self.last.visuals is not None:
            for name, picture in self.last.visuals().items():
                self.run.picture(f"{name}_{step:07d}", render(picture))
        if due(config.probe_every) and self.task.probe is not None and self.world.main:
            with torch.random.fork_rng():
                self.run.log(step, "probe", self.task.probe(self.evaluated_model, self.world.device))
            self.model.train()
        if config.save_every > 0 and step % config.save_every == 0 and step < self.total:
            self.save()


def render(picture: Any) -> Any:
    """Turn what a method's ``visuals`` returned into an image."""
    from suite3d.report.bev import BevScene, draw_bev

    return draw_bev(picture) if isinstance(picture, BevScene) else picture


def _progress(step: int, total: int, values: dict[str, float]) -> str:
    left = int(values["seconds_left"])
    hidden = {"loss", "lr", "grad_norm", "steps_per_second", "data_wait", "seconds_left"}
    parts = "  ".join(f"{key} {value:.4g}" for key, value in values.items() if key not in hidden)
    return (
        f"step {step}/{total}  loss {values['loss']:.4f}  {values['steps_per_second']:.2f} steps/s  "
        f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d} left  data wait {values['data_wait']:.0%}  {parts}"
    )


def run_task(task: Task, config: TrainConfig, *, path: Path, world: World, resolved: Any) -> dict[str, Any]:
    """Train (or resume) a task, evaluate it, write the report; returns the result that result.json holds."""
    run = RunDirectory(path, main=world.main)
    finished = path / "result.json"
    trainer = Trainer(task, config, run, world, resolved)
    run.write("provenance.json", task.provenance)
    if task.load_report is not None:
        run.write("load.json", task.load_report)
    if trainer.step >= trainer.total and finished.exists():
        stored: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return {**stored, "report": str(path / "report.html")}
    with deterministic_cpu(world.device):
        trainer.train()
    result: dict[str, Any] = {"steps": trainer.total, "encoder": str(path / "encoder.safetensors")}
    if world.main:
        if task.evaluate is not None:
            result |= task.evaluate(trainer.evaluated_model, world.device, path)
        run.write("result.json", result)
        from suite3d.report.html import write_report

        result["report"] = str(write_report(path))
    world.barrier()
    return result
