# fmt: off
# ruff: noqa
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    DESCRIBE: _ClassVar[Kind]
    REGISTER: _ClassVar[Kind]
    UPLOAD: _ClassVar[Kind]
    DOWNLOAD: _ClassVar[Kind]
    TAKE: _ClassVar[Kind]
    CONCAT: _ClassVar[Kind]
    MUL: _ClassVar[Kind]
    POW: _ClassVar[Kind]
    POW_VAR: _ClassVar[Kind]
    POW_FIXED: _ClassVar[Kind]
    PROD: _ClassVar[Kind]
    MULTI_POW: _ClassVar[Kind]
    MULTI_POW_VAR: _ClassVar[Kind]
    POW_MODULI: _ClassVar[Kind]
    INVERSE: _ClassVar[Kind]
    WAIT: _ClassVar[Kind]
    SYNCHRONIZE: _ClassVar[Kind]
    STATS: _ClassVar[Kind]
    RESET_STATS: _ClassVar[Kind]
    CLEAR_SECRETS: _ClassVar[Kind]
    SELF_TEST: _ClassVar[Kind]

class Error(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKEND_ERROR: _ClassVar[Error]
    DEVICE_MEMORY_ERROR: _ClassVar[Error]
    DEVICE_ERROR: _ClassVar[Error]
    DEVICE_TIMEOUT: _ClassVar[Error]
    COMMAND_FAILED: _ClassVar[Error]
    CORRUPT_RESULT: _ClassVar[Error]
KIND_UNSPECIFIED: Kind
DESCRIBE: Kind
REGISTER: Kind
UPLOAD: Kind
DOWNLOAD: Kind
TAKE: Kind
CONCAT: Kind
MUL: Kind
POW: Kind
POW_VAR: Kind
POW_FIXED: Kind
PROD: Kind
MULTI_POW: Kind
MULTI_POW_VAR: Kind
POW_MODULI: Kind
INVERSE: Kind
WAIT: Kind
SYNCHRONIZE: Kind
STATS: Kind
RESET_STATS: Kind
CLEAR_SECRETS: Kind
SELF_TEST: Kind
BACKEND_ERROR: Error
DEVICE_MEMORY_ERROR: Error
DEVICE_ERROR: Error
DEVICE_TIMEOUT: Error
COMMAND_FAILED: Error
CORRUPT_RESULT: Error

class Request(_message.Message):
    __slots__ = ("hello", "operation", "data", "free")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    operation: Operation
    data: bytes
    free: Free
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., operation: _Optional[_Union[Operation, _Mapping]] = ..., data: _Optional[bytes] = ..., free: _Optional[_Union[Free, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "pid")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    pid: int
    def __init__(self, protocol: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("kind", "arrays", "modulus", "bits", "tensors")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    MODULUS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    arrays: _containers.RepeatedScalarFieldContainer[bytes]
    modulus: bytes
    bits: int
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., arrays: _Optional[_Iterable[bytes]] = ..., modulus: _Optional[bytes] = ..., bits: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("shape", "signed")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    signed: bool
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., signed: bool = ...) -> None: ...

class Free(_message.Message):
    __slots__ = ("arrays",)
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    arrays: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, arrays: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("welcome", "result", "data", "failure")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    result: Result
    data: bytes
    failure: Failure
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., data: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("quota_bytes",)
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    quota_bytes: int
    def __init__(self, quota_bytes: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("array", "length", "tensor", "facts", "stats")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Fact
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Fact, _Mapping]] = ...) -> None: ...
    class StatsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Stats
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Stats, _Mapping]] = ...) -> None: ...
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    array: bytes
    length: int
    tensor: Tensor
    facts: _containers.MessageMap[str, Fact]
    stats: _containers.MessageMap[str, Stats]
    def __init__(self, array: _Optional[bytes] = ..., length: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., facts: _Optional[_Mapping[str, Fact]] = ..., stats: _Optional[_Mapping[str, Stats]] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("text", "integer", "real", "flag")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    text: str
    integer: int
    real: float
    flag: bool
    def __init__(self, text: _Optional[str] = ..., integer: _Optional[int] = ..., real: _Optional[float] = ..., flag: bool = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("calls", "elements", "products", "device_cycles", "busy_slots", "host_seconds", "ring_slots", "stalls", "read_bytes", "write_bytes", "host_products")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CYCLES_FIELD_NUMBER: _ClassVar[int]
    BUSY_SLOTS_FIELD_NUMBER: _ClassVar[int]
    HOST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RING_SLOTS_FIELD_NUMBER: _ClassVar[int]
    STALLS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    calls: int
    elements: int
    products: int
    device_cycles: int
    busy_slots: int
    host_seconds: float
    ring_slots: int
    stalls: int
    read_bytes: int
    write_bytes: int
    host_products: int
    def __init__(self, calls: _Optional[int] = ..., elements: _Optional[int] = ..., products: _Optional[int] = ..., device_cycles: _Optional[int] = ..., busy_slots: _Optional[int] = ..., host_seconds: _Optional[float] = ..., ring_slots: _Optional[int] = ..., stalls: _Optional[int] = ..., read_bytes: _Optional[int] = ..., write_bytes: _Optional[int] = ..., host_products: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: Error
    message: str
    def __init__(self, error: _Optional[_Union[Error, str]] = ..., message: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("protocol",)
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    def __init__(self, protocol: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("facts", "quota_bytes", "sessions")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Fact
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Fact, _Mapping]] = ...) -> None: ...
    FACTS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    facts: _containers.MessageMap[str, Fact]
    quota_bytes: int
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStatus]
    def __init__(self, facts: _Optional[_Mapping[str, Fact]] = ..., quota_bytes: _Optional[int] = ..., sessions: _Optional[_Iterable[_Union[SessionStatus, _Mapping]]] = ...) -> None: ...

class SessionStatus(_message.Message):
    __slots__ = ("pid", "seconds", "operations", "arrays", "bytes")
    PID_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    pid: int
    seconds: float
    operations: int
    arrays: int
    bytes: int
    def __init__(self, pid: _Optional[int] = ..., seconds: _Optional[float] = ..., operations: _Optional[int] = ..., arrays: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...
