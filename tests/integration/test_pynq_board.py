"""The unmodified `pynq` package drives the virtual board: overlay, registers, buffers, encryptions.

No code of ours stands between `pynq` and the card here; the driver has its own tests.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from phe import paillier

from residue.card._abi import (
    CARD_ID,
    COMPLETION_DTYPE,
    COMPLETION_OFFSET,
    CTRL_AP_DONE,
    CTRL_AP_IDLE,
    CTRL_AP_START,
    DESCRIPTOR_BYTES,
    Opcode,
    Register,
    Status,
)
from residue_sim.board import FAULTS_FILE, Board, board_files, launch, platform
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import configurations
from residue_sim.scenarios import encode

CONFIG = "small"
# pynq leaves its state files open, and calls deprecated pydantic methods, which warn when they are
# used and (the files) when they are collected: neither is ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with launch(1, config=CONFIG) as boards:
        yield boards[0]


@pytest.fixture(scope="module")
def pynq(address: str) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setenv("PYNQ_REMOTE_DEVICES", address)
        import pynq

        yield pynq


@pytest.fixture(scope="module")
def overlay(pynq: Any, address: str) -> Iterator[Any]:
    from pynq.pl_server.remote_device import RemoteDevice

    device = RemoteDevice(0, address)
    previous = pynq.Device.active_device if pynq.Device.devices else None
    pynq.Device.active_device = device
    if "_real_instance" in vars(pynq.Clocks):  # of a board that an earlier test has ended
        del pynq.Clocks._real_instance
    with quiet():
        yield pynq.Overlay(str(board_files(CONFIG)), device=device)
    pynq.Device.active_device = previous
    device.client.channel.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """pynq warns at import that this is no ARM, and while it parses an overlay (see pytestmark)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (ResourceWarning))
        warnings.simplefilter("ignore", (DeprecationWarning))
        warnings.simplefilter("ignore", (UserWarning))
        yield


@contextlib.contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() == code
    assert text in caught.value.details()


def test_overlay_and_registers(pynq: Any, overlay: Any) -> None:
    entry = configurations()[CONFIG]
    card = overlay.residue_card_0
    described = overlay.ip_dict["residue_card_0"]
    assert described["type"] == "residue:residue:residue_card:1.0"
    assert described["phys_addr"] == platform().card_base
    assert overlay.device.name == platform().name
    assert card.read(Register.ID) == CARD_ID
    assert entry.elements == card.register_map.CAP0.ELEMENTS
    assert entry.max_modulus_bits == card.register_map.CAP1.MAX_MODULUS_BITS
    assert card.register_map.CTRL.AP_IDLE == 1
    card.write(Register.QUEUE_SIZE, 64)
    assert card.register_map.QUEUE_SIZE.VALUE == 64
    assert pynq.Clocks.fclk0_mhz == pytest.approx(platform().clock_mhz)


def test_buffers(pynq: Any, overlay: Any) -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(0, 256, 5_000_000, np.uint8)  # three messages each way
    with pynq.allocate(values.shape, "u1", target=overlay.device) as buffer:
        where = buffer.physical_address
        assert where % 4096 == 0
        assert where >= platform().memory_base
        buffer[:] = values
        buffer.flush()
        buffer[:] = 0
        buffer.invalidate()
        assert np.array_equal(buffer, values)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "unknown buffer"):
        buffer.flush()
    with pynq.allocate((10,), "u4", target=overlay.device) as buffer:
        assert buffer.physical_address == where


