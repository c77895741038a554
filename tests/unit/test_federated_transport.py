from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from residue_federated._certificates import Identity, TrialAuthority
from residue_federated._context import _record
from residue_federated._jobs import Transport
from residue_federated.errors import (
    CertificateError,
    MessageTooLarge,
    PeerFailed,
    PeerLost,
    PeerRefused,
    ProtocolError,
    RecordError,
    TransportError,
)
from residue_federated.proto import v1
from residue_federated.transport import Endpoint, Message, _door, _endpoint
from residue_federated.transport._connection import SERVICE, Connection, grpc, printable
from residue_federated.transport._door import call_metadata
from residue_federated.transport._endpoint import PROTOCOL_VERSION
from residue_federated.transport._lives import LIFE
from residue_federated.transport._sending import Parcel

QUICK = Transport(connect_timeout=2.0, peer_timeout=0.5, max_message_mib=1.0, chunk_kib=64)
JOB = "digest"

Open = Callable[..., Endpoint]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """guest and host of one authority; a stranger who calls himself host, of another."""
    directory, authority = tmp_path_factory.mktemp("certificates"), TrialAuthority()
    found = {name: authority.issue(directory / name, name) for name in ("guest", "host", "other")}
    return found | {"stranger": TrialAuthority().issue(directory / "stranger", "host")}


@pytest.fixture
def opened(identities: dict[str, Identity]) -> Iterator[Open]:
    endpoints: list[Endpoint] = []

    def make(name: str, identity: str | None = None, **changes: Any) -> Endpoint:
        settings = changes.pop("settings", QUICK)
        endpoint = Endpoint(
            name, changes.pop("job", JOB), identities[identity or name], settings, **changes
        )
        endpoints.append(endpoint)
        return endpoint

    yield make
    with ThreadPoolExecutor() as pool:  # each waits a little for the others' streams to end
        list(pool.map(Endpoint.close, endpoints))


def address(endpoint: Endpoint) -> str:
    return f"127.0.0.1:{endpoint.port}"


def introduce(guest: Endpoint, host: Endpoint) -> None:
    thread = threading.Thread(target=guest.connect, args=({"host": address(host)},))
    thread.start()
    host.connect({"guest": address(guest)})
    thread.join()


def scores(count: int) -> v1.Payload:
    return v1.Payload(
        record=v1.Record(
            arrays={"scores": v1.Array(dtype="<f8", shape=[count], data=bytes(8 * count))}
        )
    )


def test_messages_of_many_chunks_arrive_by_tag(opened: Open) -> None:
    sent: list[Message] = []
    guest, host = opened("guest", observer=sent.append), opened("host")
    introduce(guest, host)
    guest.send("host", "large", scores(100_000))
    guest.send("host", "small", scores(1))
    assert host.receive("guest", "small") == scores(1)
    assert host.receive("guest", "large") == scores(100_000)
    assert [(m.sender, m.receiver, m.tag) for m in sent] == [
        ("guest", "host", "large"),
        ("guest", "host", "small"),
    ]
    assert (guest.traffic.messages, guest.traffic.bytes) == (2, sum(len(m.data) for m in sent))


def test_a_repeated_message_is_kept_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    outbox = guest._outboxes["host"]
    following, sent = outbox._next, list[int]()

    def twice(stream: int, last: int) -> Parcel | None:
        parcel = following(stream, max(0, last - 1) if len(sent) % 2 else last)
        sent.extend([] if parcel is None else [parcel.header.sequence])
        return parcel

    monkeypatch.setattr(outbox, "_next", twice)
    monkeypatch.setattr(outbox, "_arrived", lambda sequence: None)  # nothing leaves the window
    guest.send("host", "a", scores(1))
    assert host.receive("guest", "a") == scores(1)
    guest.send("host", "a", scores(2))  # the tag is free again, the sequence number is not
    assert host.receive("guest", "a") == scores(2)
    guest.send("host", "b", scores(3))
    assert host.receive("guest", "b") == scores(3)
    assert sent[:5] == [1, 1, 2, 2, 3]
    assert host._inbox._mail == {}


def test_messages_out_of_order_are_refused(opened: Open) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    guest._outboxes["host"]._last = 1
    guest.send("host", "a", scores(1))
    with pytest.raises(ProtocolError, match="message 2 follows message 0"):
        guest.flush()


