"""The README's guide to a method of one's own, run as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from suite3d.cli import main
from suite3d.config import ConfigError
from suite3d.engine.files import read_json_lines
from suite3d.recipes import find_recipe

README = Path(__file__).parents[1] / "README.md"
SMALL = ["data.fractals={classes: 3, train: 6, val: 3, size: 24, points: 1500}", "train.steps=4", "train.batch_size=6", "train.workers=0"]
SMALL += ["augment.size=16", "train.log_every=1"]
OF_FILE = {
    "chess": ["encoder.dim=32", "encoder.depth=1", "encoder.heads=2", "decoder.dim=16", "decoder.heads=2"],
    "margin": ["encoder.width=8"],
}


@pytest.fixture(scope="module")
def guide() -> str:
    return README.read_text().split("## Add a method in ten minutes")[1].split("\n## ")[0]


@pytest.fixture
def files(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", guide, flags=re.S)
    assert [name for name, _ in found] == ["chess.py", "margin.py"]
    for name, code in found:
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short(files: Path) -> None:
    lines = [line for name in ("chess.py", "margin.py") for line in (files / name).read_text().splitlines() if line.strip()]
    assert len(lines) < 80


def test_its_commands_run(guide: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^suite3d (.*)$", guide, flags=re.M)
    assert [shlex.split(command)[0] for command in commands] == ["pretrain", "pretrain", "evaluate"]
    for command in commands:
        words = shlex.split(command)
        if words[0] == "pretrain":
            words += [*SMALL, *OF_FILE[words[1].split(".py")[0]]]
        else:
            words += ["linear.epochs=2"]
        assert main(words) == 0, command
    for run in ("chess", "margin"):
        losses = [row["loss"] for row in read_json_lines(files / "runs" / run / "metrics.jsonl") if row["kind"] == "train"]
        assert len(losses) == 4 and np.isfinite(losses).all()
        assert (files / "runs" / run / "encoder.safetensors").is_file() and (files / "runs" / run / "report.html").is_file()
    assert "knn" in capsys.readouterr().out


def test_its_loss_is_nt_xent_without_a_margin_and_more_with_one(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from suite3d.losses.nt_xent import nt_xent

    monkeypatch.syspath_prepend(files)
    import margin  # type: ignore[import-not-found]

    first, second = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    plain = margin.margin_contrast(first, second, temperature=0.2, margin=0.0)
    torch.testing.assert_close(plain, nt_xent(first, second, temperature=0.2))
    assert margin.margin_contrast(first, second, temperature=0.2, margin=0.2) > plain


def test_a_missing_file_or_recipe_is_named(files: Path) -> None:
    with pytest.raises(ConfigError, match="nothing.py: no such file"):
        find_recipe("nothing.py:Recipe")
    with pytest.raises(ConfigError, match="has no 'Other'; it has .*ChessRecipe"):
        find_recipe("chess.py:Other")
