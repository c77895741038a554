"""How fast the card is simulated: `python -m residue_sim.board.speed`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer

from residue.card._abi import (
    COMMAND_DTYPE,
    COMPLETION_DTYPE,
    COMPLETION_OFFSET,
    DESCRIPTOR_BYTES,
    Opcode,
    Register,
    Status,
)
from residue.errors import CommandFailed, DeviceTimeout
from residue_sim.board._board import Board
from residue_sim.board.model import Latency
from residue_sim.golden import Montgomery, to_words

__all__ = ["Speed", "measure"]

_BYTES_A_WORD = 8
_UNIT = 16  # bytes, of a stride


@dataclass(frozen=True)
class Speed:
    """What a batch of squarings took.

    Attributes:
        config: the card's configuration.
        modulus_bits: size of the modulus.
        products: Montgomery products computed.
        cycles: cycles the command took on the card.
        seconds: wall time of the simulation.
        products_per_second: simulated.
        cycles_per_second: simulated.
        utilisation: ring slots that held a product, of all cycles.
    """

    config: str
    modulus_bits: int
    products: int
    cycles: int
    seconds: float
    products_per_second: float
    cycles_per_second: float
    utilisation: float


def measure(
    config: str = "r21",
    modulus_bits: int = 2048,
    *,
    products: int = 10_000,
    latency: Latency | None = None,
    timeout: float = 600,
) -> Speed:
    """Time one SQR command over as many elements as the card holds at once.

    The whole card is simulated, in this process.

    Args:
        config: entry of `hw/configs.yaml`.
        modulus_bits: at most what the configuration takes.
        products: about how many.
        latency: of the memory.
        timeout: seconds.

    Raises:
        DeviceTimeout: the command did not complete in time.
        CommandFailed: it completed with another status than OK.
    """
    with Board(config, latency=latency) as board:
        entry = board.configuration
        modulus = 2**modulus_bits - 105
        montgomery = Montgomery.of(modulus, entry.word_bits, entry.elements)
        k = montgomery.k
        count = entry.contexts
        rng = np.random.default_rng(1)
        values = [int.from_bytes(rng.bytes(modulus_bits // 8), "little") for _ in range(count)]
        rows = [to_words(value % modulus, entry.word_bits, k) for value in values]

        def place(content: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
            address = board.allocate(content.size)
            board.memory(address, content.size)[:] = content
            return address

        block = place(np.array(montgomery.block(), np.uint64).view(np.uint8))
        source = place(np.array(rows, np.uint64).reshape(-1).view(np.uint8))
        command = np.zeros(1, COMMAND_DTYPE)
        command["opcode"] = Opcode.SQR
        command["modulus"] = block
        command["src_a"] = source
        command["dst"] = board.allocate(count * k * _BYTES_A_WORD)
        command["count"] = count
        command["length"] = max(1, products // count)
        command["stride_a"] = command["stride_dst"] = k * _BYTES_A_WORD // _UNIT
        queue = board.allocate(2 * DESCRIPTOR_BYTES)
        board.memory(queue, command.nbytes)[:] = command.view(np.uint8)
        facts = (board.memory_base, board.memory_base + board.memory_bytes)
        for register, value in (
            (Register.MEM_BASE_LO, facts[0] & 0xFFFF_FFFF),
            (Register.MEM_BASE_HI, facts[0] >> 32),
            (Register.MEM_LIMIT_LO, facts[1] & 0xFFFF_FFFF),
            (Register.MEM_LIMIT_HI, facts[1] >> 32),
            (Register.QUEUE_BASE_LO, queue & 0xFFFF_FFFF),
            (Register.QUEUE_BASE_HI, queue >> 32),
            (Register.QUEUE_SIZE, 2),
            (Register.TAIL, 1),
        ):
            board.write32(register, value)
        start = time.perf_counter()
        board.write32(Register.CTRL, 1)
        if not board.wait_idle(timeout):
            raise DeviceTimeout(f"the simulated card was not done after {timeout:.0f} s")
        seconds = time.perf_counter() - start
        raw = board.memory(queue + COMPLETION_OFFSET, COMPLETION_DTYPE.itemsize)
        record = raw.copy().view(COMPLETION_DTYPE)[0]
        if record["status"] != Status.OK:
            raise CommandFailed(f"SQR completed with {Status(int(record['status'])).name}")
        done, cycles = int(record["products"]), int(record["cycles"])
        return Speed(
            config=config,
            modulus_bits=modulus_bits,
            products=done,
            cycles=cycles,
            seconds=seconds,
            products_per_second=done / seconds,
            cycles_per_second=cycles / seconds,
            utilisation=int(record["busy"]) / cycles,
        )


def _main(
    config: Annotated[str, typer.Option(help="Named configuration of hw/configs.yaml.")] = "r21",
    modulus_bits: Annotated[int, typer.Option(help="Size of the modulus.")] = 2048,
    products: Annotated[int, typer.Option(help="About how many to compute.")] = 10_000,
) -> None:
    """Print one JSON object: products and cycles simulated a second."""
    typer.echo(json.dumps(asdict(measure(config, modulus_bits, products=products))))


if __name__ == "__main__":
    typer.run(_main)
