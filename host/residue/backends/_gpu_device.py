"""One CUDA device as the GPU backend needs it: memory, copies, launches, through CuPy.

No CuPy array is made: CuPy would compile kernels of its own for those, which needs CUDA's headers.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from residue.backends._gpu_build import Shape, kernel_names
from residue.backends._gpu_cache import cached_kernels
from residue.card._memory import DeviceMemoryError
from residue.errors import BackendError, DeviceError

__all__ = ["Buffer", "GpuDevice", "count_devices", "open_device"]

A = TypeVar("A", bound=np.generic)

_BLOCK = 128  # threads of a block, as the kernels' launch bounds say


class Buffer:
    """Device memory; it goes back to its device's pool when nobody holds it.

    Work is in the order of one stream, so that the next holder cannot disturb what is queued.
    """

    __slots__ = ("__weakref__", "memory", "size")

    def __init__(self, memory: Any, size: int) -> None:
        self.memory = memory
        self.size = size

    @property
    def address(self) -> int:
        """Where it begins, on the device."""
        return int(self.memory.ptr)


class GpuDevice:
    """A CUDA device, with a stream, a pool of memory and the kernels compiled for it.

    Used by one thread at a time, inside `active`.

    Args:
        cupy: the module, or one that behaves like it.
        ordinal: which device, as CUDA counts them.
        compile_for: machine code of the kernels, for a shape and a compute capability.

    Raises:
        DeviceError: there is no driver, or no device of this number, or it is too old.
    """

    def __init__(
        self, cupy: Any, ordinal: int, compile_for: Callable[[Shape, str], bytes] = cached_kernels
    ) -> None:
        self._cupy = cupy
        self.ordinal = ordinal
        self._compile = compile_for
        with self._translated():
            count = cupy.cuda.runtime.getDeviceCount()
            if ordinal >= count:
                raise DeviceError(f"there is no GPU {ordinal}: CUDA sees {count}")
            facts = cupy.cuda.runtime.getDeviceProperties(ordinal)
            self.name = str(facts["name"].decode())
            self.capability = (int(facts["major"]), int(facts["minor"]))
            self.processors = int(facts["multiProcessorCount"])
            self.memory_bytes = int(facts["totalGlobalMem"])
            self.clock_hz = 1000 * int(facts["clockRate"])
            self._threads = self.processors * int(facts["maxThreadsPerMultiProcessor"])
            if self.capability < (7, 0):
                raise DeviceError(f"GPU {ordinal} ({self.name}) is older than sm_70")
            self._device = cupy.cuda.Device(ordinal)
            with self._device:
                self._stream = cupy.cuda.Stream(non_blocking=True)
        self._free: defaultdict[int, list[Any]] = defaultdict(list)
        self._staging: deque[tuple[Any, Any, int]] = deque()  # event, memory, bytes in use
        self._kernels: dict[Shape, dict[str, Any]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device and its stream current; what CUDA reports becomes a `DeviceError`."""
        with self._translated(), self._device, self._stream:
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # CuPy's errors of the runtime and of the driver
            raise DeviceError(f"GPU {self.ordinal} cannot be used: {error}") from error

    # ------------------------------------------------------------------------------------- memory

    def allocate(self, size: int) -> Buffer:
        """`size` bytes with anything in them. `DeviceMemoryError` where the device has no more."""
        rounded = _round(size)
        free = self._free[rounded]
        if free:
            memory = free.pop()
        else:
            try:
                memory = self._cupy.cuda.Memory(rounded)
            except RuntimeError:
                self.erase_free()
                self._release()
                try:
                    memory = self._cupy.cuda.Memory(rounded)
                except RuntimeError as error:
                    raise DeviceMemoryError(
                        f"GPU {self.ordinal} has no {size} bytes left: drop arrays or use smaller "
                        "batches"
                    ) from error
        buffer = Buffer(memory, size)
        weakref.finalize(buffer, free.append, memory).atexit = False
        return buffer

    def upload(self, values: NDArray[Any]) -> Buffer:
        """The array's bytes, on the device; the array may change at once."""
        raw = np.ascontiguousarray(values)
        buffer = self.allocate(max(1, raw.nbytes))
        if raw.nbytes:
            self._erase_staging()
            pinned = self._cupy.cuda.alloc_pinned_memory(raw.nbytes)
            _host_view(pinned, raw.nbytes)[:] = raw.reshape(-1).view(np.uint8)
            self._pointer(buffer).copy_from_host_async(
                ctypes.c_void_p(pinned.ptr), raw.nbytes, self._stream
            )
            self._staging.append((self.record(), pinned, raw.nbytes))
        return buffer

    def download(self, buffer: Buffer, shape: tuple[int, ...], dtype: type[A]) -> NDArray[A]:
        """What the buffer has once all work before is done."""
        values = np.empty(shape, dtype)
        if values.nbytes:
            self._pointer(buffer).copy_to_host_async(
                ctypes.c_void_p(values.ctypes.data), values.nbytes, self._stream
            )
            self.synchronize()
        return values

    def copy(self, target: Buffer, at: int, source: Buffer, start: int, size: int) -> None:
        """Copy `size` bytes of the device's memory, from offset `start` to offset `at`."""
        if size:
            self._pointer(target, at).copy_from_device_async(
                self._pointer(source, start), size, self._stream
            )

    def erase(self, buffer: Buffer) -> None:
        """Zero it, after all work queued so far."""
        self._pointer(buffer).memset_async(0, buffer.size, self._stream)

    def erase_free(self) -> None:
        """Zero all memory that buffers have given back, and what staged the uploads; wait."""
        for memories in self._free.values():
            for memory in memories:
                pointer = self._cupy.cuda.MemoryPointer(memory, 0)
                pointer.memset_async(0, memory.size, self._stream)
        self.synchronize()
        self._erase_staging()

    def _erase_staging(self) -> None:
        """Zero and give back the host memory of uploads that are done."""
        while self._staging and self._staging[0][0].done:
            _, pinned, size = self._staging.popleft()
            _host_view(pinned, size)[:] = 0

    def _release(self) -> None:
        for memories in self._free.values():
            memories.clear()

    def _pointer(self, buffer: Buffer, offset: int = 0) -> Any:
        return self._cupy.cuda.MemoryPointer(buffer.memory, offset)

    # -------------------------------------------------------------------------------------- work

    def slots(self, shape: Shape, count: int | None = None) -> int:
        """Groups that a launch for `count` numbers has; None: the most that it may have.

        As many as the device has threads for; a launch for more numbers gives each group several.
        """
        each = _BLOCK // shape.threads
        blocks = max(1, self._threads // _BLOCK)
        if count is not None:
            blocks = min(blocks, -(-count // each))
        return blocks * each

    def launch(self, shape: Shape, kernel: str, count: int, *arguments: Buffer | int) -> None:
        """Queue ``kernel(*arguments, count)`` over `count` numbers."""
        if not count:
            return
        if shape not in self._kernels:
            self._kernels[shape] = self._load(shape)
        values = tuple(a.address if isinstance(a, Buffer) else int(a) for a in arguments)
        blocks = self.slots(shape, count) * shape.threads // _BLOCK
        self._kernels[shape][kernel]((blocks,), (_BLOCK,), (*values, count))

    def _load(self, shape: Shape) -> dict[str, Any]:
        arch = "sm_{}{}".format(*self.capability)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.cubin")
            path.write_bytes(self._compile(shape, arch))
            module = self._cupy.RawModule(path=str(path))
            return {name: module.get_function(name) for name in kernel_names()}

    def record(self) -> Any:
        """An event: `wait` for it waits for what is queued so far."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return event

    def wait(self, event: Any) -> None:
        """Return when the work before `event` is done. Any thread may call it."""
        with self._translated():
            event.synchronize()

    def synchronize(self) -> None:
        """Return when everything queued is done."""
        self._stream.synchronize()


def _round(size: int) -> int:
    """Sizes of the pool: eight between powers of two, so that few are kept and most fit again."""
    step = max(512, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _host_view(pinned: Any, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pinned.ptr)))


def open_device(ordinal: int = 0) -> GpuDevice:
    """A GPU of this machine.

    Raises:
        BackendError: CuPy is not installed.
        DeviceError: there is no driver or no such device.
    """
    return GpuDevice(_cupy(), ordinal)


def count_devices() -> int:
    """How many GPUs this machine has, at least one. Raises what `open_device` does."""
    open_device()
    return int(_cupy().cuda.runtime.getDeviceCount())


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"a GPU needs CuPy: install residue[gpu] ({error})") from error
    return cupy
