"""How full the rings of the simulated card are: `python -m residue_sim.board.utilisation`.

One command an operation, long enough that its beginning and end weigh little. The roof is what the
memory allows: the bytes that full rings would need a cycle against those that the masters move.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import typer

from residue.card._abi import Opcode
from residue_sim.board._board import Board
from residue_sim.board._program import run_command
from residue_sim.board.model import Latency
from residue_sim.card_model import RESERVED_ENTRIES
from residue_sim.golden import Montgomery
from residue_sim.manifest import Configuration
from residue_sim.scenarios import Program
from residue_sim.stimuli import odd_modulus

__all__ = ["OPERATIONS", "Use", "bytes_per_product", "measure"]

_ROW = 16  # bytes
_POW_BITS = 128  # of an exponent
_TABLE = {"pow_fixed": (Opcode.POW_FIXED, 4, 24), "multi_pow": (Opcode.MULTI_POW, 4, 24)}
_FACTORS = 32  # of a product


@dataclass(frozen=True)
class Use:
    """What one command did.

    Attributes:
        config: the card's configuration.
        operation: which, of `OPERATIONS`.
        modulus_bits: size of the modulus.
        rings: of the card.
        products: Montgomery products computed.
        cycles: that the command took.
        utilisation: ring slots that held a product, of all.
        stalls: ring cycles that waited for an operand, of all.
        bytes_per_cycle: read and written.
        port_bytes_per_cycle: that the masters can read.
        needed_bytes_per_cycle: that full rings would read for this operation.
        roof: utilisation that the masters allow: port over needed bytes, at most 1.
    """

    config: str
    operation: str
    modulus_bits: int
    rings: int
    products: int
    cycles: int
    utilisation: float
    stalls: float
    bytes_per_cycle: float
    port_bytes_per_cycle: int
    needed_bytes_per_cycle: float
    roof: float


def measure(
    config: str = "kv260",
    modulus_bits: int = 2048,
    operations: Iterable[str] = ("pow", "pow_fixed", "multi_pow", "prod"),
    *,
    latency: Latency | None = None,
    timeout: float = 600,
) -> Iterator[Use]:
    """Run one command an operation, as many elements as the card holds at once or a multiple.

    Args:
        config: entry of `hw/configs.yaml`.
        modulus_bits: at most what the configuration takes.
        operations: of `OPERATIONS`.
        latency: of the memory; 32 cycles unless given.
        timeout: seconds a command.

    Raises:
        DeviceTimeout: a command did not complete in time.
        CommandFailed: it completed with another status than OK.
    """
    with Board(config, latency=latency or Latency(32)) as board:
        for operation in operations:
            rng = random.Random(1)  # noqa: S311
            program = Program(board.configuration, base=board.memory_base)
            modulus = odd_modulus(rng, modulus_bits)
            OPERATIONS[operation](program, modulus, rng)
            record = run_command(board, program, timeout)
            yield _use(operation, program, modulus_bits, record)
            board.reset()


def _use(operation: str, program: Program, modulus_bits: int, record: np.void) -> Use:
    c = program.configuration
    domain = Montgomery.of(
        (1 << modulus_bits) - 1, c.word_bits, c.elements, digits_per_word=c.digits_per_word
    )
    cycles = int(record["cycles"])
    slots = cycles * c.rings
    moved = int(record["read_bytes"]) + int(record["write_bytes"])
    port = c.masters * c.axi_data_bits // 8
    needed = c.rings * bytes_per_product(operation, c, domain) / (domain.passes * domain.slots)
    return Use(
        config=c.name,
        operation=operation,
        modulus_bits=modulus_bits,
        rings=c.rings,
        products=int(record["products"]),
        cycles=cycles,
        utilisation=int(record["busy"]) / slots,
        stalls=int(record["stalls"]) / slots,
        bytes_per_cycle=moved / cycles,
        port_bytes_per_cycle=port,
        needed_bytes_per_cycle=needed,
        roof=min(1.0, port / needed),
    )


def bytes_per_product(operation: str, c: Configuration, domain: Montgomery) -> float:
    """Bytes that a product of a full group reads, a residue in whole beats.

    Args:
        operation: of `OPERATIONS`.
        c: the card.
        domain: of a modulus.
    """
    beat = c.axi_data_bits // 8
    residue = -(-8 * domain.k // beat) * beat
    if operation == "prod":
        return residue + 4
    if operation in _TABLE:  # a table row a cluster, for all contexts of its lanes
        _, window, _ = _TABLE[operation]
        lanes = c.rings // c.masters
        return (residue << window) / (_group(c, domain, operation) * lanes)
    return residue / (15 + 5 * _POW_BITS / 4)


def _group(c: Configuration, domain: Montgomery, operation: str) -> int:
    """Elements of a group of one ring."""
    contexts, entries = c.room(domain.k)
    return min(contexts, (entries - RESERVED_ENTRIES) // 16) if operation == "pow" else contexts


def _operands(
    program: Program, modulus: int, rng: random.Random, operation: str, groups: int
) -> tuple[int, dict[str, Any]]:
    domain, _ = program.domain(modulus)
    count = groups * program.configuration.rings * _group(program.configuration, domain, operation)
    values = (rng.randrange(modulus) for _ in range(count))
    source, stride = program.residues(values, domain)
    room = program.place(bytes(stride * count))
    fields = {"src_a": source, "stride_a": stride, "dst": room, "stride_dst": stride}
    return count, fields | {"count": count}


def _pow(program: Program, modulus: int, rng: random.Random) -> None:
    count, fields = _operands(program, modulus, rng, "pow", 1)
    exponents = (rng.getrandbits(_POW_BITS) for _ in range(count))
    strings, stride_e = program.strings(exponents, _POW_BITS)
    program.add(Opcode.POW, modulus, window=4, length=_POW_BITS, exponents=strings,
                stride_e=stride_e, **fields)  # fmt: skip


def _table(operation: str) -> Callable[[Program, int, random.Random], None]:
    opcode, window, rows = _TABLE[operation]

    def add(program: Program, modulus: int, rng: random.Random) -> None:
        count, fields = _operands(program, modulus, rng, operation, 1)
        domain, _ = program.domain(modulus)
        entries = (rng.randrange(modulus) for _ in range(rows << window))
        table, stride_b = program.residues(entries, domain)
        exponents = (rng.getrandbits(rows * window) for _ in range(count))
        strings, stride_e = program.strings(exponents, rows * window)
        program.add(opcode, modulus, window=window, length=rows, exponents=strings,
                    stride_e=stride_e, src_b=table, stride_b=stride_b, **fields)  # fmt: skip

    return add


def _prod(program: Program, modulus: int, rng: random.Random) -> None:
    count, fields = _operands(program, modulus, rng, "prod", 1)
    index = [rng.randrange(count) for _ in range(count * _FACTORS)]
    at = program.place(struct.pack(f"<{len(index)}I", *index))
    program.add(Opcode.PROD, modulus, length=_FACTORS, exponents=at, **fields)


OPERATIONS: dict[str, Callable[[Program, int, random.Random], None]] = {
    "pow": _pow,
    "pow_fixed": _table("pow_fixed"),
    "multi_pow": _table("multi_pow"),
    "prod": _prod,
}
"""Operations that `measure` knows: what appends the command to a program."""


def _main(
    config: Annotated[str, typer.Option(help="Named configuration of hw/configs.yaml.")] = "kv260",
    modulus_bits: Annotated[int, typer.Option(help="Size of the modulus.")] = 2048,
) -> None:
    """Print a JSON array, one object an operation."""
    typer.echo(json.dumps([asdict(use) for use in measure(config, modulus_bits)], indent=1))


if __name__ == "__main__":
    typer.run(_main)
