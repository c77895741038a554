"""The PYNQ.remote services around a board: what an unmodified `pynq` talks to.

Files are a handful of virtual ones: enough for `pynq` to know the board, to write firmware and to
program it. FAULTS_FILE is this board's own: a JSON list of faults written there replaces those in
force, for tests of recovery over the wire.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    gpio_pb2,
    gpio_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from residue.errors import DeviceError
from residue_sim.board._board import Board
from residue_sim.board._handoff import bitstream_identity, read_bitstream
from residue_sim.board._launch import FAULTS_FILE, PORT
from residue_sim.board._platform import platform
from residue_sim.board.model import Fault, FaultKind

__all__ = ["serve"]

_CHUNK = 2 * 1024 * 1024  # bytes a message, as pynq sends them
_MANAGER = "/sys/class/fpga_manager/fpga0/"
_FIRMWARE = "/lib/firmware/"
_MAX_FILE = 256 * 1024 * 1024
_PERIPHERALS = range(0xFD00_0000, 0x1_0000_0000)  # registers of the processing system
_CRL, _CRF = 0xFF5E_0000, 0xFD1A_0000
_PLL_90_BY_2, _PLL_72_BY_2 = 90 << 8 | 1 << 16, 72 << 8 | 1 << 16  # 1500 and 1200 MHz
_RESET_VALUES = {
    _CRL + 0x20: _PLL_90_BY_2,  # IOPLL_CTRL
    _CRL + 0x30: _PLL_72_BY_2,  # RPLL_CTRL
    **{_CRL + 0xC0 + 4 * clock: 1 << 24 | 1 << 16 | 15 << 8 for clock in range(4)},  # PLx_REF_CTRL
    _CRF + 0x20: _PLL_72_BY_2,  # APLL_CTRL
    _CRF + 0x2C: _PLL_72_BY_2,  # DPLL_CTRL
    _CRF + 0x38: _PLL_90_BY_2,  # VPLL_CTRL
    _CRF + 0x60: 1 << 8,  # ACPU_CTRL
}


_CODES = {
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
    IndexError: grpc.StatusCode.OUT_OF_RANGE,
    FileNotFoundError: grpc.StatusCode.NOT_FOUND,
    PermissionError: grpc.StatusCode.PERMISSION_DENIED,
    MemoryError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeviceError: grpc.StatusCode.UNAVAILABLE,
}

_Method = Callable[[Any, Any, Any], Any]


def _service(method: _Method) -> _Method:
    """A service method whose exceptions become gRPC statuses."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return method(self, request, context)
        except tuple(_CODES) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            return context.abort(code, str(error))

    return call