def test_a_peer_that_returns_gets_the_message(opened: Open) -> None:
    patient = Transport(connect_timeout=5.0, peer_timeout=20.0)
    guest, host = opened("guest", settings=patient), opened("host", settings=patient)
    introduce(guest, host)
    port = host.port
    host.close()
    guest.send("host", "a", scores(3))
    time.sleep(0.5)
    back = opened("host", listen=f"127.0.0.1:{port}", settings=patient)
    back.connect({"guest": address(guest)})
    assert back.receive("guest", "a") == scores(3)
    guest.flush()


def test_oversized_messages_are_refused_at_both_ends(opened: Open) -> None:
    guest, host = opened("guest", settings=Transport()), opened("host")
    introduce(guest, host)
    with pytest.raises(MessageTooLarge, match="1,048,576"):
        host.send("guest", "a", scores(200_000))
    host.send("guest", "b", scores(1))
    assert guest.receive("host", "b") == scores(1)
    guest.send("host", "a", scores(200_000))
    with pytest.raises(MessageTooLarge, match=r"transport\.max_message_mib"):
        guest.flush()


def test_a_peer_that_vanishes_is_named(opened: Open) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    host.close()
    with pytest.raises(PeerLost, match=r"host at .* has not answered"):
        guest.receive("host", "a")
    guest.send("host", "a", scores(1))
    with pytest.raises(PeerLost, match=r"host at .* has not answered"):
        guest.flush()


def test_a_peer_that_never_comes_is_named(opened: Open) -> None:
    guest = opened("guest", settings=Transport(connect_timeout=0.3))
    with pytest.raises(PeerLost, match="host at 127"):
        guest.connect({"host": "127.0.0.1:1"})


def test_silence_has_an_end(opened: Open) -> None:
    guest = opened("guest", settings=Transport(message_timeout=0.3))
    host = opened("host")
    introduce(guest, host)
    with pytest.raises(PeerLost, match=r"alive but has not sent 'a'"):
        guest.receive("host", "a")


def test_an_abort_ends_waiting_with_the_reason(opened: Open) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    threading.Timer(0.2, host.abort, args=("its data has missing values",)).start()
    with pytest.raises(PeerFailed, match="host stopped: its data has missing values"):
        guest.receive("host", "a")


