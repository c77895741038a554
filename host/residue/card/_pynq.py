"""Boards under the `pynq` package: local ones, XRT cards, and remote ones (PYNQ.remote).

`pynq` is imported here alone, and only when a board is opened: it takes seconds, and looks for
devices as it does. Completion is polled: PYNQ has no interrupts on remote boards, and on local ones
only through an AXI interrupt controller that the card's overlays do not have.

A remote buffer is a host copy that travels as a whole: writes may stop early, but start at the
buffer's start; reads bring all of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from residue.card._port import Bytes
from residue.errors import BackendError, DeviceError, DeviceTimeout

__all__ = ["PynqPort", "board_cards", "board_in_sight", "open_board"]

_CARD = "residue:residue:residue_card"
_OVERLAY = "RESIDUE_OVERLAY"
_REMOTE = "PYNQ_REMOTE_DEVICES"
# Seconds after which an unanswered call to a remote board is given up.
_DEADLINE = 60.0
# Sensors looked for on a board's hwmon bus.
_HWMON_CHIPS = 3
_HWMON_CHANNELS = 2

_lock = threading.Lock()
_remotes: dict[str, Any] = {}
_overlays: dict[tuple[str | None, Path], Any] = {}


def board_in_sight() -> bool:
    """Whether a board is configured here, without touching it."""
    return bool(
        os.environ.get(_REMOTE)
        or os.environ.get("XILINX_XRT")
        or os.path.exists("/proc/device-tree/chosen/pynq_board")
    )


def open_board(address: str | None = None, overlay: str | None = None) -> PynqPort:
    """Load the card's overlay on a board.

    Args:
        address: of a board that serves PYNQ.remote; None or empty: the first device that `pynq`
            finds (``PYNQ_REMOTE_DEVICES`` names remote ones). ``#N`` at its end means card N of
            several in one overlay, which is then loaded once a process.
        overlay: the bitstream, with its `.hwh` beside it; None: the file that ``RESIDUE_OVERLAY``
            names.

    Raises:
        BackendError: `pynq` is not installed, or no overlay is named.
        DeviceError: there is no board, it does not answer, or the overlay holds no card.
    """
    bitfile = _bitfile(overlay)
    address, chosen, number = (address or "").partition("#")
    if chosen and not number.isdecimal():
        raise BackendError(f"#{number} is not the number of a card: expected #0, #1, ...")
    with _lock, _translated(address or "the board"), _one_process_at_a_time():
        pynq, device, cards = _load(address or None, bitfile, shared=bool(chosen))
        if int(number or 0) < len(cards):
            ip = cards[int(number or 0)]
            memory = _memory_of(device, ip)
            return PynqPort(pynq, device, ip["phys_addr"], ip["addr_range"], memory)
    if cards:
        raise DeviceError(f"the overlay {bitfile.name} has cards #0 to #{len(cards) - 1}")
    raise DeviceError(f"the overlay {bitfile.name} holds no {_CARD}")


def board_cards(address: str | None = None, overlay: str | None = None) -> list[str]:
    """Load the overlay as `open_board` does; the address of each card in it: ``ADDRESS#0``, ...

    Raises:
        BackendError: as `open_board`.
        DeviceError: as `open_board`.
    """
    bitfile = _bitfile(overlay)
    with _lock, _translated(address or "the board"), _one_process_at_a_time():
        _, _, cards = _load(address or None, bitfile, shared=True)
    if not cards:
        raise DeviceError(f"the overlay {bitfile.name} holds no {_CARD}")
    return [f"{address or ''}#{i}" for i in range(len(cards))]


def _bitfile(overlay: str | None) -> Path:
    bitfile = Path(overlay or os.environ.get(_OVERLAY, ""))
    if not bitfile.is_file():
        raise BackendError(
            f"no overlay for the card: {_OVERLAY} must name the board's .bit or .xclbin file, "
            f"with its .hwh beside it; it is {str(bitfile)!r}"
        )
    return bitfile


def _load(address: str | None, bitfile: Path, *, shared: bool) -> tuple[Any, Any, list[Any]]:
    """`pynq`, the board and the cards of the overlay; a `shared` one is loaded once a process."""
    pynq = _import_pynq(address)
    if address:
        device = _remotes[address] = _remotes.get(address) or _connect(address)
    else:
        device = pynq.Device.active_device
    # pynq sets port widths of whatever device is active, and clocks of the first it ever set.
    pynq.Device.active_device = device
    if "_real_instance" in vars(pynq.Clocks):
        del pynq.Clocks._real_instance
    loaded = _overlays.get((address, bitfile)) if shared else None
    if loaded is None:
        loaded = pynq.Overlay(str(bitfile), device=device)
        if shared:
            _overlays[address, bitfile] = loaded
    cards = [
        ip for _, ip in sorted(loaded.ip_dict.items()) if str(ip.get("type", "")).startswith(_CARD)
    ]
    return pynq, device, cards


def _memory_of(device: Any, ip: dict[str, Any]) -> Any:
    """Where a card's buffers must lie: the bank its masters reach, or all the device's memory."""
    tags = [r["memory"] for r in ip.get("registers", {}).values() if "memory" in r]
    return device.get_memory_by_name(tags[0]) if tags else device


class PynqPort:
    """A card behind `pynq`; see `residue.card._port.Port`."""

    has_interrupt = False

    def __init__(
        self, pynq: Any, device: Any, address: int, length: int, memory: Any = None
    ) -> None:
        self._pynq = pynq
        self._device = device
        self._memory = memory or device
        self._mmio = pynq.MMIO(address, length, device=device)
        self.partial_writes = not device.has_capability("REMOTE")
        self.name = str(getattr(device, "ip_addr", None) or device.name)

    def read32(self, offset: int) -> int:
        """Read a register."""
        with _translated(self.name):
            return int(self._mmio.read(offset))

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        with _translated(self.name):
            self._mmio.write(offset, value)

    def allocate(self, nbytes: int) -> _Buffer:
        """Allocate a buffer."""
        with _translated(self.name):
            array = self._pynq.allocate((nbytes,), dtype="u1", target=self._memory)
            if getattr(array, "buffer_id", None) == "":
                raise MemoryError(f"the board at {self.name} has no {nbytes} bytes left")
            return _Buffer(array, self.name)

    def wait_interrupt(self, timeout: float) -> bool:
        """Never called: there is no interrupt."""
        raise DeviceError("this board offers no interrupt")

    def sensors(self) -> dict[str, float]:
        """Temperatures (in degrees Celsius) and powers (in watts) that the board reports.

        Read from the rails of an XRT device, else from the files of hwmon; keys end in ``_c`` or
        ``_w``. Empty where the board reports nothing.
        """
        if (rails := getattr(self._device, "sensors", None)) is not None:
            powers = {name: rail.power for name, rail in rails.items() if rail.power is not None}
            return {f"{name}_w": float(sensor.value) for name, sensor in powers.items()}
        values = {}
        for chip in range(_HWMON_CHIPS):
            for kind, unit, scale in (("temp", "c", 1e3), ("power", "w", 1e6)):
                for channel in range(1, _HWMON_CHANNELS + 1):
                    text = self._file(f"/sys/class/hwmon/hwmon{chip}/{kind}{channel}_input")
                    if text.strip().lstrip("-").isdecimal():
                        values[f"hwmon{chip}_{kind}{channel}_{unit}"] = int(text) / scale
        return values

    def _file(self, path: str) -> str:
        """Content of a small file on the board; empty where there is none."""
        try:
            if self._device.has_capability("REMOTE"):
                return bytes(self._device.read_file(path)).decode()
            return Path(path).read_text(encoding="ascii")
        except Exception:  # whatever a board answers: it does not report this
            return ""

    def close(self) -> None:
        """Leave the board: its overlay stays loaded, and `pynq` keeps the connection."""


class _Buffer:
    """A buffer allocated by `pynq`."""

    def __init__(self, array: Any, board: str) -> None:
        self._array = array
        self._board = board
        self.physical_address = int(array.physical_address)
        self.nbytes = int(array.nbytes)

    def write(self, offset: int, data: Bytes) -> None:
        with _translated(self._board):
            part = self._array[offset : offset + data.nbytes]
            part[:] = data
            part.flush()

    def read(self, offset: int, nbytes: int) -> Bytes:
        with _translated(self._board):
            if self._array.device.has_capability("REMOTE"):
                self._array.invalidate()
            else:
                self._array[offset : offset + nbytes].invalidate()
            return np.array(self._array[offset : offset + nbytes], np.uint8)

    def free(self) -> None:
        with _translated(self._board):
            self._array.freebuffer()


def _import_pynq(address: str | None) -> Any:
    """`pynq`, told before its import that remote boards are meant."""
    before = os.environ.get(_REMOTE)
    if address and not before:
        os.environ[_REMOTE] = address
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices about what is not used here
            import pynq
    except ImportError as error:
        raise BackendError("a card needs the pynq package: install residue[board]") from error
    finally:
        if not before:
            os.environ.pop(_REMOTE, None)
    return pynq


def _connect(address: str) -> Any:
    """The board at `address`, with a deadline on every call to it."""
    import grpc
    from pynq.pl_server.remote_device import RemoteDevice

    class Deadline(
        grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
        grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
        grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    ):
        def intercept_unary_unary(self, call: Any, details: Any, request: Any) -> Any:
            return call(details._replace(timeout=_DEADLINE), request)

        intercept_unary_stream = intercept_unary_unary
        intercept_stream_unary = intercept_unary_unary

    device = RemoteDevice(len(_remotes), address)
    channel = grpc.intercept_channel(device.client.channel, Deadline())
    device._stub = {name: type(stub)(channel) for name, stub in device._stub.items()}
    return device


@contextlib.contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    """Loading an overlay writes state files into the pynq package, which others must not see."""
    path = Path(tempfile.gettempdir()) / f"residue-overlay-{os.getuid()}.lock"
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pynq's notices, unclosed files among them
            yield


@contextlib.contextmanager
def _translated(board: str) -> Iterator[None]:
    """Raise what `pynq` and gRPC raise as errors of ours."""
    try:
        yield
    except (BackendError, MemoryError):
        raise
    except Exception as error:
        code = getattr(error, "code", None)
        status = getattr(code() if callable(code) else None, "name", "")
        if status == "RESOURCE_EXHAUSTED":
            raise MemoryError(f"the board at {board} has no memory left") from error
        kind = DeviceTimeout if status == "DEADLINE_EXCEEDED" else DeviceError
        raise kind(f"{board} does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    details = getattr(error, "details", None)
    text = str((details() if callable(details) else None) or error)
    return text.splitlines()[0] if text else type(error).__name__
