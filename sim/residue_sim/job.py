"""The struct `job_t` of residue_engine_pkg, for benches: its fields are read from the package."""

from __future__ import annotations

import functools
import re

from residue_sim.golden import Montgomery
from residue_sim.manifest import hw_root

__all__ = ["job_fields", "job_of", "pack_job", "unpack_job"]


@functools.cache
def job_fields() -> dict[str, int]:
    """Widths of the fields of `job_t` in bits, the most significant field first."""
    text = (hw_root() / "rtl" / "engine" / "residue_engine_pkg.sv").read_text()
    found = re.search(r"typedef struct packed \{([^}]*)\} job_t;", text)
    if not found:
        raise ValueError("residue_engine_pkg.sv holds no packed struct job_t")
    fields = re.findall(r"^\s*logic\s+(?:\[(\d+):0\]\s*)?(\w+);", found[1], re.MULTILINE)
    return {name: int(msb or 0) + 1 for msb, name in fields}


def pack_job(**values: int) -> int:
    """A `job_t` as an integer; fields not named are zero.

    Raises:
        ValueError: no such field, or a value that does not fit its field.
    """
    fields = job_fields()
    if unknown := values.keys() - fields.keys():
        raise ValueError(f"job_t has no field {sorted(unknown)}")
    packed = 0
    for name, width in fields.items():
        value = values.get(name, 0)
        if not 0 <= value < 1 << width:
            raise ValueError(f"{value} does not fit job_t.{name} of {width} bits")
        packed = packed << width | value
    return packed


def unpack_job(packed: int) -> dict[str, int]:
    """The fields of a `job_t`."""
    values = {}
    for name, width in reversed(job_fields().items()):
        values[name] = packed & ((1 << width) - 1)
        packed >>= width
    return values


def job_of(opcode: int, domain: Montgomery, **values: int) -> int:
    """A `job_t` with what the modulus implies filled in; `values` go before that."""
    shape = {
        "k": domain.k,
        "rows": domain.k // 2,
        "slots": max(domain.k, domain.elements) + 1,
        "passes": domain.passes,
    }
    return pack_job(opcode=opcode, **(shape | values))
