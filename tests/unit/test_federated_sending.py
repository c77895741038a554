"""Windows, back-pressure, broken streams, compression and proxies of the transport."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from residue_federated._certificates import Identity, TrialAuthority
from residue_federated._jobs import Transport
from residue_federated.errors import (
    PeerFailed,
    PeerLost,
    PeerRefused,
    ProtocolError,
    TransportError,
)
from residue_federated.proto import v1
from residue_federated.transport import Endpoint, Message, _compression
from residue_federated.transport._proxies import connect, proxy_for
from residue_federated.transport._sending import Outbox, Parcel

TIGHT = Transport(connect_timeout=5, peer_timeout=5, window_mib=0.25, chunk_kib=16)
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    directory, authority = tmp_path_factory.mktemp("certificates"), TrialAuthority()
    return {name: authority.issue(directory / name, name) for name in ("guest", "host")}


Pair = Callable[..., tuple[Endpoint, Endpoint]]


@pytest.fixture
def pair(identities: dict[str, Identity]) -> Iterator[Pair]:
    """guest and host, each an `Endpoint`, that have met; through `via`, if given."""
    endpoints: list[Endpoint] = []

    def make(
        settings: Transport = TIGHT, via: Callable[[int], int] = int, **changes: Any
    ) -> tuple[Endpoint, Endpoint]:
        guest, host = (Endpoint(n, "job", identities[n], settings, **changes) for n in identities)
        endpoints.extend([guest, host])
        with ThreadPoolExecutor() as pool:
            meeting = [
                pool.submit(guest.connect, {"host": f"127.0.0.1:{via(host.port)}"}),
                pool.submit(host.connect, {"guest": f"127.0.0.1:{guest.port}"}),
            ]
            for met in meeting:
                met.result()
        return guest, host

    yield make
    with ThreadPoolExecutor() as pool:
        list(pool.map(Endpoint.close, endpoints))


def numbers(count: int, seed: int = 0) -> v1.Payload:
    """`count` random bytes, which do not compress."""
    data = np.random.default_rng(seed).bytes(count)
    return v1.Payload(record=v1.Record(arrays={"x": v1.Array(dtype="|u1", shape=[1], data=data)}))


class Relay:
    """A TCP relay that can break its connections; `port` leads to the target's."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        self._forgotten: set[socket.socket] = set()
        self.carried = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                left = self._server.accept()[0]
                right = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [left, right]
            for one, other in ((left, right), (right, left)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 14):
                if one not in self._forgotten:
                    other.sendall(data)
                    self.carried += len(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def cut(self) -> None:
        """Break all connections; new ones are welcome."""
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Carry no more of the connections of now, and tell neither end."""
        self._forgotten.update(self._open)

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.fixture
def relayed(pair: Pair) -> Iterator[Callable[[Transport], tuple[Endpoint, Endpoint, Relay]]]:
    """guest and host, and the relay through which the guest calls the host."""
    relays: list[Relay] = []

    def make(settings: Transport) -> tuple[Endpoint, Endpoint, Relay]:
        def via(port: int) -> int:
            relays.append(Relay(port))
            return relays[-1].port

        return *pair(settings, via), relays[-1]

    yield make
    for relay in relays:
        relay.close()


Relayed = Callable[[Transport], tuple[Endpoint, Endpoint, Relay]]


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_broken_connections_neither_lose_nor_repeat_nor_reorder(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Message] = []
    guest, host, relay = relayed(TIGHT)
    passed, deliver = host._inbox._pass, list[int]()

    def observed(message: Message, *rest: Any) -> str | None:
        deliver.append(message.sequence)
        return passed(message, *rest)

    monkeypatch.setattr(host._inbox, "_pass", observed)
    host._observer = seen.append
    count = 60

    def send() -> None:
        for number in range(count):
            guest.send("host", str(number), numbers(40_000, number))

    sending = threading.Thread(target=send)
    sending.start()
    for number in range(count):
        assert host.receive("guest", str(number)) == numbers(40_000, number)
        if number % 12 == 5:
            relay.cut()
    sending.join()
    guest.flush()
    assert deliver == list(range(1, count + 1))
    assert [message.tag for message in seen] == [str(i) for i in range(count)]
    assert guest._outboxes["host"].repeated > 0


def test_an_idle_connection_is_kept_alive(relayed: Relayed) -> None:
    guest, host, relay = relayed(Transport(keep_alive=1))
    guest.send("host", "last", numbers(10))
    host.receive("guest", "last")
    guest.flush()
    carried = relay.carried  # nobody has anything to say
    until(lambda: relay.carried > carried)


def test_without_it_an_idle_connection_is_silent(relayed: Relayed) -> None:
    guest, host, relay = relayed(Transport(keep_alive=3600))
    guest.send("host", "last", numbers(10))
    host.receive("guest", "last")
    guest.flush()
    time.sleep(0.3)
    carried = relay.carried
    time.sleep(2)
    assert relay.carried == carried


def test_a_connection_that_was_forgotten_on_the_way_is_made_anew(relayed: Relayed) -> None:
    guest, host, relay = relayed(Transport(keep_alive=1, peer_timeout=20))
    relay.forget()
    guest.send("host", "late", numbers(10))
    assert host.receive("guest", "late") == numbers(10)
    guest.flush()


def test_who_does_not_take_holds_the_sender_back(pair: Pair) -> None:
    guest, host = pair()
    sent: list[int] = []

    def send() -> None:
        for number in range(40):
            guest.send("host", str(number), numbers(50_000))
            sent.append(number)

    sending = threading.Thread(target=send)
    sending.start()
    until(lambda: len(sent) >= 6)
    time.sleep(0.5)
    held = sum(len(message.data) for message in host._inbox._mail.values())
    assert held <= 2**18  # the window, at the receiver
    assert len(sent) < 14  # and another under way
    # Who waits for a later message takes those before it in.
    assert host.receive("guest", "12") == numbers(50_000)
    for number in [*range(12), *range(13, 40)]:
        host.receive("guest", str(number))
    sending.join()
    guest.flush()
    assert guest._outboxes["host"].repeated == 0


def test_a_peer_that_takes_nothing_for_long_is_named(pair: Pair) -> None:
    guest, _ = pair(Transport(connect_timeout=5, window_mib=0.1, message_timeout=0.5))

    def send() -> None:
        for number in range(40):
            guest.send("host", str(number), numbers(50_000))

    with pytest.raises(PeerLost, match=r"host is alive but has not taken a message within 0\.5 s"):
        send()


def test_errors_reach_the_next_call(pair: Pair) -> None:
    """A message that the host refuses: the guest hears of it in whatever it does next."""
    calls: list[Callable[[Endpoint], object]] = [
        lambda guest: guest.send("host", "next", numbers(1)),
        lambda guest: guest.receive("host", "next"),
        lambda guest: guest.gather(["host"], "next", within=30),
        lambda guest: guest.__exit__(None, None, None),
    ]
    for call in calls:
        guest, _ = pair()
        guest._outboxes["host"]._last = 1
        guest.send("host", "a", numbers(1))
        until(lambda: guest._aborted is not None)  # noqa: B023
        with pytest.raises(ProtocolError, match="message 2 follows message 0"):
            call(guest)


def test_nothing_is_due_to_a_spared_peer_that_is_gone(pair: Pair) -> None:
    guest, host = pair(Transport(connect_timeout=5, peer_timeout=0.3))
    guest.spare(["host"])
    host.close()
    guest.send("host", "a", numbers(1))
    guest.flush()
    assert "has not answered" in guest.lost["host"]
    with pytest.raises(PeerFailed, match="host stopped: host at"):
        guest.receive("host", "b")


def test_leaving_waits_for_what_is_under_way(pair: Pair) -> None:
    guest, host = pair(Transport(connect_timeout=5))
    for number in range(50):
        guest.send("host", str(number), numbers(20_000))
    guest.__exit__(None, None, None)
    assert len(host._inbox._mail) == 50


# --- compression ----------------------------------------------------------------------------------


def test_records_are_compressed_and_others_are_not(pair: Pair) -> None:
    guest, host = pair(Transport(connect_timeout=5))
    rows = v1.Array(dtype="|b1", shape=[100_000], data=bytes(100_000))
    row_set = v1.Payload(record=v1.Record(arrays={"rows": rows}))
    ciphertexts = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[bytes(100_000)]))
    for tag, payload, most in (("a", row_set, 1000), ("b", ciphertexts, 10**6)):
        before = guest.traffic.wire_bytes
        guest.send("host", tag, payload)
        assert host.receive("guest", tag) == payload
        travelled = guest.traffic.wire_bytes - before
        assert travelled < most
        assert (travelled < len(payload.SerializeToString())) == (tag == "a")


@pytest.mark.parametrize("size", [0, 100, 255, 4096, 300_000, 1_000_000])
def test_packing_is_undone(size: int) -> None:
    for payload in (
        numbers(size),
        v1.Payload(record=v1.Record(arrays={"x": v1.Array(data=bytes(size))})),
    ):
        data = payload.SerializeToString()
        encoding, packed = _compression.pack(payload, data)
        assert _compression.unpack(encoding, packed, len(data)) == data
        assert len(packed) <= len(data)


def test_no_more_is_unpacked_than_declared(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = v1.Payload(record=v1.Record(arrays={"x": v1.Array(data=bytes(10**7))}))
    data = bomb.SerializeToString()
    encoding, packed = _compression.pack(bomb, data)
    assert len(packed) < 2000
    for size in (0, 1000, len(data) - 1, len(data) + 1):
        with pytest.raises(ValueError, match=r"cannot be unpacked|declares"):
            _compression.unpack(encoding, packed, size)
    for broken in (packed[:-1], b"", b"nonsense"):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            _compression.unpack(encoding, broken, len(data))
    with pytest.raises(ValueError, match="unknown way, 7"):
        _compression.unpack(7, data, len(data))
    # On the wire: a small declared size, a large content.
    guest, host = pair()
    monkeypatch.setattr(_compression, "pack", lambda payload, data: (encoding, packed))
    guest.send("host", "a", numbers(3000))
    with pytest.raises(ProtocolError, match="'a' is malformed: it cannot be unpacked"):
        guest.flush()
    assert host._inbox._mail == {}


def test_what_grew_on_the_way_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, host = pair()
    monkeypatch.setattr(_compression, "pack", lambda payload, data: (v1.Encoding.ZSTD, data + b"0"))
    guest.send("host", "a", numbers(3000))
    with pytest.raises(ProtocolError, match="'a' grew on the way"):
        guest.flush()
    assert host._inbox._mail == {}


# --- proxies --------------------------------------------------------------------------------------


@contextmanager
def connect_proxy(target: int | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A tiny HTTP CONNECT proxy and the requests it got; all go to `target`, or are refused."""
    server = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []
    relay = None if target is None else Relay(target)

    def serve() -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head and (more := client.recv(4096)):
                head += more
            requests.append(head)
            if relay is None:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                client.close()
                continue
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            further = socket.create_connection(("127.0.0.1", relay.port))
            for one, other in ((client, further), (further, client)):
                threading.Thread(target=relay._pump, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", requests
    finally:
        server.close()
        if relay is not None:
            relay.close()


def test_connections_go_through_the_proxy(
    identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Transport(connect_timeout=5, peer_timeout=1)
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
    for how in ("setting", "environment"):
        with (
            Endpoint("host", "job", identities["host"], settings) as host,
            connect_proxy(host.port) as (url, requests),
        ):
            if how == "environment":
                monkeypatch.setenv("https_proxy", url.replace("//", "//user:word@"))
            with Endpoint(
                "guest",
                "job",
                identities["guest"],
                settings,
                proxy=url if how == "setting" else None,
            ) as guest:
                with ThreadPoolExecutor() as pool:
                    back = pool.submit(host.connect, {"guest": f"127.0.0.1:{guest.port}"})
                    guest.connect({"host": "host.bank.invalid:7100"})
                    back.result()
                guest.send("host", "a", numbers(100_000))
                assert host.receive("guest", "a") == numbers(100_000)
                host.send("guest", "b", numbers(1))  # to 127.0.0.1: never by the environment's
                assert guest.receive("host", "b") == numbers(1)
                guest.flush()
        assert requests
        assert all(request.startswith(b"CONNECT host.bank.invalid:7100 ") for request in requests)
        login = b"Basic dXNlcjp3b3Jk"
        assert all((login in request) == (how == "environment") for request in requests)


def test_a_handshake_through_a_proxy_is_explained(
    identities: dict[str, Identity], tmp_path: Path
) -> None:
    stranger = TrialAuthority().issue(tmp_path / "host", "host")
    settings = Transport(connect_timeout=3)
    with (
        Endpoint("host", "job", stranger, settings) as host,
        connect_proxy(host.port) as (url, _),
        Endpoint("guest", "job", identities["guest"], settings, proxy=url) as guest,
        pytest.raises(PeerRefused, match="must be signed by the job's authority"),
    ):
        guest.connect({"host": "host.bank.invalid:7100"})


def test_a_proxy_that_refuses_is_a_peer_out_of_reach(identities: dict[str, Identity]) -> None:
    settings = Transport(connect_timeout=0.5)
    with (
        connect_proxy() as (url, requests),
        Endpoint("guest", "job", identities["guest"], settings, proxy=url) as guest,
        pytest.raises(PeerLost, match=r"host at host\.bank\.invalid:7100"),
    ):
        guest.connect({"host": "host.bank.invalid:7100"})
    assert requests


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
    away = "host.bank:7100"
    assert proxy_for(away, None) is None
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("https_proxy", "http://q:2")
    assert proxy_for(away, None) == "http://q:2"
    monkeypatch.setenv("grpc_proxy", "http://r:3")
    assert proxy_for(away, None) == "http://r:3"
    assert proxy_for(away, "http://mine:4") == "http://mine:4"
    assert proxy_for(away, "direct") is None
    for here in ("127.0.0.1:7100", "localhost:7100", "[::1]:7100", "127.8.0.1:1"):
        assert proxy_for(here, None) is None
    monkeypatch.setenv("no_proxy", "other, .bank")
    assert proxy_for(away, None) is None
    monkeypatch.setenv("no_grpc_proxy", "elsewhere")
    assert proxy_for(away, None) == "http://r:3"
    for wrong in ("socks5://r:3", "http://r:31x8", "http://r:99999", "http://[::1", "http://:1"):
        monkeypatch.setenv("grpc_proxy", wrong)
        with pytest.raises(TransportError, match="grpc_proxy is no http://host:port"):
            proxy_for(away, None)
        with pytest.raises(TransportError, match=r"the proxy '.*' is no http://host:port"):
            proxy_for(away, wrong)


def test_an_address_that_is_none_is_out_of_reach() -> None:
    with pytest.raises(OSError, match=r"bank\.\.example:7100 is no host:port"):
        connect("bank..example:7100", None, 1.0)


def test_an_answer_that_comes_before_more_is_asked_for_is_heard() -> None:
    got: list[int] = []
    streams = 0

    def call(chunks: Iterator[v1.Chunk]) -> Iterator[v1.Ack]:
        nonlocal streams
        streams += 1
        assert next(chunks).HasField("open")
        if streams == 1:
            got.append(next(chunks).header.sequence)
            raise grpc.RpcError
        yield v1.Ack(sequence=got[-1])  # the outbox has it before it gives the next chunk
        for chunk in chunks:
            got.append(chunk.header.sequence)
            yield v1.Ack(sequence=got[-1])

    outbox = Outbox(
        "host",
        v1.HelloRequest(),
        call=call,
        judge=lambda error: None,
        check=lambda: None,
        heard=lambda: None,
        failed=lambda error: None,
        lost=lambda seconds: PeerLost("host"),
        window=1000,
        chunk=100,
        patience=10.0,
        most_wait=10.0,
    )
    for _ in range(2):
        outbox.put(10, lambda number: Parcel(v1.Header(sequence=number), b"0123456789"))
    outbox.flush(within=10)
    outbox.close()
    assert got == [1, 2]
    assert streams == 2
