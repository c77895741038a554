"""How fast the card is simulated: `python -m residue_sim.board.speed`."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from residue.card._abi import Opcode
from residue_sim.board._board import Board
from residue_sim.board._program import run_command
from residue_sim.board.model import Latency
from residue_sim.scenarios import Program
from residue_sim.stimuli import odd_modulus

__all__ = ["Speed", "measure"]


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
        utilisation: ring slots that held a product, of all.
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
        rng = random.Random(1)  # noqa: S311
        program = Program(board.configuration, base=board.memory_base)
        domain, _ = program.domain(odd_modulus(rng, modulus_bits))
        count = board.configuration.contexts
        values = [rng.randrange(domain.modulus) for _ in range(count)]
        source, stride = program.residues(values, domain)
        program.add(
            Opcode.SQR,
            domain.modulus,
            src_a=source,
            stride_a=stride,
            dst=source,
            stride_dst=stride,
            count=count,
            length=max(1, products // count),
        )
        start = time.perf_counter()
        record = run_command(board, program, timeout)
        seconds = time.perf_counter() - start
        done, cycles = int(record["products"]), int(record["cycles"])
        return Speed(
            config=config,
            modulus_bits=modulus_bits,
            products=done,
            cycles=cycles,
            seconds=seconds,
            products_per_second=done / seconds,
            cycles_per_second=cycles / seconds,
            utilisation=int(record["busy"]) / (cycles * board.configuration.rings),
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
