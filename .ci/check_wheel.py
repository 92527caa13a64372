"""Does one wheel work with other torch versions? ``make check-wheel``, or ``python .ci/check_wheel.py dist/suite3d-*.whl``.

For each torch (default: 2.10.0, the oldest that the binary is made for, and the newest on the registry) a fresh virtual environment in a
temporary folder gets torch with all that it asks for (gigabytes: the registry's wheels are CUDA builds), the wheel with all that *it* asks
for, and what the tests need. There the script checks that

- ``import suite3d.ops`` takes under 2 s, or, where ``import torch`` alone takes about as long, at most 0.2 s more than that (CPU time, best
  of seven fresh processes, torch and ours in turns; other work on the machine makes the wall time, which is printed too, say little),
- ``suite3d doctor`` finds the compiled CPU ops and every op in agreement with its reference,
- ``tests/ops``, the same files, pass (but for those that compile the CUDA sources, with nvcc or for the emulator: they are not of the wheel).

Exit code 0 if all hold. ``--python`` takes other interpreters, one for all or one for each torch. ``--keep FOLDER`` makes the environments
there and keeps them: the next run installs the wheel alone. ``--save`` writes ``benchmarks/results/check_wheel.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORT_LIMIT, IMPORT_BEYOND_TORCH = 2.0, 0.2  # seconds
FOR_THE_TESTS = ("pytest", "hypothesis", "scipy", "shapely")


@dataclass(frozen=True)
class Outcome:
    """What one environment showed."""

    python: str
    torch: str
    fresh: bool  # False: torch and the rest were there from a run before (--keep), the wheel alone was installed
    install_seconds: float
    import_seconds: tuple[float, float]  # CPU, wall
    import_torch_seconds: tuple[float, float]
    doctor: str
    tests: str
    test_seconds: float
    problems: list[str]

    def line(self) -> str:
        took, alone = (f"{cpu:.2f} s ({wall:.2f} s wall)" for cpu, wall in (self.import_seconds, self.import_torch_seconds))
        what = "all" if self.fresh else "the wheel alone"
        return (
            f"torch {self.torch}, python {self.python}: {what} installed in {self.install_seconds:.0f} s; import suite3d.ops {took},"
            f" torch alone {alone}; doctor: {self.doctor}; tests/ops: {self.tests} ({self.test_seconds:.0f} s)"
        )


def run(command: Sequence[str | Path], folder: Path, *, limit: float) -> subprocess.CompletedProcess[str]:
    """Run in ``folder`` as a user would: no checkout on the path. A command beyond ``limit`` seconds counts as failed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "SUITE3D_ISA")}
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"took longer than {limit:g} s")


def must(command: Sequence[str | Path], folder: Path, *, limit: float) -> str:
    """Output of a command without which nothing can be checked."""
    result = run(command, folder, limit=limit)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed ({result.returncode}):\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def newest_torch() -> str:
    """The newest torch release on the registry, for this interpreter."""
    listed = must([sys.executable, "-m", "pip", "index", "versions", "torch"], ROOT, limit=120)
    found = re.match(r"torch \(([\w.+]+)\)", listed)
    if found is None:
        raise SystemExit(f"`pip index versions torch` said something unexpected: {listed[:200]}")
    return found.group(1)


def contents(wheel: Path) -> str:
    """Size of the wheel and of the libraries in it."""
    with zipfile.ZipFile(wheel) as archive:
        libraries = [info for info in archive.infolist() if info.filename.endswith(".so")]
        parts = [f"{Path(info.filename).name} {info.file_size / 1e3:.0f} kB ({info.compress_size / 1e3:.0f} kB packed)" for info in libraries]
    if not libraries:
        raise SystemExit(f"{wheel} holds no compiled ops: it was built without torch or compiler; build it with `make wheel`")
    return f"{wheel.name}: {wheel.stat().st_size / 1e3:.0f} kB with {', '.join(parts)}"


