"""Arrows point one way: video, pointcloud -> core and ops; ops knows nothing of the project; nothing optional is imported at import time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "ops": ("suite3d.",),
    "suite3d": ("suite3d.pointcloud", "suite3d.video"),
    "pointcloud": ("suite3d.video",),
    "video": ("suite3d.pointcloud",),
}
LAZY = {"suite3d/cli.py"}


def imports(file: Path) -> list[tuple[str, bool]]:
    """(module, at top level) of every import."""
    tree = ast.parse(file.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in top))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
    return found


def files(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*.py") if not any(part.is_symlink() for part in path.parents)]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_follow_the_arrows(folder):
    for file in files(folder):
        name = str(file.relative_to(ROOT))
        for module, top in imports(file):
            wrong = module.startswith(FORBIDDEN[folder]) and not (folder == "ops" and module.startswith("suite3d.ops"))
            assert not wrong or (name in LAZY and not top), f"{name} imports {module}"


def test_import_is_light_and_needs_nothing_optional():
    blocked = ["scipy", "sklearn", "shapely", "open3d", "matplotlib", "spconv", "laspy", "decord", "av", "pandas", "tensorboard"]
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "import suite3d, suite3d.cli, suite3d.recipes, suite3d.ops\n"
        "from suite3d.pointcloud.recipes import pretrain, finetune\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
