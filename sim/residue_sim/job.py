"""The structs `job_t`, `lane_job_t` and `lane_state_t` of residue_engine_pkg, for benches.

Their fields are read from the package.
"""

from __future__ import annotations

import functools
import re

from residue_sim.golden import Montgomery
from residue_sim.manifest import hw_root

__all__ = ["job_fields", "job_of", "pack_job", "pack_share", "unpack_job", "unpack_share",
           "unpack_states"]  # fmt: skip


@functools.cache
def job_fields(struct: str = "job_t") -> dict[str, int]:
    """Widths of the fields of a struct in bits, the most significant field first."""
    text = (hw_root() / "rtl" / "engine" / "residue_engine_pkg.sv").read_text()
    found = re.search(rf"typedef struct packed \{{([^}}]*)\}} {struct};", text)
    if not found:
        raise ValueError(f"residue_engine_pkg.sv holds no packed struct {struct}")
    fields = re.findall(r"^\s*logic\s+(?:\[(\d+):0\]\s*)?(\w+);", found[1], re.MULTILINE)
    return {name: int(msb or 0) + 1 for msb, name in fields}


def pack_job(**values: int) -> int:
    """A `job_t` as an integer; fields not named are zero.

    Raises:
        ValueError: no such field, or a value that does not fit its field.
    """
    return _pack("job_t", values)


def pack_share(**values: int) -> int:
    """A `lane_job_t` as an integer; otherwise as `pack_job`."""
    return _pack("lane_job_t", values)


def unpack_job(packed: int) -> dict[str, int]:
    """The fields of a `job_t`."""
    return _unpack("job_t", packed)


def unpack_share(packed: int) -> dict[str, int]:
    """The fields of a `lane_job_t`."""
    return _unpack("lane_job_t", packed)


def unpack_states(packed: int, lanes: int = 1) -> list[dict[str, int]]:
    """The fields of the `lane_state_t` of every lane."""
    width = sum(job_fields("lane_state_t").values())
    return [_unpack("lane_state_t", packed >> width * lane) for lane in range(lanes)]


def _pack(struct: str, values: dict[str, int]) -> int:
    fields = job_fields(struct)
    if unknown := values.keys() - fields.keys():
        raise ValueError(f"{struct} has no field {sorted(unknown)}")
    packed = 0
    for name, width in fields.items():
        value = values.get(name, 0)
        if not 0 <= value < 1 << width:
            raise ValueError(f"{value} does not fit {struct}.{name} of {width} bits")
        packed = packed << width | value
    return packed


def _unpack(struct: str, packed: int) -> dict[str, int]:
    values = {}
    for name, width in reversed(job_fields(struct).items()):
        values[name] = packed & ((1 << width) - 1)
        packed >>= width
    return values


def job_of(opcode: int, domain: Montgomery, **values: int) -> int:
    """A `job_t` with what the modulus implies filled in; `values` go before that."""
    shape = {
        "k": domain.k,
        "rows": domain.k // 2,
        "words": domain.ring_words,
        "slots": domain.slots,
        "passes": domain.passes,
    }
    return pack_job(opcode=opcode, **(shape | values))
