"""How operations are cut into commands: windows and chunks that cost the fewest ring cycles.

The plans depend on public sizes alone. Cycles are modelled as ring slots, with two corrections: a
command with few results leaves the ring partly empty, and a row of a table is read from memory
once for every batch of contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue.card._digits import Layout

__all__ = ["Machine"]

# Cycles from a word entering a processing element to its leaving, rounded up.
_ELEMENT_LATENCY = 19
# Entries of the table store that hold no table.
_RESERVED_ENTRIES = 3


@dataclass(frozen=True)
class Machine:
    """A card working on one modulus.

    Attributes:
        layout: the modulus.
        rings: rings of the card.
        contexts: results it computes side by side.
        axi_bytes: bytes its memory port moves a cycle.
        table_entries: residues its table store holds; a row takes at most half of it.
    """

    layout: Layout
    rings: int
    contexts: int
    axi_bytes: int
    table_entries: int

    @property
    def fill(self) -> int:
        """Products in flight that fill the rings."""
        elements = self.layout.elements
        return self.rings * (-(-_ELEMENT_LATENCY * elements // self.layout.slots) + 1)

    def windows(self) -> list[int]:
        """Digit widths whose table rows fit the store."""
        return [w for w in (1, 2, 4, 8) if (2 << w) + _RESERVED_ENTRIES <= self.table_entries]

    def comb_window(self, bits: int, results: int, built: int | None) -> int:
        """Digit width for `results` powers of one base; `built` is the width of a ready table."""
        return min(
            self.windows(),
            key=lambda w: (
                self._lookups(-(-bits // w), w, results)
                + (0 if w == built else self._tables(-(-bits // w), w))
            ),
        )

    def multi_pow_window(self, bases: int, outputs: int, bits: int) -> int:
        """Digit width for products of powers with exponents of `bits` bits."""

        def cost(w: int) -> int:
            positions = -(-bits // w)
            horner = (bits + positions) * self._products(outputs)
            return (
                self._tables(bases, w) + self._lookups(bases, w, positions * outputs + 1) + horner
            )

        return min(self.windows(), key=cost)

    def chunks(self, lengths: NDArray[np.int64], longest: int) -> list[int]:
        """Chunk length of each level that multiplies segments of `lengths` down to one residue.

        No chunk exceeds `longest` >= 2.
        """
        top = max(1, int(lengths.max(initial=1)))
        sizes = [1 << i for i in range(1, top.bit_length()) if 1 << i <= longest]

        def level(lengths: NDArray[np.int64], chunk: int) -> tuple[int, NDArray[np.int64]]:
            left = np.maximum(1, -(-lengths // chunk))
            return chunk * self._products(int(left.sum())), left

        best, plan = None, [min(top, longest)]
        for first in [*sizes, top]:
            if first > longest:
                continue
            cost, left = level(lengths, first)
            levels = [first]
            while (rest := int(left.max())) > 1:
                options = [s for s in (*sizes, rest) if s <= min(rest, longest)]
                second = min(options, key=lambda s: self._remaining(left, s))
                more, left = level(left, second)
                cost += more
                levels.append(second)
            if best is None or cost < best:
                best, plan = cost, levels
        return plan

    def _remaining(self, lengths: NDArray[np.int64], chunk: int) -> int:
        """Cost of a level of `chunk`, and of finishing in one more."""
        left = np.maximum(1, -(-lengths // chunk))
        cost = chunk * self._products(int(left.sum()))
        if (rest := int(left.max())) > 1:
            cost += rest * self._products(len(lengths))
        return cost

    def _products(self, count: int) -> int:
        """Slots of `count` independent products."""
        return max(count, self.fill) * self.layout.passes * self.layout.slots

    def _row_cycles(self, window: int) -> int:
        return (self.layout.residue_bytes << window) // self.axi_bytes

    def _lookups(self, rows: int, window: int, results: int) -> int:
        batches = -(-results // self.contexts)
        return rows * max(self._products(results), batches * self._row_cycles(window))

    def _tables(self, rows: int, window: int) -> int:
        entries = max((1 << window) - 2, 1)
        return max(entries * self._products(rows), rows * self._row_cycles(window))
