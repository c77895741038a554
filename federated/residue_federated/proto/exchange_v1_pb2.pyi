# fmt: off
# ruff: noqa
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "job", "sender")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    job: str
    sender: str
    def __init__(self, protocol: _Optional[int] = ..., job: _Optional[str] = ..., sender: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("party",)
    PARTY_FIELD_NUMBER: _ClassVar[int]
    party: str
    def __init__(self, party: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("protocol", "job", "sender", "sequence", "tag", "size", "sha256")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    job: str
    sender: str
    sequence: int
    tag: str
    size: int
    sha256: bytes
    def __init__(self, protocol: _Optional[int] = ..., job: _Optional[str] = ..., sender: _Optional[str] = ..., sequence: _Optional[int] = ..., tag: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: Header
    data: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: bool = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("job", "sender", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    sender: str
    reason: str
    def __init__(self, job: _Optional[str] = ..., sender: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("rows", "public_key", "ciphertexts", "masked_plaintexts", "scores")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_PLAINTEXTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    rows: Rows
    public_key: PublicKey
    ciphertexts: Ciphertexts
    masked_plaintexts: MaskedPlaintexts
    scores: Scores
    def __init__(self, rows: _Optional[_Union[Rows, _Mapping]] = ..., public_key: _Optional[_Union[PublicKey, _Mapping]] = ..., ciphertexts: _Optional[_Union[Ciphertexts, _Mapping]] = ..., masked_plaintexts: _Optional[_Union[MaskedPlaintexts, _Mapping]] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("count", "digest", "columns")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    count: int
    digest: bytes
    columns: int
    def __init__(self, count: _Optional[int] = ..., digest: _Optional[bytes] = ..., columns: _Optional[int] = ...) -> None: ...

class PublicKey(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Ciphertexts(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, blocks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class MaskedPlaintexts(_message.Message):
    __slots__ = ("values", "loss", "stop")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    loss: float
    stop: bool
    def __init__(self, values: _Optional[_Iterable[bytes]] = ..., loss: _Optional[float] = ..., stop: bool = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...
