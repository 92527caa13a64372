"""The loop as its user sees it: resume to the bit, skip and list, stop on NaN, never lose a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from suite3d.config import ConfigError
from suite3d.engine.distributed import world
from suite3d.engine.files import read_json_lines
from suite3d.engine.loop import NonFiniteLoss, run_task
from suite3d.engine.reading import WorkerDied
from suite3d.engine.task import Task
from suite3d.recipes import run
from tests.engine.toy import ToyMethod, ToyRecipe, ToySource

ROOT = Path(__file__).parents[2]


def losses(path: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_json_lines(path / "metrics.jsonl") if row["kind"] == "train"}


def recipe(path: Path, steps: int = 12) -> ToyRecipe:
    made = ToyRecipe()
    made.train.steps, made.run.dir = steps, path
    return made


def run_source(path: Path, source: ToySource, steps: int = 12) -> dict[str, object]:
    made = recipe(path, steps)
    with world("cpu") as here:
        return run_task(Task(model=ToyMethod(), train=source), made.train, path=path, world=here, resolved=made)


def child(path: Path, steps: int, *launcher: str, pause: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, *launcher, str(ROOT / "tests/engine/toy.py"), str(path), str(steps), str(pause)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def test_kill_and_rerun_gives_the_same_losses_to_the_bit(tmp_path):
    run(recipe(tmp_path / "whole", 300))
    process = child(tmp_path / "cut", 300, pause=0.005)
    deadline = time.time() + 120
    while time.time() < deadline and not list((tmp_path / "cut/checkpoints").glob("step_*.pt")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = len(losses(tmp_path / "cut"))
    assert 0 < seen < 300, "the run was meant to be killed half way"
    run(recipe(tmp_path / "cut", 300))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ends = [torch.load(tmp_path / name / "checkpoints/step_00000300.pt", weights_only=True)["model"] for name in ("cut", "whole")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


def test_changed_key_on_resume_is_named(tmp_path):
    run(recipe(tmp_path))
    changed = recipe(tmp_path)
    changed.train.optim.lr = 0.5
    with pytest.raises(ConfigError, match=r"train\.optim\.lr"):
        run(changed)
    free = recipe(tmp_path)
    free.train.log_every = 3
    run(free)
    changed.run.fresh = True
    run(changed)


def test_broken_samples_are_counted_listed_and_not_replaced(tmp_path):
    run_source(tmp_path, ToySource(12, broken=(3, 5)))
    listed = read_json_lines(tmp_path / "skipped.jsonl")
    assert sorted(row["path"] for row in listed) == ["sample3", "sample5"]
    assert all(row["reason"] == "truncated" for row in listed)
    assert len(losses(tmp_path)) == 12


def test_nothing_readable_fails_at_once_and_says_why(tmp_path):
    with pytest.raises(ValueError, match="(?s)none of the first 12.*sample0: truncated"):
        run_source(tmp_path, ToySource(12, broken=tuple(range(12))))


def test_nonfinite_loss_names_the_samples_and_stops_after_three(tmp_path):
    with pytest.raises(NonFiniteLoss, match="3 steps"):
        run_source(tmp_path, ToySource(12, poison=tuple(range(12))))
    rows = read_json_lines(tmp_path / "nonfinite.jsonl")
    assert len(rows) == 3 and all(name.startswith("sample") for row in rows for name in row["names"])


def test_one_nonfinite_batch_changes_no_weight_and_training_goes_on(tmp_path):
    run_source(tmp_path, ToySource(12, poison=(4,)), steps=12)
    state = torch.load(tmp_path / "checkpoints/step_00000012.pt", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in state.values())
    assert read_json_lines(tmp_path / "nonfinite.jsonl")


def test_failed_save_is_loud_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    run(recipe(tmp_path, 8))
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    longer = recipe(tmp_path, 8)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    from suite3d.engine.checkpoint import load_checkpoint, save_checkpoint

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "checkpoints", 9, {}, keep=longer.train.keep)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before
    state = load_checkpoint(tmp_path / "checkpoints", device=torch.device("cpu"))
    assert state is not None and state["step"] == 8


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    run(recipe(tmp_path, 8))
    (tmp_path / "checkpoints/step_00000008.pt").write_bytes(b"PK\x03\x04 cut short")
    run(recipe(tmp_path, 8))
    assert "trying the one before it" in capsys.readouterr().out
    assert len(losses(tmp_path)) == 8


def test_run_directory_holds_everything(tmp_path):
    result = run(recipe(tmp_path))
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "provenance.json", "result.json", "encoder.safetensors", "report.html"):
        assert (tmp_path / name).exists(), name
    assert Path(str(result["report"])).read_text().count("<svg") >= 1
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"labels": "none"}


def test_accumulation_equals_the_large_batch(tmp_path):
    one, two = recipe(tmp_path / "one"), recipe(tmp_path / "two")
    two.train.accumulate = 2
    for made in (one, two):
        with world("cpu") as here:
            torch.manual_seed(0)
            model = ToyMethod()
            model.head[0] = torch.nn.Identity()
            run_task(Task(model=model, train=ToySource(12)), made.train, path=made.run.dir, world=here, resolved=made)
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert all(abs(a[step] - b[step]) < 1e-4 * abs(a[step]) for step in a)


def test_two_gloo_processes_train_and_match_each_other_and_one(tmp_path):
    process = child(tmp_path / "two", 12, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2")
    assert process.wait(timeout=180) == 0
    run(recipe(tmp_path / "one"))
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert a.keys() == b.keys()
    assert abs(a[0] - b[0]) < 0.35 * a[0], "the first global batch is the same; only dropout differs"


def test_bf16_and_average_of_weights_run(tmp_path):
    made = recipe(tmp_path)
    made.train.precision, made.train.ema = "bf16", 0.9
    run(made)
    state = torch.load(tmp_path / "checkpoints/step_00000012.pt", weights_only=True)
    assert any(not torch.equal(state["average"][key], state["model"][key]) for key in state["model"])


class DeadlySource(ToySource):
    """Kills the process that reads sample 7, if it is a worker."""

    def get(self, index, rng):
        if index == 7 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(index, rng)


def test_a_worker_that_dies_is_reported_with_what_it_read(tmp_path):
    made = recipe(tmp_path)
    made.train.workers = 2
    with world("cpu") as here, pytest.raises(WorkerDied, match="worker [0-9]+ was reading sample7"):
        run_task(Task(model=ToyMethod(), train=DeadlySource()), made.train, path=tmp_path, world=here, resolved=made)
