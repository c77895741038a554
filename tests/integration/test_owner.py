"""One process owns a device; others use it, break, lie, and end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gmpy2
import grpc
import numpy as np
import pytest
from gmpy2 import mpz

from residue import _cli
from residue._limbs import from_limbs, to_limbs
from residue.backends import Backend, DeviceFallbackWarning, ResidueArray, get_backend
from residue.backends._card import CardBackend
from residue.backends._cpu import CpuArray, CpuBackend
from residue.backends._protocol import Limbs
from residue.card._memory import DeviceMemoryError
from residue.errors import BackendError, DeviceError
from residue.owner import Owner, OwnerBackend, status
from residue.owner._machine import Machine
from residue.owner._wire import MESSAGE_BYTES, PROTOCOL_VERSION, SERVICE
from residue.owner.proto import v1
from residue.owner.proto._generate import PACKAGE, STUBS, generate
from residue_sim.board import board_files, launch
from residue_sim.card_model import ModelBoard
from residue_sim.manifest import configurations

N = int(gmpy2.next_prime(1 << 255)) * int(gmpy2.next_prime(3 << 254))
PATIENCE = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def owner(path: Path) -> Iterator[Owner]:
    with Owner(lambda: CpuBackend(workers=1), path, quota=1 << 20, sessions=3) as made:
        yield made


@pytest.fixture
def session(owner: Owner) -> Iterator[OwnerBackend]:
    made = OwnerBackend(owner.path)
    yield made
    made.close()


def up(backend: Backend, values: list[int]) -> ResidueArray:
    modulus = backend.register(N)
    return backend.upload(modulus, to_limbs([mpz(v) for v in values], modulus.limbs))


def down(backend: Backend, array: ResidueArray) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def serving(path: Path, device: str = "cpu") -> Iterator[subprocess.Popen[str]]:
    """`residue card serve` in a process of its own."""
    command = [sys.executable, "-m", "residue", "card", "serve", "--device", device]
    process = subprocess.Popen(
        [*command, "--socket", str(path)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(f"serving {device} on {path}")
        yield process
    except subprocess.TimeoutExpired:  # say where it stands
        process.send_signal(signal.SIGABRT)
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        process.wait()
        process.stdout.close()


def test_committed_stubs_are_what_the_schema_gives() -> None:
    expected = generate()
    assert set(expected) == set(STUBS)
    for name, text in expected.items():
        assert (PACKAGE / name).read_text() == text, f"{name} is stale: run proto/_generate.py"


# --- clients --------------------------------------------------------------------------------------

_PAILLIER = """
import sys
import numpy as np
from residue.paillier import keygen
pk, sk = keygen(1024, insecure_allow_1024=True, device=sys.argv[1])
rng = np.random.default_rng(int(sys.argv[2]))
for turn in range(3):
    x, y = rng.normal(size=(2, 20))
    sums = sk.decrypt(pk.encrypt(x) + pk.encrypt(y) * 3)
    print("correct" if np.allclose(sums, x + 3 * y) else "wrong", flush=True)
"""


_WORKER = """
import sys
import numpy as np
from gmpy2 import mpz
from residue._limbs import to_limbs
from residue.backends import get_backend
backend = get_backend(sys.argv[1])
modulus = backend.register(int(sys.argv[2]))
a = backend.upload(modulus, to_limbs([mpz(3)] * 40, modulus.limbs))
secret = to_limbs([mpz(sys.argv[3])], 8)
while True:
    b = backend.pow(a, secret, 512)
    backend.synchronize()
    print("working", flush=True)