def test_bad_requests(pynq: Any, overlay: Any) -> None:
    device = overlay.device
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "bytes left in the board's memory"):
        pynq.allocate((2**31 - 1,), "u1", target=device)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "expected at least 1"):
        pynq.allocate((0,), "u1", target=device)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "no registers at 0x20000000"):
        pynq.MMIO(0x2000_0000, 16, device=device)
    mmio = pynq.MMIO(platform().card_base, platform().card_bytes, device=device)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "within a window of 4096 bytes"):
        mmio.read(4096)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "expected 1, 2 or 4"):
        mmio.read(0, 8)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "/etc/passwd"):
        device.write_file("/etc/passwd", b"x")
    with refused(grpc.StatusCode.NOT_FOUND, "no file /etc/passwd"):
        device.read_file("/etc/passwd")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "malformed fault"):
        device.write_file(FAULTS_FILE, json.dumps([{"kind": "READ_ERROR"}]).encode())
    device.write_file("/lib/firmware/other.bin", board_files("r21").read_bytes())
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "not a bitstream for the virtual board"):
        device.write_file("/sys/class/fpga_manager/fpga0/firmware", b"other.bin")


def test_a_bitstream_of_another_configuration_is_refused(pynq: Any, overlay: Any) -> None:
    with quiet(), refused(grpc.StatusCode.INVALID_ARGUMENT, "this board simulates 'small'"):
        pynq.Overlay(str(board_files("r21")), device=overlay.device)


class Queue:
    """A command queue in pynq buffers: what a minimal driver does."""

    ENTRIES = 8

    def __init__(self, pynq: Any, overlay: Any, modulus: int) -> None:
        entry = configurations()[CONFIG]
        self._pynq, self._overlay, self._card = pynq, overlay, overlay.residue_card_0
        self.montgomery = Montgomery.of(modulus, entry.word_bits, entry.elements)
        self._block = self.words([self.montgomery.block()])
        self._queue = pynq.allocate((self.ENTRIES * DESCRIPTOR_BYTES,), "u1", target=overlay.device)
        self._queue[:] = 0
        self._tail = 0
        facts = platform()
        self._card.write(Register.SOFT_RESET, 1)
        for register, value in (
            (Register.MEM_BASE_LO, facts.memory_base),
            (Register.MEM_LIMIT_LO, facts.memory_base + facts.memory_bytes),
            (Register.QUEUE_BASE_LO, self._queue.physical_address),
        ):
            self._card.write(register, value & 0xFFFF_FFFF)
            self._card.write(register + 4, value >> 32)
        self._card.write(Register.QUEUE_SIZE, self.ENTRIES)

    def words(self, rows: list[list[int]]) -> Any:
        """A buffer of 64-bit words on the board."""
        values = np.array(rows, np.uint64)
        buffer = self._pynq.allocate(values.shape, "u8", target=self._overlay.device)
        buffer[:] = values
        buffer.flush()
        return buffer

    def residues(self, values: list[int]) -> Any:
        m = self.montgomery
        return self.words([to_words(value, m.word_bits, m.k) for value in values])

    def integers(self, buffer: Any) -> list[int]:
        buffer.invalidate()
        return [from_words(row, self.montgomery.word_bits) for row in buffer.tolist()]

    def add(self, opcode: Opcode, dst: Any, src_a: Any, **fields: Any) -> None:
        command = {"opcode": opcode, "tag": self._tail, "count": len(src_a)}
        command["modulus"] = self._block.physical_address
        buffers = {"dst": dst, "src_a": src_a}
        buffers |= {name: fields.pop(name) for name in ("src_b", "exponents") if name in fields}
        for name, buffer in buffers.items():
            command[name] = buffer.physical_address
            stride = {"exponents": "stride_e"}.get(name, "stride_" + name.split("_")[-1])
            command[stride] = buffer.strides[0] // 16
        sent = encode(command | fields)
        start = self._tail * DESCRIPTOR_BYTES
        self._queue[start : start + len(sent)] = np.frombuffer(sent, np.uint8)
        self._tail += 1

    def run(self) -> list[Status]:
        """Work the queue off; the commands' statuses."""
        self._queue.flush()
        self._card.write(Register.TAIL, self._tail)
        self._card.write(Register.CTRL, CTRL_AP_START.put(1))
        deadline = time.monotonic() + 60
        while True:
            control = self._card.read(Register.CTRL)
            if CTRL_AP_DONE.get(control):
                break
            assert time.monotonic() < deadline, "the card is not done"
        assert CTRL_AP_IDLE.get(self._card.read(Register.CTRL))
        self._queue.invalidate()
        entries = np.asarray(self._queue).reshape(self.ENTRIES, DESCRIPTOR_BYTES)
        raw = entries[: self._tail, COMPLETION_OFFSET : COMPLETION_OFFSET + 64]
        records = np.ascontiguousarray(raw).view(COMPLETION_DTYPE)[:, 0]
        assert records["tag"].tolist() == list(range(self._tail))
        return [Status(status) for status in records["status"].tolist()]


