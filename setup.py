"""Build suite3d: map the top-level folders into one import root and compile the ops where the machine allows it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = {"suite3d": "suite3d", "suite3d.ops": "ops", "suite3d.pointcloud": "pointcloud", "suite3d.video": "video"}
LINKS = [link for name in ("ops", "pointcloud", "video", "configs") for link in (name, f"{name}.*")]


def packages() -> list[str]:
    """Every package under its import name; the links inside suite3d/ are left to checkouts and editors."""
    found = ["suite3d.configs"]
    for name, folder in FOLDERS.items():
        found += [name] + [f"{name}.{sub}" for sub in find_packages(str(ROOT / folder), exclude=LINKS if name == "suite3d" else [])]
    return found


class BuildWithOps(build_py):
    """Compile the ops into ops/lib before the files are collected. Never fails the install: it says what it left out and why."""

    def run(self) -> None:
        spec = importlib.util.spec_from_file_location("suite3d_ops_build", ROOT / "ops" / "build.py")
        assert spec is not None and spec.loader is not None
        build: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        os.chdir(ROOT)
        build.build(ROOT / "ops" / "lib")
        super().run()


def wheel_command() -> dict[str, Any]:
    """A platform wheel for any Python 3: the ops library uses no Python ABI."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ImportError:
        return {}

    class PlatformWheel(bdist_wheel):
        def finalize_options(self) -> None:
            super().finalize_options()
            self.root_is_pure = False

        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    return {"bdist_wheel": PlatformWheel}


setup(
    packages=packages(),
    include_package_data=False,
    package_dir={**FOLDERS, "suite3d.configs": "configs"},
    package_data={
        "suite3d": ["py.typed", "report/*.html", "report/*.css", "report/*.js"],
        "suite3d.configs": ["*.yaml"],
        "suite3d.ops": ["lib/*.so", "csrc/*.h", "csrc/*/*"],
    },
    cmdclass={"build_py": BuildWithOps, **wheel_command()},
)