def _chunks(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


class _Device(remote_device_pb2_grpc.RemoteDeviceServicer):  # type: ignore[misc]
    """Files, and programming by writing them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lock = threading.Lock()
        self.programmed = False
        self._files: dict[str, bytes] = {
            "/proc/version": b"Linux version 6.6.0-virtual (residue) aarch64\n",
            "/proc/device-tree/chosen/pynq_board": platform().name.encode() + b"\0",
            _MANAGER + "state": b"operating\n",
            _MANAGER + "flags": b"0\n",
            _MANAGER + "firmware": b"",
            FAULTS_FILE: b"[]",
        }

    @_service
    def existsfile(self, request: Any, context: Any) -> Any:
        with self._lock:
            exists = request.file_path in self._files
        return remote_device_pb2.ExistsFileResponse(exists=exists)

    @_service
    def readfile(self, request: Any, context: Any) -> Any:
        with self._lock:
            data = self._files.get(request.file_path)
        if data is None:
            raise FileNotFoundError(f"no file {request.file_path}")
        return (remote_device_pb2.ReadFileResponse(data=chunk) for chunk in _chunks(data))

    @_service
    def writefile(self, requests: Any, context: Any) -> Any:
        path, content = "", bytearray()
        for request in requests:
            path = request.file_path
            content += request.data
            if len(content) > _MAX_FILE:
                raise MemoryError(f"{path} is larger than {_MAX_FILE} bytes")
        data = bytes(content)
        with self._lock:
            if path not in self._files and not path.startswith(_FIRMWARE):
                raise PermissionError(f"cannot write file {path!r}")
            if path == _MANAGER + "firmware":
                self._program(_FIRMWARE + data.decode().strip())
            elif path == FAULTS_FILE:
                self._set_faults(data)
            self._files[path] = data
        return remote_device_pb2.WriteFileResponse()

    @_service
    def set_bitstream_attrs(self, request: Any, context: Any) -> Any:
        return remote_device_pb2.SetBitstreamAttrsResponse(status=not request.partial)

    def _program(self, path: str) -> None:
        if path not in self._files:
            raise FileNotFoundError(f"no file {path}")
        found = read_bitstream(self._files[path])
        expected = bitstream_identity(self._board.configuration)
        if found != expected:
            raise ValueError(
                f"the bitstream is for configuration {found.get('name')!r}, this board simulates "
                f"{self._board.configuration.name!r} as configs.yaml has it now"
            )
        self._board.reset()
        self.programmed = True

    def _set_faults(self, text: bytes) -> None:
        try:
            faults = [
                Fault(**{**entry, "kind": FaultKind[entry["kind"]]}) for entry in json.loads(text)
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(f"malformed fault: {error}") from error
        self._board.clear_faults()
        for fault in faults:
            self._board.add_fault(fault)


class _Mmio(mmio_pb2_grpc.MmioServicer):  # type: ignore[misc]
    """Registers of the card and of the processing system; an id spells its window."""

    def __init__(self, board: Board, device: _Device) -> None:
        self._board = board
        self._device = device
        facts = platform()
        self._card = range(facts.card_base, facts.card_base + facts.card_bytes)
        self._peripherals = dict(_RESET_VALUES)

    @_service
    def get_mmio(self, request: Any, context: Any) -> Any:
        window = range(request.base_addr, request.base_addr + request.length)
        known = self._card if window.start in self._card else _PERIPHERALS
        if not window or window.start % 4 or window.start not in known or window[-1] not in known:
            raise IndexError(f"no registers at 0x{window.start:x} to 0x{window.stop:x}")
        return mmio_pb2.GetMmioResponse(status=True, mmio_id=f"{window.start:x}-{window.stop:x}")

    @_service
    def read(self, request: Any, context: Any) -> Any:
        if request.length not in (1, 2, 4):
            raise ValueError(f"read of {request.length} bytes: expected 1, 2 or 4")
        address = self._address(request, 4)
        if address in self._card:
            value = self._board.read32(self._offset(address))
        else:
            value = self._peripherals.get(address, 0)
        return mmio_pb2.ReadResponse(status=True, data=value & ((1 << 8 * request.length) - 1))

    @_service
    def write(self, request: Any, context: Any) -> Any:
        if not request.data or len(request.data) % 4:
            raise ValueError(f"write of {len(request.data)} bytes: expected a multiple of 4")
        first = self._address(request, len(request.data))
        for index, value in enumerate(np.frombuffer(request.data, "<u4").tolist()):
            address = first + 4 * index
            if address in self._card:
                self._board.write32(self._offset(address), value)
            else:
                self._peripherals[address] = value
        return mmio_pb2.WriteResponse(status=True)

    def _offset(self, address: int) -> int:
        if not self._device.programmed:
            raise DeviceError("the device is not programmed: download the overlay first")
        return address - self._card.start

    @staticmethod
    def _address(request: Any, nbytes: int) -> int:
        match = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+)", request.mmio_id)
        if match is None:
            raise ValueError(f"unknown mmio_id {request.mmio_id!r}")
        start, stop = int(match[1], 16), int(match[2], 16)
        address = start + int(request.offset)
        if request.offset % 4 or address + nbytes > stop:
            raise IndexError(
                f"offset {request.offset}: expected a multiple of 4 and {nbytes} bytes within a "
                f"window of {stop - start} bytes"
            )
        return address


class _Buffers(buffer_pb2_grpc.RemoteBufferServicer):  # type: ignore[misc]
    """Pieces of the board's memory. Coherent, so flush and invalidate have nothing to do."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._sizes: dict[str, tuple[int, int]] = {}  # id -> address, bytes
        self._names = itertools.count(1)

    @_service
    def allocate(self, request: Any, context: Any) -> Any:
        address = self._board.allocate(request.size)
        name = str(next(self._names))
        self._sizes[name] = address, request.size
        return buffer_pb2.AllocateResponse(buffer_id=name)

    @_service
    def write(self, requests: Any, context: Any) -> Any:
        done = 0
        for request in requests:
            address, size = self._find(request)
            if done + len(request.data) > size:
                raise IndexError(f"write of more than the buffer's {size} bytes")
            target = self._board.memory(address + done, len(request.data))
            target[:] = np.frombuffer(request.data, np.uint8)
            done += len(request.data)
        return buffer_pb2.BufferWriteResponse()

    @_service
    def read(self, request: Any, context: Any) -> Any:
        address, size = self._find(request)
        data = self._board.memory(address, size).tobytes()
        return (buffer_pb2.BufferReadResponse(data=chunk) for chunk in _chunks(data))

    @_service
    def freebuffer(self, request: Any, context: Any) -> Any:
        address, _ = self._find(request)
        del self._sizes[request.buffer_id]
        self._board.free(address)
        return buffer_pb2.FreeBufferResponse()

    @_service
    def flush(self, request: Any, context: Any) -> Any:
        self._find(request)
        return buffer_pb2.FlushResponse()

    @_service
    def invalidate(self, request: Any, context: Any) -> Any:
        self._find(request)
        return buffer_pb2.InvalidateResponse()

    @_service
    def physical_address(self, request: Any, context: Any) -> Any:
        return buffer_pb2.AddressResponse(address=self._find(request)[0])

    virtual_address = physical_address

    @_service
    def cacheable(self, request: Any, context: Any) -> Any:
        self._find(request)
        return buffer_pb2.CacheableResponse(cacheable=True)

    def _find(self, request: Any) -> tuple[int, int]:
        if request.buffer_id not in self._sizes:
            raise ValueError(f"unknown buffer {request.buffer_id!r}")
        return self._sizes[request.buffer_id]


class _Gpio(gpio_pb2_grpc.GpioServicer):  # type: ignore[misc]
    """The design has no GPIO; what pynq asks to find that out. The rest is not implemented."""

    @_service
    def get_gpio_base_path(self, request: Any, context: Any) -> Any:
        return gpio_pb2.GetGpioBasePathResponse(base_path="")

    @_service
    def get_gpio_npins(self, request: Any, context: Any) -> Any:
        return gpio_pb2.GetGpioNPinsResponse(npins=0)


def serve(board: Board, host: str = "127.0.0.1", port: int = PORT) -> grpc.Server:
    """Start answering for `board`; the server, started.

    There is no authentication, as on a PYNQ board: keep to loopback or a trusted network.

    Raises:
        OSError: the address is in use or not of this machine.
    """
    with socket.socket() as probe:  # gRPC does not say why it cannot bind
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    server = grpc.server(
        ThreadPoolExecutor(max_workers=8),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 2 * _CHUNK)],
    )
    device = _Device(board)
    remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(device, server)
    mmio_pb2_grpc.add_MmioServicer_to_server(_Mmio(board, device), server)
    buffer_pb2_grpc.add_RemoteBufferServicer_to_server(_Buffers(board), server)
    gpio_pb2_grpc.add_GpioServicer_to_server(_Gpio(), server)
    try:
        server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {host}:{port}") from error
    server.start()
    return server
