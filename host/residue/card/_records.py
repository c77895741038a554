"""What each command did on the card: a short memory, for profiles and for finding faults."""

from __future__ import annotations

from dataclasses import dataclass

from residue.card._abi import Opcode

__all__ = ["CommandRecord"]


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One completed command, as the card and the driver saw it. Holds public sizes alone.

    Use of the card's rings while it ran is ``busy / (cycles * rings)``.

    Attributes:
        number: position in the order of submission, from 1 on; commands complete in this order.
        operation: the backend's operation it was part of: "pow", "upload", "check", ...
        opcode: what it did.
        status: how it ended, a `residue.card._abi.Status` or a number unknown to this driver.
        count: results.
        length: exponent bits, table rows, squarings or factors a product, as the opcode has it.
        modulus_bits: bits of its modulus; of the first one with MODULUS_PER_ELEMENT; 0 without.
        epoch: resets of the card before it; `started` counts from the last of them.
        started: the card's cycle count when it was begun.
        cycles: what it took, from its fetch to its completion record.
        busy: ring slots that held a product, summed over the rings.
        products: modular products, summed over the rings.
        stalls: cycles a ring wanted an operand that was not there, summed over the rings.
        read_bytes: bytes read from memory.
        write_bytes: bytes written to memory.
        noticed: when the driver saw that it was complete, in seconds of `time.perf_counter`.
    """

    number: int
    operation: str
    opcode: Opcode
    status: int
    count: int
    length: int
    modulus_bits: int
    epoch: int
    started: int
    cycles: int
    busy: int
    products: int
    stalls: int
    read_bytes: int
    write_bytes: int
    noticed: float