"""


def test_two_processes_with_keys_of_their_own(path: Path) -> None:
    with serving(path) as process:
        clients = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _PAILLIER, f"owner:{path}", str(seed)],
                stdout=subprocess.PIPE, text=True,
            )
            for seed in range(2)
        ]  # fmt: skip
        assert [client.communicate()[0].split() for client in clients] == 2 * [["correct"] * 3]
        assert [client.returncode for client in clients] == [0, 0]
        until(lambda: not status(path)["sessions"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.full
def test_two_processes_on_the_co_simulated_card(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `pynq`; one is killed while it works."""
    monkeypatch.setenv("RESIDUE_OVERLAY", str(board_files("small")))
    with launch(1, config="small") as (address,), serving(path, f"card:{address}") as process:
        client = subprocess.Popen(
            [sys.executable, "-c", _WORKER, f"owner:{path}", str(N), str(1 << 511)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdout is not None
        backend = OwnerBackend(path)
        xs = [random.Random(5).randrange(N) for _ in range(20)]
        exponents = np.full((1, 1), (1 << 64) - 1, np.uint64)
        assert client.stdout.readline() == "working\n"
        for _ in range(2):  # while the other works, and without it
            got = down(backend, backend.pow(up(backend, xs), exponents, 64))
            assert got == [pow(x, (1 << 64) - 1, N) for x in xs]
            client.kill()
            client.wait()
            until(lambda: [s["pid"] for s in status(path)["sessions"]] == [os.getpid()])
        client.stdout.close()
        backend.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_handles_are_those_of_one_session(owner: Owner, session: OwnerBackend) -> None:
    """A foreign handle and one that never was are the same to the owner."""
    theirs = OwnerBackend(owner.path)
    a, b = up(session, [2, 3]), up(theirs, [5, 7])
    said = []
    for handle in (b.handle, os.urandom(16), b"", b.handle[:-1]):  # type: ignore[attr-defined]
        forged = up(session, [1])
        forged.handle = handle  # type: ignore[attr-defined]
        for misuse in (session.download, lambda x: session.mul(a, x), session.inverse):
            with pytest.raises(BackendError) as caught:
                misuse(forged)
            said.append(str(caught.value))
        del forged  # freeing it frees nothing of theirs
    assert set(said) == {"this session has no such array"}
    assert down(theirs, b) == [5, 7]
    assert down(session, session.mul(a, a)) == [4, 9]
    assert session.register(N) == theirs.register(N)
    theirs.close()


def test_statistics_are_those_of_one_session(owner: Owner, session: OwnerBackend) -> None:
    theirs = OwnerBackend(owner.path)
    a, b = up(session, [2, 3]), up(theirs, [5])
    for _ in range(3):
        theirs.mul(b, b)
        session.mul(a, a)
    assert (session.stats()["mul"].calls, session.stats()["mul"].elements) == (3, 6)
    theirs.reset_stats()
    assert theirs.stats() == {}
    assert session.stats()["mul"].calls == 3
    theirs.close()


def test_an_error_of_one_session_leaves_others_alone(owner: Owner, session: OwnerBackend) -> None:
    a = up(session, [2, 3])
    with Raw(owner.path) as raw:
        raw.send(b"\xff\xff\xff")
        assert raw.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert down(session, a) == [2, 3]
    with pytest.raises(BackendError, match="inverse"):
        session.inverse(up(session, [0]))
    assert down(session, a) == [2, 3]


def test_an_error_that_the_device_should_not_raise(
    owner: Owner, session: OwnerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError(f"secret {N}")

    a = up(session, [2])
    with monkeypatch.context() as patch:
        patch.setattr(CpuBackend, "mul", fail)
        with pytest.raises(BackendError, match=r"failed in operation 7: ZeroDivisionError$"):
            session.mul(a, a)
    assert down(session, session.mul(a, a)) == [4]


class Slow(CpuBackend):
    """Its slices stay small."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.done: list[str] = []
        self.started = threading.Event()

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> CpuArray:
        self.started.set()
        time.sleep(0.03)
        self.done.append(f"pow of {len(a)}")
        return super().pow(a, exponents, bits)

    def mul(self, a: ResidueArray, b: ResidueArray) -> CpuArray:
        self.done.append("mul")
        return super().mul(a, b)


def test_large_batches_let_small_ones_pass(path: Path) -> None:
    slow = Slow()
    with Owner(lambda: slow, path):
        large, small = OwnerBackend(path), OwnerBackend(path)
        values = [random.Random(1).randrange(N) for _ in range(3000)]
        a, b = up(large, values), up(small, [7])
        results: list[int] = []
        exponents = np.full((len(values), 1), 3, np.uint64)
        thread = threading.Thread(
            target=lambda: results.extend(down(large, large.pow(a, exponents, 2)))
        )
        thread.start()
        assert slow.started.wait(PATIENCE)
        assert down(small, small.mul(b, b)) == [49]
        thread.join()
        assert results == [pow(x, 3, N) for x in values]
        assert slow.done.index("mul") < len(slow.done) - 1, "it waited for all of the large batch"
        large.close()
        small.close()


def test_a_batch_that_nobody_waits_for_is_given_up(path: Path) -> None:
    slow = Slow()
    with Owner(lambda: slow, path):
        backend = OwnerBackend(path)
        a = up(backend, [3] * 3000)
        errors: list[BackendError] = []

        def work() -> None:
            try:
                backend.pow(a, np.ones((1, 1), np.uint64), 1)
            except BackendError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert slow.started.wait(PATIENCE)
        backend.close()
        thread.join()
        assert "has ended the session" in str(errors[0])
        until(lambda: not status(path)["sessions"])
        assert 0 < len(slow.done) < 3000 // 64


@pytest.mark.parametrize("operation", ["pow_var", "pow_fixed", "prod", "pow_moduli"])
def test_slices_are_put_together(session: OwnerBackend, operation: str) -> None:
    rng = random.Random(2)
    xs, es = [rng.randrange(N) for _ in range(300)], [rng.randrange(256) for _ in range(300)]
    exponents = to_limbs([mpz(e) for e in es], 1)
    a = up(session, xs)
    if operation == "pow_var":
        got = down(session, session.pow_var(a, exponents, 8))
        assert got == [pow(x, e, N) for x, e in zip(xs, es, strict=True)]
    elif operation == "pow_fixed":
        base = session.take(a, np.array([5]))
        assert down(session, session.pow_fixed(base, exponents, 8)) == [
            pow(xs[5], e, N) for e in es
        ]
    elif operation == "prod":
        got = down(session, session.prod(a, np.array(es), np.arange(0, 301, 2)))
        assert got == [xs[i] * xs[j] % N for i, j in zip(es[::2], es[1::2], strict=True)]
    else:
        moduli = [session.register(N), session.register(N - 2)] * 150
        bases = to_limbs([mpz(x % (N - 2)) for x in xs], moduli[0].limbs)
        got = [int(v) for v in from_limbs(session.pow_moduli(moduli, bases, exponents, 8))]
        assert got == [pow(x % (N - 2), e, m.value) for x, e, m in zip(xs, es, moduli, strict=True)]


def test_transfers_of_several_messages(path: Path) -> None:
    with Owner(lambda: CpuBackend(workers=1), path):
        backend = OwnerBackend(path)
        values = [random.Random(3).randrange(N) for _ in range(4 * MESSAGE_BYTES // 64 + 1)]
        assert down(backend, up(backend, values)) == values
        backend.close()


# --- quota ----------------------------------------------------------------------------------------


def test_quota(owner: Owner, session: OwnerBackend) -> None:
    theirs = OwnerBackend(owner.path)
    most = (1 << 20) // 64
    a = up(session, [2] * most)
    assert session.describe()["session_free_bytes"] == 0
    operations: list[Callable[[ResidueArray], ResidueArray]] = [
        lambda a: up(session, [2]),
        lambda a: session.mul(a, a),
        lambda a: session.take(a, np.array([0])),
        lambda a: session.pow(a, np.ones((1, 1), np.uint64), 1),
        lambda a: session.multi_pow(a, np.zeros((most, 1), np.int64), 1),
    ]
    for operation in operations:
        with pytest.raises(DeviceMemoryError, match="quota"):
            operation(a)
    with pytest.raises(DeviceMemoryError, match="quota"):
        up(theirs, [2] * (most + 1))
    b = up(theirs, [3] * most)
    assert down(theirs, b) == [3] * most
    del a
    until(lambda: session.describe()["session_free_bytes"] == 1 << 20)
    assert down(session, up(session, [2])) == [2]
    theirs.close()


def test_auto_leaves_to_the_cpu_what_exceeds_the_quota(owner: Owner) -> None:
    auto = get_backend(f"auto:owner:{owner.path}")
    assert auto.describe()["active"] == "owner"
    values = list(range((1 << 20) // 64 + 1))
    a = up(auto, values)
    assert down(auto, auto.mul(a, a)) == [x * x % N for x in values]
    assert auto.describe()["active"] == "owner"
    auto.close()


def test_sessions_are_bounded(owner: Owner) -> None:
    sessions = [OwnerBackend(owner.path) for _ in range(3)]
    with pytest.raises(DeviceError, match="serves 3 sessions already"):
        OwnerBackend(owner.path)
    sessions.pop().close()
    until(lambda: len(status(owner.path)["sessions"]) == 2)
    again = OwnerBackend(owner.path)
    assert down(again, up(again, [2])) == [2]
    for each in (again, *sessions):
        each.close()


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_is_killed_leaves_nothing(path: Path, end: signal.Signals) -> None:
    """Neither arrays nor secrets in the card's memory; the other session has lost nothing."""
    board = ModelBoard(configurations()["r21"])
    card = CardBackend(board, check_rate=0.0)
    secret = random.Random(4).getrandbits(512) | 1 << 511

    queue = card._card.queue._buffer  # descriptors hold no data

    def memory() -> bytes:
        content = bytearray(board.dram.read(board.dram.base, board.dram.nbytes))
        start = queue.physical_address - board.dram.base
        content[start : start + queue.nbytes] = bytes(queue.nbytes)
        return bytes(content)

    with Owner(lambda: card, path) as owner:
        other = OwnerBackend(owner.path)
        bystander = up(other, [5, 6])
        client = subprocess.Popen(
            [sys.executable, "-c", _WORKER, f"owner:{path}", str(N), str(secret)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdout is not None
        assert client.stdout.readline() == "working\n"
        sessions = status(path)["sessions"]
        assert {s["pid"] for s in sessions} == {os.getpid(), client.pid}
        assert secret.to_bytes(64, "little") in memory()
        client.send_signal(end)
        assert client.wait() == -end
        client.stdout.close()
        until(lambda: len(status(path)["sessions"]) == 1)
        assert secret.to_bytes(64, "little") not in memory()
        assert down(other, other.mul(bystander, bystander)) == [25, 36]
        del bystander
        other.close()
        until(lambda: not status(path)["sessions"])
        facts = card.describe()
        assert facts["memory_free_bytes"] == facts["memory_bytes"] != 0
        assert not any(memory())


def test_an_owner_that_is_killed(path: Path) -> None:
    with serving(path) as process:
        backend = get_backend(f"owner:{path}")
        auto = get_backend(f"auto:owner:{path}")
        assert auto.describe()["active"] == "owner"
        a, b = up(backend, [2, 3]), up(auto, [2, 3])
        c = auto.mul(b, b)
        process.kill()
        process.wait()
        for _ in range(2):
            with pytest.raises(DeviceError, match=f"the owner process at {path} has died"):
                backend.mul(a, a)
        with pytest.raises(DeviceError, match="has died"):
            a.wait()
        assert backend.describe()["healthy"] is False
        with pytest.warns(DeviceFallbackWarning, match="has died"):
            assert down(auto, auto.mul(c, b)) == [8, 27]
        assert auto.describe()["active"] == "cpu"
        with pytest.raises(DeviceError, match="has died, or does not listen"):
            get_backend(f"owner:{path}")
    # The socket that it left behind is replaced, and found again by name.
    with serving(path):
        again = get_backend(f"owner:{path}")
        assert down(again, up(again, [4])) == [4]
        again.close()
    auto.close()


def test_an_owner_that_is_told_to_end(path: Path) -> None:
    with serving(path) as process:
        backend = OwnerBackend(path)
        a = up(backend, [2, 3])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert not path.exists()
        with pytest.raises(DeviceError, match="has ended the session"):
            backend.download(a)
        backend.close()
        with pytest.raises(DeviceError, match="no owner process"):
            OwnerBackend(path)


def test_a_device_that_failed_is_opened_again(path: Path) -> None:
    devices = [CpuBackend(workers=1) for _ in range(2)]
    made = iter(devices)
    with Owner(lambda: next(made), path) as owner:
        before = OwnerBackend(owner.path)
        a = up(before, [2])
        devices[0].close()
        assert before.describe()["healthy"] is False
        with pytest.raises(BackendError, match="closed"):
            before.mul(a, a)
        after = OwnerBackend(owner.path)
        assert down(after, up(after, [3])) == [3]
        with pytest.raises(DeviceError, match="arrays of before are lost"):
            before.mul(a, a)
        devices[1].close()
        with pytest.raises(DeviceError):  # there is no third one
            OwnerBackend(owner.path)
        before.close()
        after.close()


def test_a_client_in_a_forked_process(session: OwnerBackend) -> None:
    a = up(session, [2])
    session._pid -= 1  # as it is after a fork
    with pytest.raises(BackendError, match="before a fork"):
        session.download(a)
    assert session.describe()["healthy"] is False, "so that get_backend opens another one"


def test_an_interrupted_operation_ends_the_session(
    session: OwnerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer must not be taken for that of the next one."""

    def interrupt(_: OwnerBackend) -> v1.Reply:
        raise KeyboardInterrupt

    a, b = up(session, [2]), up(session, [3])
    with monkeypatch.context() as patch:
        patch.setattr(OwnerBackend, "_next", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.download(a)
    with pytest.raises(BackendError, match="closed"):
        session.download(b)
    assert session.describe()["healthy"] is False


# --- sockets --------------------------------------------------------------------------------------


def test_the_socket_is_private(owner: Owner, tmp_path: Path) -> None:
    assert owner.path.stat().st_mode & 0o777 == 0o600
    for mode in (0o770, 0o707):
        tmp_path.chmod(mode)
        for use in (OwnerBackend, status, lambda p: Owner(CpuBackend, p)):
            with pytest.raises(BackendError, match="writable by nobody else"):
                use(owner.path)
    tmp_path.chmod(0o700)


def test_a_live_owner_is_not_replaced(owner: Owner, session: OwnerBackend) -> None:
    opened = []
    with pytest.raises(BackendError, match=r"serves .* already"):
        Owner(lambda: opened.append(1), owner.path)  # type: ignore[arg-type,return-value]
    assert not opened, "opening a card that another process drives would reset it"
    assert down(session, up(session, [2])) == [2]


def test_bad_paths(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BackendError, match="no socket"):
        Owner(CpuBackend, file)
    assert file.read_text() == "mine"
    with pytest.raises(DeviceError, match="no socket of yours"):
        OwnerBackend(file)
    with pytest.raises(BackendError, match="too long"):
        OwnerBackend(tmp_path / ("x" * 120))
    with pytest.raises(BackendError, match="no directory"):
        OwnerBackend(tmp_path / "none" / "socket")


def test_a_device_that_does_not_open(path: Path) -> None:
    def none() -> Backend:
        raise DeviceError("no card")

    with pytest.raises(DeviceError, match="no card"):
        Owner(none, path)
    assert not path.exists()


def test_something_else_that_listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(DeviceError, match=r"has not answered for 0\.3 s"):
            OwnerBackend(path, timeout=0.3)
        with pytest.raises(DeviceError, match="does not answer"):
            status(path, timeout=0.3)


# --- messages -------------------------------------------------------------------------------------


class Raw:
    """A client that says what it likes."""

    def __init__(self, path: Path, protocol: int = PROTOCOL_VERSION) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}")
        self._outbox: list[bytes] = []
        self._more = threading.Condition()
        self._replies = self._channel.stream_stream(
            f"/{SERVICE}/Session", response_deserializer=v1.Reply.FromString
        )(self._feed())
        self.send(v1.Request(hello=v1.Hello(protocol=protocol)).SerializeToString())

    def __enter__(self) -> Raw:
        assert next(self._replies).HasField("welcome")
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def _feed(self) -> Iterator[bytes]:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._outbox)
                item = self._outbox.pop(0)
            yield item

    def send(self, *messages: bytes) -> None:
        with self._more:
            self._outbox += messages
            self._more.notify()

    def ask(self, **operation: Any) -> str:
        """The message of the failure."""
        self.send(v1.Request(operation=v1.Operation(**operation)).SerializeToString())
        reply = next(self._replies)
        assert reply.HasField("failure")
        return str(reply.failure.message)

    def code(self) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError):
            next(self._replies)
        return self._replies.code()

    def details(self) -> str:
        return str(self._replies.details())


def _request(**operation: Any) -> bytes:
    message: bytes = v1.Request(operation=v1.Operation(**operation)).SerializeToString()
    return message


def _data(size: int) -> bytes:
    message: bytes = v1.Request(data=bytes(size)).SerializeToString()
    return message


_ROW = v1.Tensor(shape=[1, 8])


@pytest.mark.parametrize(
    ("messages", "details"),
    [
        ([b"\xff\xff\xff"], "malformed message"),
        ([_request(kind=v1.UPLOAD, tensors=[_ROW]), _data(65)], "malformed message"),
        ([_request(kind=v1.UPLOAD, tensors=[_ROW]), _data(0)], "malformed message"),
        ([_request(kind=v1.UPLOAD, tensors=[_ROW]), _request(kind=v1.WAIT)], "malformed message"),
        ([_request(tensors=[v1.Tensor()])], "no array has such a shape"),
        ([_request(tensors=[v1.Tensor(shape=[1, 1, 1])])], "no array has such a shape"),
        ([_request(tensors=[v1.Tensor(shape=[0, 1 << 63])])], "no array has such a shape"),
        ([_request(tensors=[v1.Tensor(shape=[1 << 19, 1])])], "1,048,576 is the bound"),
        ([_request(tensors=[v1.Tensor(shape=[1 << 16])] * 3)], "1,048,576 is the bound"),
    ],
)  # fmt: skip
def test_malformed_messages(owner: Owner, messages: list[bytes], details: str) -> None:
    """End the session that sent them, and no other."""
    with Raw(owner.path) as raw:
        raw.send(*messages)
        assert raw.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details in raw.details()
    until(lambda: not status(owner.path)["sessions"])


def test_an_oversized_message(owner: Owner) -> None:
    with Raw(owner.path) as raw:
        raw.send(_data(MESSAGE_BYTES))
        assert raw.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    until(lambda: not status(owner.path)["sessions"])


def test_operations_that_make_no_sense(owner: Owner) -> None:
    """One clear error each; the session goes on."""
    with Raw(owner.path) as raw:
        assert "knows no operation 99" in raw.ask(kind=99)
        assert "knows no operation 0" in raw.ask()
        assert "takes 2 arrays and 0 tensors, not 1 and 0" in raw.ask(kind=v1.MUL, arrays=[b"a"])
        assert "no such array" in raw.ask(kind=v1.WAIT, arrays=[b"a"])
        assert "odd" in raw.ask(kind=v1.REGISTER, modulus=b"\x04")
        assert "odd" in raw.ask(kind=v1.REGISTER)
        assert "at most 65536 bits" in raw.ask(kind=v1.REGISTER, modulus=bytes(10_000))
        assert "exponent bits" in raw.ask(kind=v1.SYNCHRONIZE, bits=1 << 31)
        assert "nothing to concatenate" in raw.ask(kind=v1.CONCAT)
        raw.send(_request(kind=v1.UPLOAD, modulus=b"\x05" * 20, tensors=[_ROW]))
        raw.send(_data(64))
        assert "not registered" in next(raw._replies).failure.message


def test_another_version(owner: Owner) -> None:
    raw = Raw(owner.path, protocol=2)
    assert raw.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raw.details() == "protocol version 2, expected 1: update client or owner"
    raw.__exit__()


def test_moduli_are_bounded(session: OwnerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residue.owner._session._MAX_MODULI", 2)
    session.register(N)
    session.register(N)
    session.register(N - 2)
    with pytest.raises(BackendError, match="at most 2 moduli"):
        session.register(N - 4)


def test_many_arrays_are_joined(session: OwnerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residue.owner._client._CONCAT", 3)
    parts = [up(session, [i]) for i in range(11)]
    assert down(session, session.concat(parts)) == list(range(11))


# --- turns ----------------------------------------------------------------------------------------


def test_turns_go_to_whoever_waits_longest() -> None:
    class Idle:
        stats: dict[str, Any]

        def __init__(self, backend: Backend) -> None:
            self.backend, self.stats = backend, {}

        def check_alive(self) -> None:
            """Always."""

    backend = CpuBackend(workers=1)
    machine = Machine(lambda: backend)
    order: list[int] = []

    def work(i: int) -> None:
        with machine.turn(Idle(backend)):
            order.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    with machine.turn(Idle(backend)):
        for i, thread in enumerate(threads):
            thread.start()
            until(lambda i=i: machine._tickets == i + 2)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(8))


# --- command line ---------------------------------------------------------------------------------


def _run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        _cli.main([str(a) for a in argv])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_status(owner: Owner, session: OwnerBackend, capsys: pytest.CaptureFixture[str]) -> None:
    a = up(session, [2, 3])
    code, out, _ = _run(capsys, "card", "status", "--socket", owner.path, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["device"]["name"] == "cpu"
    (mine,) = facts["sessions"]
    assert mine.pop("seconds") >= 0
    assert mine == {"pid": os.getpid(), "operations": 2, "arrays": 1, "bytes": 128}
    code, out, _ = _run(capsys, "card", "status", "--socket", owner.path)
    assert code == 0
    assert f"{os.getpid()} " in out
    assert a.handle.hex() not in out  # type: ignore[attr-defined]


def test_command_line_errors(
    owner: Owner, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = _run(capsys, "card", "--help")
    assert code == 0
    assert "serve" in out
    assert "status" in out
    for argv, expected, message in [
        (("status", "--socket", tmp_path / "none"), 3, "no owner process"),
        (("serve", "--socket", owner.path, "--device", "cpu"), 3, "already"),
        (("serve", "--socket", owner.path, "--device", f"auto:owner:{owner.path}"), 3, "its own"),
        (("serve", "--socket", tmp_path / "s", "--device", "gpu9"), 3, "no backend is named"),
        (("serve",), 2, "--socket"),
        (("serve", "--socket", tmp_path / "s", "--quota-mib", "0"), 2, "quota-mib"),
    ]:
        code, _, err = _run(capsys, "card", *argv)
        assert code == expected
        assert message in err
