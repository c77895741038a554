"""What other distributions add to a comparison, through entry points.

``residue.compare.boards``: a function that yields a `Projection` for each board, key size and
workload. ``residue.compare.card``: a function of the seconds that are left, whose context is the
backend of a simulated card. Where none is registered there are no such rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from residue.backends._protocol import Backend
from residue.errors import BackendError, ResidueError

__all__ = ["Projection", "boards", "card"]

_BOARDS = "residue.compare.boards"
_CARD = "residue.compare.card"


@dataclass(frozen=True)
class Projection:
    """A figure of a device that is not present.

    Attributes:
        device: its id in the file of prices.
        name: as people call it.
        key_bits, workload: what of.
        rate: operations a second in full batches.
        arithmetic: how the rate comes about.
        basis: what the device's rates rest on, in one sentence.
        points: (units of a batch, seconds on the device), or none.
        cycles: of one card, per operation.
        simulated: the device exists in simulation alone, and its rates mean nothing.
    """

    device: str
    name: str
    key_bits: int
    workload: str
    rate: float
    arithmetic: str
    basis: str
    points: tuple[tuple[int, float], ...]
    cycles: float
    simulated: bool


def boards(
    key_bits: Sequence[int], curve_bits: int, progress: Callable[[str, int, int], None]
) -> tuple[list[Projection], str | None]:
    """Projections of all boards that any distribution knows; why there are none.

    Args:
        key_bits: sizes of n.
        curve_bits: the size at which small batches are projected too.
        progress: hears of each step.
    """
    try:
        found = [p for function in _load(_BOARDS) for p in function(key_bits, curve_bits, progress)]
    except ResidueError as error:
        return [], str(error)
    return found, None if found else "no board is known: install residue[sim]"


def card(seconds: float) -> AbstractContextManager[Backend]:
    """A simulated card, made within so many seconds.

    Raises:
        BackendError: none is registered, or it lacks what it needs; on entry, it cannot be made.
    """
    found = _load(_CARD)
    if not found:
        raise BackendError("no simulated card is known: install residue[sim]")
    context: AbstractContextManager[Backend] = found[0](seconds)
    return context


def _name(entry: EntryPoint) -> str:
    return entry.name


def _load(group: str) -> list[Any]:
    try:
        return [entry.load() for entry in sorted(entry_points(group=group), key=_name)]
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"the simulation is incomplete ({error}): install residue[sim]"
        ) from error
