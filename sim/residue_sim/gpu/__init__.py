"""The GPU backend without a GPU: its kernels on the CPU, behind CuPy's names.

The kernels' own source is compiled by g++ over `lanes.hpp`, which runs a group of threads in
lockstep (`emulated_gpu`), or by NVRTC to PTX, inline assembly and shuffles included, which
`residue_sim.gpu.ptx` interprets (`interpreted_gpu`). `FakeCupy` has the part of CuPy that the
backend uses, memory being the host's, so that all of the backend's Python runs. What runs nowhere
here: machine code, CuPy itself, and several things at the same time; instead, streams may run as
late or as early as what they wait for allows.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import tempfile
import weakref
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from residue.backends._gpu import GpuBackend
from residue.backends._gpu_build import Shape, compile_kernels
from residue.backends._gpu_device import GpuDevice
from residue_sim.gpu import ptx
from residue_sim.gpu._fault import KernelFault

__all__ = [
    "FakeCupy",
    "KernelFault",
    "emulated_gpu",
    "emulated_kernels",
    "interpreted_gpu",
    "kernels_alone",
]


def kernels_alone() -> str:
    """The kernels without the device's lanes."""
    source = files("residue.backends").joinpath("_gpu_kernels.cu")
    return source.read_text(encoding="utf-8")


@cache
def emulated_kernels(shape: Shape, source: str | None = None) -> bytes:
    """A shared library of the kernels, from `source` or the backend's own."""
    with (
        as_file(files("residue_sim.gpu").joinpath("lanes.hpp")) as lanes,
        tempfile.TemporaryDirectory() as folder,
    ):
        text, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        text.write_text(kernels_alone() if source is None else source, encoding="utf-8")
        options = [f"-DTHREADS={shape.threads}", f"-DLIMBS={shape.limbs}", "-include", str(lanes)]
        options += ["-std=c++20", "-O1", "-march=native", "-shared", "-fPIC"]
        options += ["-Wall", "-Werror", "-Wno-psabi"]
        command = ["g++", *options, str(text), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise KernelFault(done.stderr)
        return library.read_bytes()


class FakeCupy:
    """What `GpuDevice` uses of CuPy, on the host's memory, which is full of rubbish at first.

    `launches` are the kernels that were run, each with what `ptx.run` says of it, or nothing.

    Args:
        memory: bytes that the devices have together.
        devices: how many there are.
        eager: which streams of a device run what is queued as soon as what it waits for is done, by
            the order in which they were made; others run when the host waits, and no further than
            they must.
    """

    def __init__(
        self, memory: int = 1 << 30, devices: int = 1, eager: tuple[int, ...] = (0, 1)
    ) -> None:
        self._eager = eager
        self._streams: list[_Stream] = []
        self.current: list[_Stream] = []
        self._limit = memory
        self._count = 0
        self._properties = {
            "name": b"emulated GPU",
            "major": 7,
            "minor": 0,
            "multiProcessorCount": 1,
            "maxThreadsPerMultiProcessor": 128,
            "totalGlobalMem": memory,
            "clockRate": 1,
        }
        self.launches: list[tuple[str, bytes]] = []
        self.memories: weakref.WeakSet[_Memory] = weakref.WeakSet()
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                getDeviceCount=lambda: devices,
                getDeviceProperties=lambda ordinal: self._properties,
            ),
            Device=lambda ordinal: contextlib.nullcontext(),
            Stream=self._stream,
            Event=_Event,
            Memory=self._memory,
            MemoryPointer=partial(_Pointer, self),
            alloc_pinned_memory=self._memory,
        )

    def _memory(self, size: int) -> _Memory:
        if size + sum(memory.size for memory in self.memories) > self._limit:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
        self._count += 1
        memory = _Memory(size, self._count)
        self.memories.add(memory)
        return memory

    def _stream(self, non_blocking: bool) -> _Stream:
        self._streams.append(_Stream(self, non_blocking))
        return self._streams[-1]

    def advance(self) -> None:
        """Let eager streams run until they wait for one that is not."""
        for _ in self._streams:
            for i, stream in enumerate(self._streams):
                if i % 2 in self._eager:
                    stream.run()

    def RawModule(self, path: str) -> _Library | _Ptx:  # noqa: N802 - CuPy's name
        """The kernels in a shared library, or as PTX."""
        start = Path(path).read_bytes()[:4]
        return _Library(path, self) if start == b"\x7fELF" else _Ptx(path, self)

    def allocation(self, address: int) -> tuple[NDArray[np.uint32], int, int]:
        """The words of the allocation that has `address`, where it begins, and its number.

        Raises:
            KernelFault: the address is in none.
        """
        for memory in self.memories:
            if memory.ptr <= address < memory.ptr + memory.size:
                return memory.words, memory.ptr, memory.number
        raise KernelFault(f"the address {address:#x} is nobody's")


