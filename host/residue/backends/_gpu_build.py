"""Kernels of the GPU backend: how numbers lie over threads, and NVRTC, which compiles them.

One source serves all moduli: it is compiled for each `Shape`, at its first use.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residue.errors import BackendError

__all__ = [
    "GROUPS",
    "Resources",
    "Shape",
    "compile_kernels",
    "compiler_options",
    "compiler_version",
    "kernel_names",
    "kernel_resources",
    "kernel_source",
    "largest_bits",
    "shape_for",
]

GROUPS = (4, 8, 16, 32)
"""Threads that may share a number: parts of a warp, so that they exchange words by shuffles."""

_LIMBS_BY_SIZE = 8  # most limbs a thread has where the size chooses the group
_MOST_LIMBS = 16  # what registers hold without spills, about: five times as many, and 30
_OLD_ARCHITECTURE = "nvrtc: warning: Architectures prior to"


@dataclass(frozen=True)
class Shape:
    """How a number lies over the threads of a group.

    Limb ``t * limbs + j`` belongs to thread t; in device memory it is word ``j * threads + t``, so
    that the threads of a group read neighbouring words.

    Attributes:
        threads: threads a number, one of `GROUPS`.
        limbs: 32-bit limbs a thread, even, at least 2.
    """

    threads: int
    limbs: int

    @property
    def words(self) -> int:
        """32-bit words of a number."""
        return self.threads * self.limbs

    def spread(self, values: list[int]) -> NDArray[np.uint32]:
        """``(n, words) uint32``: integers below ``2 ** (32 * words)`` in memory order."""
        raw = b"".join(value.to_bytes(4 * self.words, "little") for value in values)
        plain = np.frombuffer(raw, "<u4").reshape(-1, self.threads, self.limbs)
        return np.ascontiguousarray(plain.transpose(0, 2, 1)).reshape(-1, self.words)


def shape_for(bits: int, threads: int | None = None) -> Shape:
    """The shape of residues of `bits` bits; `threads`, one of `GROUPS`, overrides its group.

    By size: the smallest group whose threads have at most 8 limbs each.

    Raises:
        BackendError: no group, or not this one, holds so large a number.
    """
    words = -(-bits // 32)
    for group in (threads,) if threads else GROUPS:
        limbs = -(-words // (2 * group)) * 2
        if limbs <= (_MOST_LIMBS if threads else _LIMBS_BY_SIZE):
            return Shape(group, limbs)
    limit = largest_bits(threads)
    raise BackendError(f"a modulus of {bits} bits is too large: this GPU backend takes {limit}")


def largest_bits(threads: int | None = None) -> int:
    """Bits of the largest modulus that `shape_for` finds a shape for."""
    return 32 * (threads * _MOST_LIMBS if threads else GROUPS[-1] * _LIMBS_BY_SIZE)


@cache
def kernel_source() -> str:
    """The device's lanes, then the kernels on them: one CUDA source text."""
    folder = files("residue.backends")
    names = ("_gpu_lanes.cuh", "_gpu_kernels.cu")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


@cache
def kernel_names() -> tuple[str, ...]:
    """The kernels in there."""
    return tuple(re.findall(r"^KERNEL (\w+)", kernel_source(), re.MULTILINE))


def compile_kernels(
    shape: Shape, arch: str, *, source: str | None = None, ptx: bool = False
) -> bytes:
    """Machine code of all kernels for GPUs of one kind.

    Args:
        shape: what the kernels are specialised for.
        arch: compute capability, as in ``sm_80``; at least ``sm_70``.
        source: another source than `kernel_source`.
        ptx: give PTX text instead.

    Raises:
        BackendError: NVRTC is not installed, or the source has errors or warnings: its log.
    """
    if ptx:
        return _compile(shape, arch.replace("sm_", "compute_"), source, "PTX")[0]
    return _compile(shape, arch, source, "CUBIN")[0]


def compiler_options(shape: Shape, arch: str) -> list[str]:
    """What NVRTC is called with."""
    sizes = [f"-DTHREADS={shape.threads}", f"-DLIMBS={shape.limbs}"]
    return [f"--gpu-architecture={arch}", "--std=c++17", *sizes]


def compiler_version() -> str:
    """NVRTC's. Raises `BackendError` where it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(_nvrtc(), "Version", ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor: registers a thread, bytes that do not fit them."""

    registers: int
    spilled: int


def kernel_resources(shape: Shape, arch: str) -> dict[str, Resources]:
    """Kernel -> what the assembler in NVRTC says of it. Raises what `compile_kernels` does."""
    _, lines = _compile(shape, arch, None, "CUBIN", "--ptxas-options=-v")
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers",
        "\n".join(lines),
        re.DOTALL,
    )
    return {name: Resources(int(registers), int(spilled)) for name, spilled, registers in found}


def _compile(
    shape: Shape, arch: str, source: str | None, what: str, *more: str
) -> tuple[bytes, list[str]]:
    """What NVRTC makes of the source, and the assembler's lines of its log."""
    nvrtc = _nvrtc()
    text = kernel_source() if source is None else source
    program = ctypes.c_void_p()
    arguments = [ctypes.byref(program), text.encode(), b"residue.cu", 0, None, None]
    _call(nvrtc, "CreateProgram", *arguments)
    try:
        options = [*compiler_options(shape, arch), *more]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        lines = _result(nvrtc, program, "ProgramLog").rstrip(b"\0").decode().splitlines()
        log = [x for x in lines if x and not x.startswith(("ptxas ", _OLD_ARCHITECTURE))]
        if failed or log:
            text = "\n".join(log) or f"status {failed}"
            raise BackendError(f"NVRTC does not accept the GPU kernels for {arch}: {text}")
        return _result(nvrtc, program, what), lines
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _call(nvrtc: ctypes.CDLL, function: str, *arguments: object) -> None:
    if status := getattr(nvrtc, f"nvrtc{function}")(*arguments):
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        text = nvrtc.nvrtcGetErrorString(status).decode()
        raise BackendError(f"NVRTC failed in {function}: {text}")


def _result(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(nvrtc, f"Get{what}Size", program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    _call(nvrtc, f"Get{what}", program, data)
    return data.raw


@cache
def _nvrtc() -> ctypes.CDLL:
    """NVRTC 12 of the wheel, else of a CUDA toolkit on the loader's path."""
    places = ["libnvrtc.so.12"]
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        places.insert(0, str(Path(folder, "cuda_nvrtc", "lib", "libnvrtc.so.12")))
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError as error:
            reason = error
    raise BackendError(
        f"the GPU kernels need NVRTC 12 to be compiled: install residue[gpu] ({reason})"
    )