def test_a_batch_of_encryptions_decrypts_in_phe(pynq: Any, overlay: Any) -> None:
    """``c = (1 + m n) r^n mod n^2``, every product on the card."""
    seed = 3
    print("seed", seed)
    rng = random.Random(seed)
    public, private = paillier.generate_paillier_keypair(n_length=512)
    n, n_squared = public.n, public.nsquare
    plaintexts = [0, 1, n - 1, 12345, rng.randrange(n), rng.randrange(n)]
    queue = Queue(pynq, overlay, n_squared)
    noise = queue.residues([rng.randrange(1, n) for _ in plaintexts])
    base = queue.residues([(1 + m * n) % n_squared for m in plaintexts])
    exponent = queue.words([[n >> 64 * i & 2**64 - 1 for i in range(8)]] * len(plaintexts))
    result = queue.residues([0] * len(plaintexts))
    queue.add(Opcode.TO_MONT, noise, noise)
    queue.add(Opcode.POW, noise, noise, exponents=exponent, length=512, window=4)
    queue.add(Opcode.TO_MONT, base, base)
    queue.add(Opcode.MUL, result, base, src_b=noise)
    queue.add(Opcode.FROM_MONT, result, result)
    assert queue.run() == [Status.OK] * 5
    ciphertexts = queue.integers(result)
    assert len(set(ciphertexts)) == len(plaintexts)
    assert [private.raw_decrypt(c) for c in ciphertexts] == plaintexts


def test_faults_over_the_wire(pynq: Any, overlay: Any) -> None:
    queue = Queue(pynq, overlay, 2**511 - 187)
    values = queue.residues([1, 2, 3])
    target = values.physical_address
    fault = {"kind": "READ_ERROR", "low": target, "high": target + 16}
    overlay.device.write_file(FAULTS_FILE, json.dumps([fault]).encode())
    queue.add(Opcode.TO_MONT, values, values)
    try:
        assert queue.run() == [Status.READ_ERROR]
    finally:
        overlay.device.write_file(FAULTS_FILE, b"[]")
    queue.add(Opcode.TO_MONT, values, values)
    queue.add(Opcode.FROM_MONT, values, values)
    assert queue.run()[1:] == [Status.OK] * 2
    assert queue.integers(values) == [1, 2, 3]


def test_an_unprogrammed_board_has_no_card(pynq: Any) -> None:
    from pynq.pl_server.remote_device import RemoteDevice

    from residue_sim.board.server import serve

    host = "127.9.9.9"
    with Board(CONFIG) as board:
        server = serve(board, host)
        device = RemoteDevice(1, host)
        mmio = pynq.MMIO(platform().card_base, 16, device=device)
        with refused(grpc.StatusCode.UNAVAILABLE, "download the overlay first"):
            mmio.read(0)
        device.client.channel.close()
        server.stop(grace=None).wait()


def test_an_address_in_use_is_one_clear_error(address: str) -> None:
    with pytest.raises(OSError, match="in use"), socket.socket() as probe:
        probe.bind((address, 7967))
    done = subprocess.run(
        [sys.executable, "-m", "residue_sim.board", "--config", CONFIG, "--host", address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 98
    assert done.stdout == ""
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
