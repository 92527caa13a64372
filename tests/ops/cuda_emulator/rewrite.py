"""What of CUDA C++ a host compiler cannot be taught by macros: launches and shared memory. Line numbers stay."""

from __future__ import annotations

import re

_ARGUMENTS = r"<(?:[^<>;{}]|<[^<>;{}]*>)*>"
_LAUNCH = re.compile(rf"([A-Za-z_][\w:]*(?:{_ARGUMENTS})?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
_EXTERN_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\w+\)\s*|alignas\(\w+\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;")
_DECLARATOR = r"\w+(?:\s*\[[^\]]*\])*"
_SHARED = re.compile(rf"__shared__\s+(?:__align__\(\w+\)\s*)?([\w:]+(?:{_ARGUMENTS})?(?:\s+\w+)*?)\s+({_DECLARATOR}(?:\s*,\s*{_DECLARATOR})*)\s*;")
_REGISTRATION = re.compile(r"STABLE_TORCH_LIBRARY_IMPL\(\s*suite3d\s*,\s*CUDA\s*,")


def _launch(match: re.Match[str]) -> str:
    kernel, configuration = match.groups()
    parameters = "cuda_emulator_arguments"
    return f"::cuda_emulator::launcher([&](auto... {parameters}) {{ {kernel}({parameters}...); }}, {configuration})("


def _dynamic(match: re.Match[str]) -> str:
    kind, name = match.groups()
    return f"{kind}* const {name} = reinterpret_cast<{kind}*>(::cuda_emulator::dynamic_shared());"


def _shared(match: re.Match[str]) -> str:
    kind, declarators = match.groups()
    names = [re.match(r"\w+", part.strip()) for part in re.split(r",(?![^\[]*\])", declarators)]
    objects = "".join(f" ::cuda_emulator::shared_object(&{name.group()}, sizeof({name.group()}));" for name in names if name)
    return f"static {kind} {declarators};{objects}"


def rewrite(source: str) -> str:
    """CUDA C++ as C++ for the emulator's headers. ``kernel<<<g, b, s, stream>>>(a)`` becomes a call that runs the kernel.

    ``__shared__`` objects become static ones (blocks run one after another) that the emulator is told of, registrations of CUDA
    kernels registrations of CPU kernels in a namespace of their own.

    Raises:
        ValueError: a launch or shared object that is written in a way this does not know.
    """
    text = _EXTERN_SHARED.sub(_dynamic, source)
    text = _SHARED.sub(_shared, text)
    text = _LAUNCH.sub(_launch, text)
    text = _REGISTRATION.sub("STABLE_TORCH_LIBRARY_IMPL(suite3d_emulated, CPU,", text)
    code = re.sub(r"//[^\n]*", "", text)
    for left in ("<<<", "__shared__"):
        if left in code:
            line = next(line for line in code.splitlines() if left in line)
            raise ValueError(f"expected {left} in a form that the CUDA emulator can rewrite, got {line.strip()!r}; write it more simply")
    return text