def introduce_all(*endpoints: Endpoint) -> None:
    places = {endpoint._party: address(endpoint) for endpoint in endpoints}
    threads = [
        threading.Thread(
            target=endpoint.connect,
            args=({peer: at for peer, at in places.items() if peer != endpoint._party},),
        )
        for endpoint in endpoints
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_gathering_ends_with_the_last_message_or_the_deadline(opened: Open) -> None:
    guest, host, other = opened("guest"), opened("host"), opened("other")
    introduce_all(guest, host, other)
    host.send("guest", "a", scores(1))
    assert guest.gather(["host", "other"], "a", within=0.3) == {"host": scores(1)}
    sending = threading.Timer(0.2, other.send, ("guest", "b", scores(2)))
    sending.start()
    host.send("guest", "b", scores(1))
    found = guest.gather(["host", "other"], "b", within=30.0)
    assert found == {"host": scores(1), "other": scores(2)}
    sending.join()


def test_gathering_does_not_wait_for_who_is_out_of_reach(opened: Open) -> None:
    guest, host, other = opened("guest"), opened("host"), opened("other")
    introduce_all(guest, host, other)
    host.close()
    other.send("guest", "a", scores(2))
    assert guest.gather(["host", "other"], "a", within=60.0) == {"other": scores(2)}


def test_what_comes_while_others_are_asked_is_in_time(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer is silent, and asking it takes until the deadline has passed."""
    guest, host, other = opened("guest"), opened("host"), opened("other")
    introduce_all(guest, host, other)
    clock, asked = [0.0], list[float]()

    def ask(request: v1.HelloRequest, timeout: float) -> dict[str, str]:
        asked.append(timeout)
        host.send("guest", "a", scores(1))
        host.flush()
        clock[0] += timeout
        raise grpc.RpcError

    class Clock:
        """Each look at it is a quarter of a second later."""

        @staticmethod
        def monotonic() -> float:
            clock[0] += 0.25
            return clock[0]

    monkeypatch.setattr(guest._connections["other"], "hello", ask)
    with monkeypatch.context() as patched:
        patched.setattr(_endpoint, "time", Clock)
        assert guest.gather(["other", "host"], "a", within=3.0) == {"host": scores(1)}
    assert len(asked) == 1
    assert 0 < asked[0] < 1  # no longer than what is left of the time


def test_a_spared_peer_ends_only_what_waits_for_it(opened: Open) -> None:
    guest, host, other = opened("guest"), opened("host"), opened("other")
    introduce_all(guest, host, other)
    for endpoint in (guest, other):
        endpoint.spare(["host"])
    host.send("guest", "before", scores(1))
    host.abort("no rows")
    other.send("guest", "a", scores(2))
    assert guest.lost == {"host": "no rows"}
    assert guest.receive("other", "a") == scores(2)
    assert guest.receive("host", "before") == scores(1)
    assert guest.gather(["host"], "a", within=60.0) == {}
    with pytest.raises(PeerFailed, match="host stopped: no rows"):
        guest.receive("host", "a")
    other.abort("not spared")
    with pytest.raises(PeerFailed, match="other stopped: not spared"):
        guest.gather(["host", "other"], "a", within=60.0)


def test_a_lost_peer_is_told_alone(opened: Open) -> None:
    guest, host, other = opened("guest"), opened("host"), opened("other")
    introduce_all(guest, host, other)
    guest.lose("host", "too slow")
    with pytest.raises(PeerFailed, match="guest stopped: too slow"):
        host.receive("guest", "a")
    guest.send("other", "a", scores(1))
    assert other.receive("guest", "a") == scores(1)
    assert guest.lost == {"host": "too slow"}


def test_idle_work_is_done_until_the_message_comes(opened: Open) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    done: list[int] = []

    def idle() -> bool:
        done.append(1)
        if len(done) == 2:
            host.send("guest", "a", scores(1))
            host.flush()
        return len(done) < 100

    assert guest.receive("host", "a", idle=idle) == scores(1)
    assert len(done) == 2


def test_a_party_of_another_authority_is_refused(opened: Open) -> None:
    guest, stranger = opened("guest"), opened("host", identity="stranger")
    with pytest.raises(PeerRefused, match=r"must be signed by the job's authority"):
        guest.connect({"host": address(stranger)})
    with pytest.raises(PeerRefused, match=r"must be signed by the job's authority"):
        stranger.connect({"guest": address(guest)})


def test_our_certificate_refused_is_told(
    opened: Open, identities: dict[str, Identity], tmp_path: Path
) -> None:
    """The peer's certificate is good, ours is not: TLS 1.3 says so only after the handshake."""
    for name, source in (("key", "stranger"), ("cert", "stranger"), ("ca", "guest")):
        target = tmp_path / f"{name}.pem"
        target.write_bytes((identities[source].key.parent / f"{name}.pem").read_bytes())
        target.chmod(0o600)
    mixed = Endpoint("host", JOB, Identity.load(tmp_path, "host"), QUICK)
    guest = opened("guest")
    with mixed, pytest.raises(PeerRefused, match="guest does not accept host's certificate"):
        mixed.connect({"guest": address(guest)})


def test_a_certificate_of_another_party_is_refused(opened: Open) -> None:
    guest, impostor = opened("guest"), opened("host", identity="other")
    with pytest.raises(PeerRefused, match="is not host: its certificate says so"):
        guest.connect({"host": address(impostor)})
    guest._peers = {"host": address(impostor)}
    with pytest.raises(PeerRefused, match="names 'other', who has no part in the job"):
        impostor.connect({"guest": address(guest)})
    guest._peers["other"] = address(impostor)
    with pytest.raises(PeerRefused, match="names 'other', the message 'host'"):
        impostor.connect({"guest": address(guest)})


def test_another_job_is_refused(opened: Open) -> None:
    guest, host = opened("guest"), opened("host", job="another")
    guest._peers = {"host": address(host)}
    with pytest.raises(PeerRefused, match="runs another job"):
        host.connect({"guest": address(guest)})


@pytest.fixture
def caller(identities: dict[str, Identity]) -> Iterator[Callable[..., Connection]]:
    """Connections to an endpoint, for calls that no endpoint makes."""
    made: list[Connection] = []

    def make(name: str, to: Endpoint, job: str = JOB) -> Connection:
        connection = Connection(
            name,
            "guest",
            address(to),
            identities[name],
            metadata=lambda: call_metadata(job),
            keep_alive=10,
            proxy=None,
        )
        made.append(connection)
        return connection

    yield make
    for connection in made:
        connection.close()


def silence() -> Iterator[v1.Chunk]:
    threading.Event().wait(60)
    yield from ()


def opening(name: str = "host") -> v1.Chunk:
    return v1.Chunk(open=v1.HelloRequest(protocol=PROTOCOL_VERSION, job=JOB, sender=name))


def end_of(call: Any) -> tuple[Any, str]:
    """How a call ended, which was not waited for long."""
    error = call.exception(timeout=20)
    return error.code(), error.details()


def silent_hello(connection: Connection) -> Any:
    method = connection._channel.stream_stream(f"/{SERVICE}/Hello")
    return method(silence(), metadata=connection._metadata())


def test_who_is_no_peer_is_refused_before_it_says_anything(
    opened: Open, caller: Callable[..., Connection]
) -> None:
    guest = opened("guest")
    guest._peers = {"host": ""}
    other, of_another_job = caller("other", guest), caller("host", guest, "another")
    for call in (other.send(silence()), silent_hello(other)):
        code, details = end_of(call)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert "who has no part in the job" in details
    code, details = end_of(of_another_job.send(silence()))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "it runs another job" in details


def test_peers_that_say_nothing_hold_few_calls_and_not_for_long(
    opened: Open, caller: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = opened("guest")
    guest._peers = {"host": ""}
    host = caller("host", guest)
    monkeypatch.setattr(_door, "_OPENING", 0.1)
    for call in (host.send(silence()), silent_hello(host)):
        assert end_of(call)[0] == grpc.StatusCode.CANCELLED
    monkeypatch.setattr(_door, "_OPENING", 60)
    monkeypatch.setattr(_endpoint, "_MOST_UNOPENED", 2)
    calls = [host.send(silence()), silent_hello(host)]
    while guest._unopened["host"] < 2:
        time.sleep(0.01)
    assert end_of(host.send(silence())) == (
        grpc.StatusCode.UNAVAILABLE,
        "too many calls that say nothing",
    )
    for call in calls:
        call.cancel()
    while guest._unopened["host"]:
        time.sleep(0.01)
    assert next(host.send(iter([opening()]))).sequence == 0


def test_a_newer_stream_of_a_sender_ends_the_older(
    opened: Open, caller: Callable[..., Connection]
) -> None:
    guest = opened("guest")
    guest._peers = {"host": "", "other": ""}

    def chunks(name: str) -> Iterator[v1.Chunk]:
        yield opening(name)
        yield from silence()

    host = caller("host", guest)
    older, another = host.send(chunks("host")), caller("other", guest).send(chunks("other"))
    assert [next(call).sequence for call in (older, another)] == [0, 0]
    newer = host.send(chunks("host"))
    assert next(newer).sequence == 0
    assert end_of(older)[0] == grpc.StatusCode.CANCELLED
    assert newer.is_active()
    assert another.is_active()


def test_what_there_is_no_room_for_is_not_put_together(
    opened: Open, caller: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = opened("guest", settings=Transport(window_mib=0.001))
    guest._peers = {"host": ""}
    made, make = list[str](), guest._inbox._message

    def message(sender: str, header: v1.Header, data: bytes) -> Any:
        made.append(header.tag)
        return make(sender, header, data)

    monkeypatch.setattr(guest._inbox, "_message", message)

    def chunks() -> Iterator[v1.Chunk]:
        yield opening()
        for number, data in enumerate([scores(100).SerializeToString()] * 2, 1):
            header = v1.Header(
                sequence=number,
                tag=str(number),
                size=len(data),
                wire_size=len(data),
                sha256=hashlib.sha256(data).digest(),
            )
            yield v1.Chunk(header=header, data=data)
        yield from silence()

    call = caller("host", guest).send(chunks())
    assert [next(call).sequence, next(call).sequence] == [0, 1]
    time.sleep(0.3)
    assert made == ["1"]
    assert guest.receive("host", "1") == guest.receive("host", "2") == scores(100)
    assert made == ["1", "2"]


def test_a_malformed_refusal_ends_sending(opened: Open) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)

    def odd(sender: str, chunks: Iterator[v1.Chunk], context: Any) -> Iterator[v1.Ack]:
        context.set_trailing_metadata(((LIFE, "one"),))
        context.abort(grpc.StatusCode.ABORTED, "begin again")
        yield v1.Ack()

    host._inbox.stream = odd  # type: ignore[method-assign]
    guest.send("host", "a", scores(1))
    with pytest.raises(ProtocolError, match="host's answer is malformed: it does not say"):
        guest.flush()


def test_whatever_ends_the_sending_thread_reaches_who_waits(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)

    def odd(sequence: int) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(guest._outboxes["host"], "_arrived", odd)
    guest.send("host", "a", scores(1))
    with pytest.raises(TransportError, match=r"sending to host failed: ValueError\('odd'\)"):
        guest.flush()
    with pytest.raises(TransportError, match="sending to host failed"):
        guest.receive("host", "b")


@pytest.mark.parametrize("tag", ["\x1b[2Jall is well\r\n", "x" * 257])
def test_tags_that_could_command_a_terminal_or_fill_it_are_refused(opened: Open, tag: str) -> None:
    guest, host = opened("guest"), opened("host")
    introduce(guest, host)
    host.send("guest", "x" * 256, scores(1))
    host.send("guest", tag, scores(1))
    fault = "host sent a message whose tag is too long or not printable"
    with pytest.raises(ProtocolError, match=f"^guest refused host: {fault}$"):
        host.flush()
    with pytest.raises(ProtocolError, match=f"^{fault}$"):
        guest.receive("host", "a")
    assert list(guest._inbox._mail) == [("host", "x" * 256)]


def test_a_record_that_cannot_be_written_ends_its_own_party(opened: Open) -> None:
    class Full:
        def leaving(self, message: Message) -> bytes:
            return b""

        def arrived(self, message: Message, signature: bytes, certificate: bytes) -> None:
            raise RecordError("cannot write audit.jsonl: No space left on device")

        def lost(self, peer: str) -> None:
            """Nothing is kept."""

    guest, host = opened("guest", gate=Full()), opened("host")
    introduce(guest, host)
    host.send("guest", "a", scores(1))
    with pytest.raises(RecordError, match="No space left"):
        guest.receive("host", "a")
    guest.abort("its disk is full")
    with pytest.raises(PeerFailed, match="guest stopped: its disk is full"):
        host.flush()


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:", "7100", ""])
def test_where_nobody_can_listen(opened: Open, listen: str) -> None:
    with pytest.raises(TransportError, match=f"cannot listen on '{listen}': expected host:port"):
        opened("guest", listen=listen)


def test_names_of_arrays_cannot_command_a_terminal() -> None:
    array = v1.Array(dtype="<f8", shape=[0])
    names = dict.fromkeys(["\x1b[2J", "y" * 10_000], array)
    with pytest.raises(ProtocolError) as caught:
        _record("host", "a", v1.Payload(record=v1.Record(arrays=names)), {})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_identity_is_checked_on_loading(tmp_path: Path) -> None:
    authority = TrialAuthority()
    identity = authority.issue(tmp_path / "guest", "guest")
    assert identity.key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" in identity.key.read_bytes()
    with pytest.raises(CertificateError, match="has a key already"):
        authority.issue(tmp_path / "guest", "guest")
    with pytest.raises(CertificateError, match="not this party, 'host'"):
        Identity.load(tmp_path / "guest", "host")
    with pytest.raises(CertificateError, match="cannot read"):
        Identity.load(tmp_path / "nobody", "nobody")
    other = authority.issue(tmp_path / "other", "other")
    os.replace(other.key, identity.key)
    with pytest.raises(CertificateError, match="is not the key of"):
        Identity.load(tmp_path / "guest", "guest")
    identity.key.write_text("nonsense")
    with pytest.raises(CertificateError, match="PEM"):
        Identity.load(tmp_path / "guest", "guest")


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    identity = TrialAuthority().issue(tmp_path, "guest")
    identity.key.chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        Identity.load(tmp_path, "guest")


def test_what_others_say_cannot_command_a_terminal() -> None:
    assert printable("wrong\x1b[2J key\r\n") == "wrong [2J key  "
