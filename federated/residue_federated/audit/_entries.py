"""What each kind of entry of a record must hold, so that an audit can rely on it.

A record comes from a party that may have written anything into it and signed that. An entry is
taken as its `Recorder` writes it or not at all: no field less, none more, each of its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

__all__ = ["fault_of"]

_Count = Annotated[int, Field(ge=0)]
_Rows = Annotated[int, Field(ge=0, le=1 << 40)]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Run = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Start(_Exact):
    format: int
    job: str
    party: str
    run: _Run
    certificate: str
    code: dict[str, _Hash]


class _Met(_Exact):
    peer: str
    run: Annotated[str, Field(pattern="^[0-9a-f]{0,32}$")]  # a peer may send less than a signature
    certificate: str


class _Sent(_Exact):
    peer: str
    tag: str
    sequence: _Count
    size: _Count
    sha256: _Hash


class _Received(_Sent):
    signature: str


class _Lost(_Exact):
    peer: str


class _Checked(_Exact):
    peer: str
    tag: str
    count: _Count
    bare: _Count
    again: _Count


class _Begin(_Exact):
    component: str
    rows: _Rows | None
    columns: _Count | None
    nulls: _Count


class _Rounds(_Exact):
    component: str
    done: _Count


class _Finish(_Exact):
    component: str


class _End(_Exact):
    files: dict[str, str]


class _Violation(_Exact):
    party: str
    rule: Literal["code", "control", "algorithm", "data"]
    text: str


class _Failed(_Exact):
    error: str
    text: str


class _Seal(_Exact):
    signature: str


_EVENTS: dict[str, type[_Exact]] = {
    "start": _Start,
    "met": _Met,
    "sent": _Sent,
    "received": _Received,
    "lost": _Lost,
    "checked": _Checked,
    "begin": _Begin,
    "resumed": _Rounds,
    "checkpoint": _Rounds,
    "finish": _Finish,
    "end": _End,
    "violation": _Violation,
    "failed": _Failed,
    "seal": _Seal,
}


class _Block(_Exact):
    key: str
    shape: list[_Count]
    exponent: int
    bound_bits: _Count


class _Ciphertexts(_Exact):
    kind: Literal["ciphertexts"]
    count: _Count
    blocks: list[_Block]


class _Record(_Exact):
    kind: Literal["record"]
    arrays: dict[
        str, Annotated[list[str | list[_Count] | _Count], Field(min_length=2, max_length=3)]
    ]
    code: dict[str, _Hash] = {}


class _MaskedPlaintexts(_Exact):
    kind: Literal["masked_plaintexts"]
    count: _Count
    bits: _Count


class _PublicKey(_Exact):
    kind: Literal["public_key"]
    bits: _Count
    key: str


class _Malformed(_Exact):
    kind: Literal["malformed"]


_FACTS: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        _Ciphertexts | _Record | _MaskedPlaintexts | _PublicKey | _Malformed,
        Field(discriminator="kind"),
    ]
)
"""What `facts_of` tells of a message."""


def fault_of(event: str, content: Mapping[str, Any], parties: set[str]) -> str | None:
    """What is wrong with an entry of a job of these parties, if anything is."""
    spec = _EVENTS.get(event)
    if spec is None:
        return "it is no event of a record"
    facts: dict[str, Any] = {}
    if issubclass(spec, _Sent):
        facts = {name: content[name] for name in content.keys() - spec.model_fields.keys()}
        content = {name: content[name] for name in content.keys() & spec.model_fields.keys()}
    try:
        spec.model_validate(content)
        if issubclass(spec, _Sent):
            _FACTS.validate_python(facts)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "kind"
        return f"its '{event}' is malformed: {ascii(where)[1:-1]}"
    stranger = {content.get("peer"), content.get("party")} - {None, *parties}
    return f"its '{event}' is about a party that the job does not have" if stranger else None
