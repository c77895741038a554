"""Projected operations a second of every board, with their arithmetic.

For each command that the driver issues (`_counting`) on a card of R rings:

    ring cycles   = max(L * m * c / u, (L + 1) * f * c),  m = ceil(count / R)
    memory cycles = the most of: bytes read and bytes written by one master over its port's width,
                    and all bytes over the memory's peak rate

L is the number of products a result takes one after another, c the measured cycles per product of
a full ring, f the products in flight that fill a ring (fewer leave it partly empty), u the
utilisation measured on a simulated card. A command takes the larger of the two; a batch takes the
sum of its commands; the cards of a board work side by side. Conversions on the host and the link to
it are not part of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from residue.card._abi import Opcode
from residue_sim.boards._counting import Issued, Work, work_of
from residue_sim.boards._facts import Board, board_names, find_board
from residue_sim.boards._measured import measured
from residue_sim.card_model import products
from residue_sim.golden import digit_count
from residue_sim.manifest import Configuration, configurations

__all__ = ["KEY_BITS", "Row", "row_of", "table"]

KEY_BITS = (1024, 2048, 3072)

# The measured operation whose waiting each command shares.
_AS = {
    Opcode.POW: "pow", Opcode.SQR: "pow",
    Opcode.POW_FIXED: "pow_fixed", Opcode.MULTI_POW: "pow_fixed", Opcode.TABLE: "pow_fixed",
    Opcode.TO_MONT: "upload", Opcode.FROM_MONT: "upload",
    Opcode.MUL: "mul", Opcode.PROD: "mul",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One projected figure.

    Attributes:
        board, key_bits, operation, scheme, unit: what of.
        ops_per_second: operations a second of the whole board.
        projected: true; no board has run it.
        clock_mhz, clock_closed: assumed clock, and whether a vendor tool has closed it.
        rings: rings of the board, of all cards.
        cards: cards of the board.
        products: modular products per operation.
        cycles: ring cycles per operation.
        card_cycles: cycles of one card per operation, with waiting and memory.
        bound: what holds it: ring, latency (too few products to fill the rings) or memory.
        arithmetic: how ops_per_second comes about.
    """

    board: str
    key_bits: int
    operation: str
    scheme: str
    unit: str
    ops_per_second: float
    projected: bool
    clock_mhz: float
    clock_closed: bool
    rings: int
    cards: int
    products: float
    cycles: float
    card_cycles: float
    bound: str
    arithmetic: str

    def as_dict(self) -> dict[str, str | int | float | bool]:
        """The row as a JSON object."""
        return asdict(self)


def table(names: list[str] | None = None) -> list[Row]:
    """Rows for the named boards (all physical ones by default) at 1024-, 2048-, 3072-bit keys.

    Raises:
        BoardError: an unknown board.
    """
    chosen = [n for n in board_names() if n != "virtual"] if names is None else names
    return [row for name in chosen for row in _rows(find_board(name))]


def _rows(board: Board) -> Iterator[Row]:
    for key_bits in KEY_BITS:
        for work in _work(board.configuration, key_bits):
            yield row_of(board, key_bits, work)


@functools.cache
def _work(configuration: str, key_bits: int) -> list[Work]:
    return work_of(configurations()[configuration], key_bits)


def row_of(board: Board, key_bits: int, work: Work) -> Row:
    """The projected figure of recorded work, each card of the board doing as much side by side.

    Raises:
        BoardError: the ring of this board was not measured.
    """
    config = board.config
    by_digits = {_digits(config, bits): bits for bits in (key_bits, 2 * key_bits)}
    issued = busy = total = 0.0
    held = {"ring": 0.0, "latency": 0.0, "memory": 0.0}
    for command, times in work.commands:
        cycles_each = measured().cycles(config, by_digits[command.digits])
        each = products(command.opcode, command.length, command.window)
        issued += times * command.count * each
        busy += times * command.count * each * cycles_each
        bounds = {
            "ring": each * -(-command.count // config.rings) * cycles_each / _utilisation(command),
            "latency": (each + 1) * work.fill[command.digits] * cycles_each,
            "memory": _memory_cycles(board, command),
        }
        bound = max(bounds, key=lambda name: bounds[name])
        held[bound] += times * bounds[bound]
        total += times * bounds[bound]
    n = work.elements
    cards = len(board.cards)
    rate = cards * board.clock_mhz * 1e6 * n / total
    bound = max(held, key=lambda name: held[name])
    return Row(
        board=board.name,
        key_bits=key_bits,
        operation=work.operation.name,
        scheme=work.operation.scheme,
        unit=work.operation.unit,
        ops_per_second=_significant(rate),
        projected=True,
        clock_mhz=board.clock_mhz,
        clock_closed=board.clock_closed,
        rings=board.rings,
        cards=cards,
        products=round(issued / n, 2),
        cycles=round(busy / n, 1),
        card_cycles=round(total / n, 2),
        bound=bound,
        arithmetic=(
            f"{issued / n:,.1f} products x {busy / issued:,.1f} ring cycles / {config.rings} rings "
            f"= {busy / n / config.rings:,.1f} cycles, {total / n:,.1f} with waiting and memory "
            f"(mostly {bound}-bound); {cards} x {board.clock_mhz:g} MHz / {total / n:,.1f}"
        ),
    )


def _digits(config: Configuration, bits: int) -> int:
    return digit_count(bits, config.word_bits, config.digits_per_word)


def _utilisation(command: Issued) -> float:
    return measured().utilisation[_AS[command.opcode]]


def _memory_cycles(board: Board, command: Issued) -> float:
    config = board.config
    read, shared, written = _traffic(config, command)
    port = min(config.axi_data_bits, board.memory.port_bits) / 8
    share = board.memory.gigabytes_per_second * 1e3 / len(board.cards) / board.clock_mhz
    return max(
        (read / config.masters + shared) / port,
        written / config.masters / port,
        (read + shared * config.masters + written) / share,
    )


def _traffic(config: Configuration, command: Issued) -> tuple[int, int, int]:
    """Bytes that a command's elements read, that each master reads besides, that are written."""
    n, size = command.count, 8 * command.digits
    strings = n * command.exponent_bytes
    match command.opcode:
        case Opcode.TO_MONT | Opcode.FROM_MONT | Opcode.SQR:
            return n * size, 0, n * size
        case Opcode.MUL:
            return 2 * n * size, 0, n * size
        case Opcode.POW:
            return n * size + strings, 0, n * size
        case Opcode.POW_FIXED | Opcode.MULTI_POW:
            contexts, _ = config.room(command.digits)
            turns = -(-n // (config.rings * contexts))
            rows = turns * command.length * (size << command.window)
            return strings + n * size * command.initial, rows, n * size
        case Opcode.PROD:
            return n * command.length * (size + 4), 0, n * size
        case Opcode.TABLE:
            return n * size, 0, n * size << command.window
        case _:
            raise ValueError(f"no count of bytes for {command.opcode.name}")


def _significant(value: float) -> float:
    """Three significant digits: more would pretend."""
    return float(f"{value:.3g}")
