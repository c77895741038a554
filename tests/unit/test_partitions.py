from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import residue
from residue.backends import get_backend
from residue.errors import BackendError, DeviceError
from residue_federated._jobs import Party
from residue_federated.partitions import NodesBackend, open_nodes
from residue_federated.partitions._executor import Processes
from residue_federated.partitions._owner import Owner

RNG = np.random.default_rng(3)
PUBLIC, SECRET = residue.keygen(1024, insecure_allow_1024=True, device="cpu")


class Here:
    """Owners in this process."""

    def __init__(self, count: int) -> None:
        self.nodes = [f"node {i}" for i in range(count)]
        self.owners = [Owner("cpu") for _ in range(count)]
        self.sent: list[tuple[int, str, tuple[Any, ...]]] = []

    def submit(self, node: int, method: str, *arguments: Any) -> Any:
        self.sent.append((node, method, arguments))
        answer = getattr(self.owners[node], method)(*arguments)
        return lambda: answer

    def close(self) -> None:
        self.owners.clear()


@pytest.fixture
def here() -> Here:
    return Here(3)


@pytest.fixture
def key(here: Here) -> residue.PublicKey:
    """The public key alone, on three nodes."""
    return residue.PublicKey.from_bytes(PUBLIC.to_bytes(), device=NodesBackend(here, least=4))


def test_ciphertexts_of_nodes_decrypt_to_what_those_of_one_process_do(
    here: Here, key: residue.PublicKey
) -> None:
    values, matrix = RNG.integers(-99, 99, 50), RNG.integers(-2047, 2048, (50, 6))
    c = key.encrypt(values)
    index, offsets = RNG.integers(0, 50, 40), np.array([0, 7, 7, 30, 40])
    expected = [
        values,
        values + values[::-1],
        values @ matrix,
        np.array([values[index[a:b]].sum() for a, b in pairwise(offsets)]),
        -3 * values[5:9],
    ]
    found = [c, c + c[::-1], c @ matrix, c.gather_sum(index, offsets), c[5:9] * -3]
    for array, plain in zip(found, expected, strict=True):
        there = PUBLIC.ciphertexts_from_bytes(array.to_bytes())
        assert SECRET.decrypt(there).tolist() == plain.tolist()
    encrypting = [node for node, _, (*_, kind, of, exponents, bits) in _made(here, "pow_fixed")]
    assert sorted(set(encrypting)) == [0, 1, 2]
    assert {node for node, *_ in _made(here, "multi_pow")} == {0, 1, 2}


def _made(here: Here, kind: str) -> list[tuple[int, str, tuple[Any, ...]]]:
    return [sent for sent in here.sent if sent[1] == "make" and sent[2][2] == kind]


def test_arrays_that_are_dropped_leave_the_nodes(here: Here, key: residue.PublicKey) -> None:
    for _ in range(20):
        c = key.encrypt(np.arange(30))
        del c
    assert all(len(owner._arrays) < 60 for owner in here.owners)


def test_secret_keys_do_not_reach_the_nodes(here: Here, key: residue.PublicKey) -> None:
    c = key.encrypt(np.arange(9))
    SECRET.decrypt(PUBLIC.ciphertexts_from_bytes(c.to_bytes()))
    registered = {arguments[0] for _, method, arguments in here.sent if method == "register"}
    assert registered
    assert registered <= {PUBLIC.n, PUBLIC.n**2}


def test_errors_reach_whoever_asks_for_what_failed(here: Here) -> None:
    backend = NodesBackend(here, least=1)
    modulus = backend.register(3 * (1 << 80) + 1)
    one = backend.upload(modulus, np.zeros((3, modulus.limbs), np.uint64))
    broken = backend.inverse(one)
    worse = backend.mul(broken, broken)
    for array in (broken, worse):
        with pytest.raises(BackendError, match="inverse"):
            backend.download(array)
        with pytest.raises(BackendError, match="inverse"):
            array.wait()
    assert backend.download(one).tolist() == [[0] * modulus.limbs] * 3
    other = get_backend("cpu").upload(modulus, np.zeros((3, modulus.limbs), np.uint64))
    with pytest.raises(BackendError, match="another backend"):
        backend.mul(one, other)


def test_what_nodes_are_and_did(here: Here) -> None:
    backend = NodesBackend(here, least=1)
    facts = backend.describe()
    assert (facts["name"], facts["nodes"], facts["healthy"]) == ("nodes", 3, True)
    assert facts["node 1"] == get_backend("cpu").describe()["device"]
    modulus = backend.register((1 << 128) - 159)
    a = backend.upload(modulus, np.ones((9, modulus.limbs), np.uint64))
    backend.reset_stats()
    backend.download(backend.mul(a, a))
    assert [(node["calls"] > 0, node["node"]) for node in backend.work()] == [
        (True, f"node {i}") for i in range(3)
    ]
    # All three count together here: a process has one CPU.
    assert backend.stats()["mul"].elements == 3 * 9
    backend.synchronize()
    backend.self_test()
    backend.clear_secrets()
    with pytest.raises(BackendError, match=r"too large|odd|even"):
        backend.register(1 << 200)


@pytest.fixture
def processes() -> Iterator[Processes]:
    executor = Processes(2, "cpu")
    yield executor
    executor.close()


def test_processes_and_one_that_is_lost(processes: Processes) -> None:
    backend = NodesBackend(processes, least=1)
    modulus = backend.register((1 << 128) - 159)
    a = backend.upload(modulus, np.full((4, modulus.limbs), 3, np.uint64))
    squares = backend.download(backend.mul(a, a))
    cpu = get_backend("cpu")
    b = cpu.upload(modulus, np.full((4, modulus.limbs), 3, np.uint64))
    assert squares.tobytes() == cpu.download(cpu.mul(b, b)).tobytes()
    (child,) = processes._pools[1]._processes.values()
    assert child.pid not in (None, os.getpid())
    os.kill(child.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"process 1 is lost .* resume the job"):
            backend.download(backend.mul(a, a))


def test_parties_say_where_their_partitions_are() -> None:
    assert open_nodes(Party(name="host")) is None
    assert open_nodes(Party(name="host", processes=2)) is None