class _Memory:
    def __init__(self, size: int, number: int) -> None:
        self.size = size
        self.number = number
        self.words = np.full(-(-size // 4), 0xA5A5A5A5, np.uint32)
        self.ptr = self.words.ctypes.data


class _Pointer:
    def __init__(self, cupy: FakeCupy, memory: _Memory, offset: int) -> None:
        self._cupy = cupy
        self._memory = memory
        self._offset = offset
        self.ptr = memory.ptr + offset

    def _checked(self, size: int) -> int:
        if not 0 < size <= self._memory.size - self._offset:
            raise KernelFault(f"{size} bytes at {self._offset} of {self._memory.size}")
        return size

    def _pinned(self, host: ctypes.c_void_p) -> int:
        """The host's address, if that is pinned memory which nobody has given back yet."""
        address = int(host.value or 0)
        self._cupy.allocation(address)
        return address

    def copy_from_host_async(self, host: ctypes.c_void_p, size: int, stream: _Stream) -> None:
        self._checked(size)
        stream.add(lambda: ctypes.memmove(self.ptr, self._pinned(host), size))

    def copy_to_host_async(self, host: ctypes.c_void_p, size: int, stream: _Stream) -> None:
        self._checked(size)
        stream.add(lambda: ctypes.memmove(self._pinned(host), self.ptr, size))

    def copy_from_device_async(self, source: _Pointer, size: int, stream: _Stream) -> None:
        source._checked(self._checked(size))
        stream.add(lambda: ctypes.memmove(self.ptr, source.ptr, size))

    def memset_async(self, value: int, size: int, stream: _Stream) -> None:
        self._checked(size)
        stream.add(lambda: ctypes.memset(self.ptr, value, size))


class _Stream:
    """What is queued: functions, and events to wait for."""

    def __init__(self, cupy: FakeCupy, non_blocking: bool) -> None:
        self._cupy = cupy
        self._queue: deque[Callable[[], object] | _Event] = deque()
        self.non_blocking = non_blocking

    def __enter__(self) -> None:
        self._cupy.current.append(self)

    def __exit__(self, *error: object) -> None:
        self._cupy.current.pop()

    def add(self, work: Callable[[], object] | _Event) -> None:
        self._queue.append(work)
        self._cupy.advance()

    def wait_event(self, event: _Event) -> None:
        self.add(event)

    def run(self) -> None:
        """What is queued, as far as it need not wait."""
        while self._queue and (not isinstance(self._queue[0], _Event) or self._queue[0].done):
            self.step()

    def step(self) -> None:
        """The next that is queued, and what it waits for."""
        work = self._queue.popleft()
        if isinstance(work, _Event):
            work.synchronize()
        else:
            work()

    def synchronize(self) -> None:
        while self._queue:
            self.step()


class _Event:
    def __init__(self, disable_timing: bool) -> None:
        self.done = True
        self._stream: _Stream | None = None

    def record(self, stream: _Stream) -> None:
        self.done = False
        self._stream = stream
        stream.add(self._reached)

    def _reached(self) -> None:
        self.done = True

    def synchronize(self) -> None:
        while not self.done:
            assert self._stream is not None
            self._stream.step()


class _Library:
    def __init__(self, path: str, cupy: FakeCupy) -> None:
        self._library = ctypes.CDLL(path)
        self._library.failure.restype = ctypes.c_char_p
        self._cupy = cupy

    def get_function(self, name: str) -> Callable[..., None]:
        kernel = self._library[name]

        def run(args: tuple[int, ...]) -> None:
            self._cupy.launches.append((name, b""))
            kernel(*map(ctypes.c_longlong, args))
            if fault := self._library.failure():
                raise KernelFault(f"{name}: {fault.decode()}")

        def launch(grid: tuple[int], block: tuple[int], args: tuple[int, ...]) -> None:
            self._cupy.current[-1].add(lambda: run(args))

        return launch


class _Ptx:
    def __init__(self, path: str, cupy: FakeCupy) -> None:
        self._programs = ptx.parse(Path(path).read_bytes().rstrip(b"\0").decode())
        self._cupy = cupy

    def get_function(self, name: str) -> Callable[..., None]:
        program = self._programs[name]

        def run(grid: int, block: int, args: tuple[int, ...]) -> None:
            seen = ptx.run(program, grid, block, args, self._cupy.allocation)
            self._cupy.launches.append((name, seen))

        def launch(grid: tuple[int], block: tuple[int], args: tuple[int, ...]) -> None:
            self._cupy.current[-1].add(lambda: run(grid[0], block[0], args))

        return launch


def interpreted_gpu(
    cupy: FakeCupy | None = None,
    *,
    arch: str = "sm_70",
    source: str | None = None,
    threads: int | None = None,
) -> GpuBackend:
    """The backend on an interpreter of the PTX that NVRTC makes of the kernels for `arch`."""

    def compile_for(shape: Shape, _: str) -> bytes:
        return _ptx_of(shape, arch, source)

    return GpuBackend(GpuDevice(cupy or FakeCupy(), 0, compile_for), threads=threads)


@cache
def _ptx_of(shape: Shape, arch: str, source: str | None) -> bytes:
    return compile_kernels(shape, arch, source=source, ptx=True)


def emulated_gpu(
    cupy: FakeCupy | None = None, *, source: str | None = None, threads: int | None = None
) -> GpuBackend:
    """The backend on an emulated device, with the kernels of `source` or its own."""

    def compile_for(shape: Shape, arch: str) -> bytes:
        return emulated_kernels(shape, source)

    return GpuBackend(GpuDevice(cupy or FakeCupy(), 0, compile_for), threads=threads)