def installed(folder: Path, python: str, torch: str, wheel: Path) -> tuple[Path, float]:
    """An environment in ``folder`` with torch, the wheel and the test tools: its interpreter, and the seconds it took."""
    start = time.monotonic()
    inside, done = folder / "venv" / "bin" / "python", folder / "installed"
    if done.is_file():
        must([inside, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", wheel], folder, limit=300)
        return inside, time.monotonic() - start
    must([python, "-m", "venv", folder / "venv"], folder, limit=120)
    must([inside, "-m", "pip", "install", "-q", f"torch=={torch}"], folder, limit=3000)
    must([inside, "-m", "pip", "install", "-q", wheel, *FOR_THE_TESTS], folder, limit=1800)
    done.touch()
    return inside, time.monotonic() - start


def seconds_to_import(inside: Path, folder: Path, modules: Sequence[str]) -> list[tuple[float, float]]:
    """Least CPU and wall seconds of seven fresh processes for each module, which take turns; infinity where it fails."""
    clocks = "time.process_time(), time.perf_counter()"
    times: dict[str, list[tuple[float, float]]] = {module: [] for module in modules}
    for _ in range(7):
        for module, found in times.items():
            script = f"import time; c, w = {clocks}; import {module}; d, x = {clocks}; print(d - c, x - w)"
            result = run([inside, "-c", script], folder, limit=300)
            cpu, wall = result.stdout.split() if result.returncode == 0 else ("inf", "inf")
            found.append((float(cpu), float(wall)))
    return [(round(min(cpu for cpu, _ in found), 2), round(min(wall for _, wall in found), 2)) for found in times.values()]


def ask_doctor(folder: Path) -> tuple[str, str]:
    """What ``suite3d doctor`` says in short, and the whole of it where it is not green."""
    report = run([folder / "venv" / "bin" / "suite3d", "doctor"], folder, limit=300)
    agreed = re.findall(r"^ +ok +cpu", report.stdout, re.MULTILINE)
    if report.returncode == 0 and agreed and "WRONG" not in report.stdout and "compiled ops, cpu: yes" in report.stdout:
        return f"{len(agreed)} ops agree", ""
    return "not green", "suite3d doctor is not green:\n" + (report.stdout + report.stderr)[-3000:]


def run_tests(inside: Path, folder: Path) -> tuple[str, str]:
    """The closing line of ``tests/ops``, run from a copy beside no checkout, and the end of the output where they fail."""
    shutil.rmtree(folder / "tests", ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "ops", folder / "tests" / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("__init__.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / file, folder / "tests" / file)
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-k", "not cuda and not emulated"]
    tests = run([inside, "-m", "pytest", "tests/ops", *options], folder, limit=3000)
    closing = (tests.stdout.strip().splitlines() or ["said nothing"])[-1].strip("= ")
    return closing, "" if tests.returncode == 0 else "tests/ops:\n" + (tests.stdout + tests.stderr)[-6000:]


def check(folder: Path, wheel: Path, python: str, torch: str) -> Outcome:
    """Install and check in one environment."""
    fresh = not (folder / "installed").is_file()
    inside, install_seconds = installed(folder, python, torch, wheel)
    ask = "import sys, torch, suite3d; print(sys.version.split()[0], torch.__version__, suite3d.__file__)"
    python_version, torch_version, where = must([inside, "-c", ask], folder, limit=300).split()
    inside_venv = Path(where).resolve().is_relative_to((folder / "venv").resolve())
    problems = [] if inside_venv else [f"suite3d came from {where}, not from the wheel"]
    import_torch, import_ops = seconds_to_import(inside, folder, ["torch", "suite3d.ops"])
    limit = max(IMPORT_LIMIT, import_torch[0] + IMPORT_BEYOND_TORCH)
    if not import_ops[0] < limit:
        problems.append(f"import suite3d.ops took {import_ops[0]:.2f} s, expected under {limit:.2f} s (import torch alone: {import_torch[0]:.2f} s)")
    doctor, problem = ask_doctor(folder)
    problems += [problem] if problem else []
    start = time.monotonic()
    tests, problem = run_tests(inside, folder)
    problems += [problem] if problem else []
    return Outcome(
        python=python_version,
        torch=torch_version,
        fresh=fresh,
        install_seconds=round(install_seconds, 1),
        import_seconds=import_ops,
        import_torch_seconds=import_torch,
        doctor=doctor,
        tests=tests,
        test_seconds=round(time.monotonic() - start, 1),
        problems=problems,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", nargs="+", default=["2.10.0", "newest"], help='versions, or "newest"')
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters: one for all, or one for each torch")
    parser.add_argument("--keep", type=Path, help="folder for environments that are kept, and used again")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/check_wheel.json")
    options = parser.parse_args()
    if len(options.python) not in (1, len(options.torch)):
        parser.error(f"--python: expected one interpreter or {len(options.torch)}, got {len(options.python)}")
    wheel = options.wheel.resolve()
    holds = contents(wheel)
    print(f"{holds}\nload of this machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    pythons = options.python if len(options.python) > 1 else options.python * len(options.torch)
    outcomes = []
    for python, torch in zip(pythons, options.torch, strict=True):
        version = newest_torch() if torch == "newest" else torch
        with tempfile.TemporaryDirectory(prefix="check_wheel_") as temporary:
            folder = options.keep / version if options.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            outcome = check(folder.resolve(), wheel, python, version)
        outcomes.append(outcome)
        print(outcome.line(), flush=True)
        for problem in outcome.problems:
            print(f"PROBLEM with torch {outcome.torch}: {problem}", flush=True)
    if options.save:
        target = ROOT / "benchmarks" / "results" / "check_wheel.json"
        record = {"date": datetime.date.today().isoformat(), "wheel": holds, "environments": [asdict(outcome) for outcome in outcomes]}
        target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    good = not any(outcome.problems for outcome in outcomes)
    print("the wheel works with every torch above" if good else "the wheel does NOT work everywhere: see the problems above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
