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
from dataclasses import dataclass
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
_PIECE_BYTES = 4 << 20  # of rows that are copied at a time; projected, not measured
_AHEAD = 2  # pieces of a download that are on their way while the host takes one


class Buffer:
    """Device memory; it goes back to its device's pool when nobody holds it.

    Its work is in the order of the stream of kernels, so that the next holder cannot disturb what
    is queued. What the stream of copies touches besides is ordered by `GpuDevice`.
    """

    __slots__ = ("__weakref__", "memory", "size")

    def __init__(self, memory: Any, size: int) -> None:
        self.memory = memory
        self.size = size

    @property
    def address(self) -> int:
        """Where it begins, on the device."""
        return int(self.memory.ptr)


@dataclass
class _Landing:
    """Device memory that uploads go to; when the kernels that read it are done."""

    memory: Any
    read: Any = None


class GpuDevice:
    """A CUDA device, with two streams, pools of memory and the kernels compiled for it.

    Kernels run on one stream, copies of rows on the other, piece by piece, so that a piece is
    copied while another is computed with. What waits for what:

    - a kernel that reads uploaded rows: for their copy;
    - a copy into memory of an earlier upload: for the kernels that read that;
    - a copy to the host: for the kernel that wrote the rows;
    - the host, before it takes or erases pinned memory: for the copy.

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
                self._copies = cupy.cuda.Stream(non_blocking=True)
        self._free: defaultdict[int, list[Any]] = defaultdict(list)
        self._landings: defaultdict[int, list[_Landing]] = defaultdict(list)
        # Of uploads, on the kernels' stream and on that of copies: event, memory, bytes in use.
        self._staging: tuple[deque[tuple[Any, Any, int]], ...] = (deque(), deque())
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
        memory = free.pop() if free else self._memory(rounded)
        buffer = Buffer(memory, size)
        weakref.finalize(buffer, free.append, memory).atexit = False
        return buffer

    def _memory(self, size: int) -> Any:
        try:
            return self._cupy.cuda.Memory(size)
        except RuntimeError:
            self.erase_free()
            self._release()
            try:
                return self._cupy.cuda.Memory(size)
            except RuntimeError as error:
                raise DeviceMemoryError(
                    f"GPU {self.ordinal} has no {size} bytes left: drop arrays or use smaller "
                    "batches"
                ) from error

    def upload(self, values: NDArray[Any]) -> Buffer:
        """The array's bytes, on the device; the array may change at once."""
        buffer = self.allocate(max(1, values.nbytes))
        self._send(buffer, 0, values, self._stream)
        return buffer

    def pieces(self, rows: int, row: int, least: int = 1) -> Iterator[tuple[int, int]]:
        """First row and length of the pieces of so many rows, `row` bytes each, `least` a piece."""
        step = max(1, least, _PIECE_BYTES // max(1, row))
        for start in range(0, rows, step):
            yield start, min(step, rows - start)

    @contextmanager
    def sending(self, size: int) -> Iterator[Callable[[int, NDArray[Any]], int]]:
        """Memory for rows on their way in: a function that copies some to an offset of it.

        It returns their address; the host's array may change at once. Kernels that are launched
        after it, and before the end of this block, find them there.
        """
        free = self._landings[_round(max(1, size))]
        landing = free.pop() if free else _Landing(self._memory(_round(max(1, size))))
        buffer = Buffer(landing.memory, size)
        if landing.read is not None:
            self._copies.wait_event(landing.read)

        def send(at: int, values: NDArray[Any]) -> int:
            self._send(buffer, at, values, self._copies)
            return buffer.address + at

        try:
            yield send
        finally:
            landing.read = self.record()
            free.append(landing)

    @contextmanager
    def receiving(self, values: NDArray[A]) -> Iterator[Callable[[Buffer, int, int], None]]:
        """Rows on their way out: a function that queues copies of a buffer into rows of `values`.

        It takes the buffer, the first row and how many; they are there at the end of this block.
        """
        pending: deque[tuple[Any, Any, Buffer, int, int]] = deque()
        row = values[:1].nbytes

        def deliver() -> None:
            event, pinned, _, start, count = pending[0]
            event.synchronize()
            view = _host_view(pinned, count * row)
            values[start : start + count] = view.view(values.dtype).reshape(count, -1)
            view[:] = 0
            pending.popleft()  # until now nobody else has the buffer

        def receive(buffer: Buffer, start: int, count: int) -> None:
            if count * row:
                pinned = self._cupy.cuda.alloc_pinned_memory(count * row)
                self._copies.wait_event(self.record())
                self._pointer(buffer).copy_to_host_async(
                    ctypes.c_void_p(pinned.ptr), count * row, self._copies
                )
                pending.append((self._record(self._copies), pinned, buffer, start, count))
                if len(pending) > _AHEAD:
                    deliver()

        try:
            yield receive
            while pending:
                deliver()
        finally:
            if pending:  # something failed: nothing may be written to memory that is given back
                self._copies.synchronize()
                for _, pinned, _, _, count in pending:
                    _host_view(pinned, count * row)[:] = 0

    def _send(self, buffer: Buffer, at: int, values: NDArray[Any], stream: Any) -> None:
        """Copy through pinned memory on `stream`; kernels that are queued later wait for it."""
        raw = np.ascontiguousarray(values)
        if not raw.nbytes:
            return
        self._erase_staging()
        pinned = self._cupy.cuda.alloc_pinned_memory(raw.nbytes)
        _host_view(pinned, raw.nbytes)[:] = raw.reshape(-1).view(np.uint8)
        self._pointer(buffer, at).copy_from_host_async(
            ctypes.c_void_p(pinned.ptr), raw.nbytes, stream
        )
        event = self._record(stream)
        self._staging[stream is self._copies].append((event, pinned, raw.nbytes))
        if stream is self._copies:
            self._stream.wait_event(event)

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
        landings = [landing for each in self._landings.values() for landing in each]
        memories = [memory for each in self._free.values() for memory in each]
        for memory in memories + [landing.memory for landing in landings]:
            pointer = self._cupy.cuda.MemoryPointer(memory, 0)
            pointer.memset_async(0, memory.size, self._stream)
        self.synchronize()
        for landing in landings:
            landing.read = None
        self._erase_staging()

    def _erase_staging(self) -> None:
        """Zero and give back the host memory of uploads that are done, from the oldest on."""
        for staging in self._staging:
            while staging and staging[0][0].done:
                _, pinned, size = staging.popleft()
                _host_view(pinned, size)[:] = 0

    def _release(self) -> None:
        for each in (*self._free.values(), *self._landings.values()):
            each.clear()

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
        """An event: `wait` for it waits for the kernels that are queued so far."""
        return self._record(self._stream)

    def _record(self, stream: Any) -> Any:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def wait(self, event: Any) -> None:
        """Return when the work before `event` is done. Any thread may call it."""
        with self._translated():
            event.synchronize()

    def synchronize(self) -> None:
        """Return when everything queued is done."""
        self._copies.synchronize()
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
