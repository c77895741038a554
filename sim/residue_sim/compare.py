"""What the simulation adds to `residue compare`: boards that are not there, and a simulated card.

`boards` runs the workloads of `residue.compare` on cards that only record their commands, and puts
the commands through the model of `residue board table`. `card` is the whole card in Verilator, for
cycles that are measured and results that are checked.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from residue._child import ChildFailed, run_python
from residue.backends import Backend
from residue.backends._card import CardBackend
from residue.compare import WORKLOADS, Bench, Projection, Workload
from residue.errors import DeviceError
from residue_sim.boards._counting import (
    Issued,
    Operation,
    Work,
    counting_board,
    counting_keys,
    fill_of,
)
from residue_sim.boards._facts import Board, board_names, find_board
from residue_sim.boards._table import row_of
from residue_sim.manifest import Configuration

__all__ = ["boards", "card"]

_LADDER = (1, 4, 16, 64, 256, 1024, 4096)
_ROWS = (1, 4, 16)  # of a matrix
_FULL_ROWS = 20  # 4,000 multiplications, as in `residue board table`

Step = Callable[[str, int, int], None]


def boards(
    key_bits: Sequence[int], curve_bits: int, progress: Step, names: Sequence[str] | None = None
) -> Iterator[Projection]:
    """Projected rates of every board, and times of small batches at one key size.

    Args:
        key_bits: sizes of n; a board whose cards are too small for one is left out there.
        curve_bits: the size at which batches vary.
        progress: hears of each step.
        names: these boards alone.
    """
    found = [find_board(name) for name in names or board_names()]
    recorders: dict[tuple[Configuration, int], _Recorder] = {}
    for done, board in enumerate(found):
        for bits in key_bits:
            progress(f"{board.name}: recording commands, {bits} bits", done, len(found))
            if 2 * bits > board.config.max_modulus_bits:
                continue
            key = (replace(board.config, name=""), bits)  # boards of one configuration share it
            recorder = recorders.get(key) or recorders.setdefault(
                key, _Recorder(board.config, bits)
            )
            for workload in WORKLOADS.values():
                yield _projection(board, recorder, workload, curve=bits == curve_bits)


class _Recorder:
    """Commands that the driver issues for a batch of a workload on one configuration's card."""

    def __init__(self, configuration: Configuration, key_bits: int) -> None:
        self.configuration, self.key_bits = configuration, key_bits
        board, self._issued = counting_board(configuration)
        self._backend = CardBackend(board, check_rate=0.0)
        self._backend.host_squares = True
        pk, sk = counting_keys(key_bits, self._backend)
        ones = np.zeros((len(Bench.plaintexts), pk.modulus.limbs), np.uint64)
        ones[:, 0] = 1
        self._bench = Bench(pk, sk, self._backend, ones)
        self.fill: Mapping[int, int] = fill_of(self._backend, configuration, key_bits)
        self._work: dict[tuple[str, int], Work] = {}

    @property
    def least(self) -> int:
        """Results that fill all rings of a card at the larger modulus."""
        return self.fill[max(self.fill)] * self.configuration.rings

    def work(self, workload: Workload, units: int) -> Work:
        """What a batch of so many units costs the card; its key's tables are built before."""
        if (workload.name, units) not in self._work:
            turn = workload.prepare(self._bench, units)
            if units == 1 or (workload.name, 1) not in self._work:
                turn()
            self._backend.synchronize()
            self._issued.clear()
            turn()
            self._backend.synchronize()
            commands: tuple[tuple[Issued, int], ...] = tuple(Counter(self._issued).items())
            self._work[workload.name, units] = Work(
                Operation(workload.name, workload.algorithm, ""),
                units * workload.operations,
                commands,
                self.fill,
            )
        return self._work[workload.name, units]


def _projection(
    board: Board, recorder: _Recorder, workload: Workload, *, curve: bool
) -> Projection:
    config = board.config
    single = workload.operations == 1
    full = 4 * config.rings * config.contexts if single else _FULL_ROWS
    row = row_of(board, recorder.key_bits, recorder.work(workload, full))
    points = []
    for units in (_LADDER if single else _ROWS) if curve and board.family != "virtual" else ():
        # Small batches stay on the first card; parts of large ones fill their cards' rings.
        part = max(min(units, recorder.least), -(-units // len(board.cards)))
        each = row_of(board, recorder.key_bits, recorder.work(workload, part))
        cycles = each.card_cycles * part * workload.operations
        points.append((units, cycles / (board.clock_mhz * 1e6)))
    closed = "closed" if board.clock_closed else "assumed"
    return Projection(
        device=board.name,
        name=board.title,
        key_bits=recorder.key_bits,
        workload=workload.name,
        rate=row.ops_per_second,
        arithmetic=f"{row.arithmetic}; clock {closed}",
        basis=(
            f"{row.rings} rings at {board.clock_mhz:g} MHz ({closed}); cycles per product measured "
            "in simulation, commands as the driver issues them"
        ),
        points=tuple(points),
        cycles=row.card_cycles,
        simulated=board.family == "virtual",
    )


@contextlib.contextmanager
def card(seconds: float) -> Iterator[Backend]:
    """The simulated card of the virtual board, which is built first where it is not in the cache.

    Args:
        seconds: that building may take.

    Raises:
        DeviceError: it cannot be built, or not in this time.
    """
    from residue_sim.board import Board as Simulated
    from residue_sim.board import InProcess

    start = time.monotonic()
    configuration = find_board("virtual").configuration
    _build(configuration, seconds)
    left = max(1.0, seconds - (time.monotonic() - start))
    backend = CardBackend(InProcess(Simulated(configuration)), check_rate=0.0, timeout=left)
    try:
        yield backend
    finally:
        backend.close()


def _build(configuration: str, seconds: float) -> None:
    """Build in a process of its own, which ends when time is up."""
    code = (
        "from residue_sim.board._build import card_library\n"
        "from residue_sim.manifest import configurations\n"
        f"card_library(configurations()[{configuration!r}])\n"
    )
    try:
        run_python(["-c", code], seconds)
    except TimeoutError as error:
        raise DeviceError(
            f"the simulated card was not built in the {seconds:.0f} s that were left"
        ) from error
    except ChildFailed as error:
        raise DeviceError(f"the simulated card cannot be built: {error}") from error
