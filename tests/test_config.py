"""A wrong configuration fails in one line that names the key and the nearest valid one, with exit code 2."""

from __future__ import annotations

import pytest

from suite3d.cli import main
from suite3d.config import ConfigError, load_config, to_yaml
from suite3d.engine.task import TrainConfig


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.lrr=1", "optim.lr"),
        ("step=3", "Did you mean 'steps'"),
        ("steps=many", "steps"),
        ("precision=fp8", "precision"),
        ("steps", "key=value"),
        ("optim.betas=3", "betas"),
        ("optim={lr:[1]}", "command line"),
    ],
)
def test_bad_override_is_one_line_naming_the_key(override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, overrides=[override])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_files_go_through_the_same_strict_path(tmp_path):
    good, bad, broken = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "broken.yaml"
    good.write_text("optim:\n  lr: 1e-3\nsteps: 7\n")
    bad.write_text("optim:\n  learning_rate: 1\n")
    broken.write_text("a: [1\n")
    assert load_config(TrainConfig, files=[good], overrides=["steps=9"]).steps == 9
    assert load_config(TrainConfig, files=[good]).optim.lr == pytest.approx(1e-3)
    with pytest.raises(ConfigError, match=r"optim\.learning_rate"):
        load_config(TrainConfig, files=[bad])
    with pytest.raises(ConfigError, match="not readable as yaml"):
        load_config(TrainConfig, files=[broken])
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(TrainConfig, files=[tmp_path / "none.yaml"])


def test_yaml_round_trip(tmp_path):
    file = tmp_path / "c.yaml"
    config = load_config(TrainConfig, overrides=["steps=5", "optim.betas=[0.8,0.9]"])
    file.write_text(to_yaml(config))
    assert load_config(TrainConfig, files=[file]) == config


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain", "mvjar"],
        ["pretrain", "second"],
        ["pretrain", "mv_jar", "train.stepz=1"],
        ["pretrain", "mv_jar", "data.root=/nowhere/at/all"],
        ["pretrain"],
    ],
)
def test_command_line_exits_with_2(command, capsys):
    assert main(command) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("suite3d: ") and "\n" not in message
