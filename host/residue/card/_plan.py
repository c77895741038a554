"""How operations are cut into commands: windows and chunks that cost the fewest ring cycles.

The plans depend on public sizes alone. Cycles are modelled as ring slots, with three corrections: a
command with few results leaves the rings partly empty, a row of a table is read from memory once
for every batch of contexts, and gathered factors come from memory one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue.card._digits import Layout

__all__ = ["Machine"]

# Digits a ring word -> cycles from a word entering a processing element to its leaving, about.
_ELEMENT_LATENCY = {1: 19, 2: 26}
# Entries of the table store that hold no table.
_RESERVED_ENTRIES = 3
# Digits of buckets are no wider: the sums over buckets are made one by one.
_WIDEST_BUCKETS = 8
# Bytes that a ring's stores take or give a cycle: one row of two digits.
_ROW_BYTES = 16


@dataclass(frozen=True)
class Machine:
    """A card working on one modulus. Costs are cycles of the ring with the most to do.

    Attributes:
        layout: the modulus.
        rings: rings of the card.
        contexts: results that one ring computes side by side.
        axi_bytes: bytes that one of its memory ports moves a cycle.
        masters: its memory ports.
        table_entries: residues that a ring's table store holds; a row takes at most half of it.
    """

    layout: Layout
    rings: int
    contexts: int
    axi_bytes: int
    masters: int
    table_entries: int

    @property
    def fill(self) -> int:
        """Products in flight that fill a ring."""
        latency = _ELEMENT_LATENCY[self.layout.digits_per_word]
        return -(-latency * self.layout.elements // self.layout.slots) + 1

    @property
    def product_latency(self) -> int:
        """Cycles of a product whose operand is the result of the one before."""
        return self.fill * self._slots

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

    def multi_pow_plan(
        self, bases: int, outputs: int, bits: int, *, buckets: bool
    ) -> tuple[bool, int]:
        """(use buckets, digit width) for products of powers with exponents of `bits` bits.

        Straus' method multiplies entries of the bases' power tables; buckets collect the bases
        that share a digit. Buckets are considered if allowed: their addresses follow the digits.
        """

        def horner(w: int) -> int:
            return (bits + -(-bits // w)) * self._products(outputs)

        def straus(w: int) -> int:
            results = -(-bits // w) * outputs + 1
            return self._tables(bases, w) + self._lookups(bases, w, results) + horner(w)

        def collected(w: int) -> int:
            groups = -(-bits // w) * outputs
            segments = ((1 << w) - 1) * groups
            factors = self._gathered(1, bases * groups + segments)  # moved to their places, too
            return factors + 2 * ((1 << w) - 1) * self._products(groups) + horner(w)

        plans = [(straus(w), False, w) for w in self.windows()]
        if buckets:
            plans += [(collected(w), True, w) for w in range(1, _WIDEST_BUCKETS + 1)]
        _, chosen, window = min(plans)
        return chosen, window

    def chunks(self, lengths: NDArray[np.int64], longest: int) -> list[int]:
        """Chunk length of each level that multiplies segments of `lengths` down to one residue.

        No chunk exceeds `longest` >= 2.
        """
        distinct, segments = np.unique(np.maximum(lengths, 1), return_counts=True)
        top = int(distinct[-1])
        sizes = [1 << i for i in range(1, top.bit_length()) if 1 << i <= longest]

        def level(left: NDArray[np.int64], chunk: int) -> tuple[int, NDArray[np.int64]]:
            longest = min(chunk, int(left.max())) * self._products(1)
            factors = left // chunk * chunk + _rounded(left % chunk)
            cost = max(longest, self._gathered(1, int(factors @ segments)))
            return cost, -(-left // chunk)

        def remaining(left: NDArray[np.int64], chunk: int) -> int:
            """Cost of a level of `chunk`, and of finishing in one more."""
            cost, left = level(left, chunk)
            if (rest := int(left.max())) > 1:
                cost += level(left, rest)[0]
            return cost

        best, plan = None, [min(top, longest)]
        for first in [*sizes, top]:
            if first > longest:
                continue
            cost, left = level(distinct, first)
            levels = [first]
            while (rest := int(left.max())) > 1:
                options = [s for s in (*sizes, rest) if s <= min(rest, longest)]
                second = min(options, key=lambda s: remaining(left, s))
                more, left = level(left, second)
                cost += more
                levels.append(second)
            if best is None or cost < best:
                best, plan = cost, levels
        return plan

    def batches(self, sizes: NDArray[np.int64]) -> list[int]:
        """Where to cut products of `sizes` > 0 factors, in descending order, into commands.

        All products of a command take as many factors as its first one, and few of them leave the
        rings partly empty: a command goes on as long as another one would take more.
        """
        full = self.fill * self.rings
        distinct, counts = np.unique(_rounded(sizes), return_counts=True)
        cuts, first, count = [0], int(distinct[-1]), 0
        for size, more in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
            together = first * (max(count + more, full) - max(count, full))
            if size * max(more, full) < together:
                cuts.append(cuts[-1] + count)
                first, count = size, 0
            count += more
        return [*cuts, len(sizes)]

    @property
    def _slots(self) -> int:
        """Ring cycles of one product."""
        return self.layout.passes * self.layout.slots

    def _share(self, count: int) -> int:
        """Of `count` results, those of the ring with the most."""
        return -(-count // self.rings)

    def _products(self, count: int) -> int:
        """`count` independent products, spread over the rings."""
        return max(self._share(count), self.fill) * self._slots

    def _memory(self, count: int) -> int:
        """Moving `count` residues between memory and the rings."""
        return count * self.layout.residue_bytes // (self.axi_bytes * self.masters)

    def _gathered(self, length: int, count: int) -> int:
        """`count` products of `length` factors each, which come from memory one by one."""
        return length * max(self._products(count), self._memory(count))

    def _row_cycles(self, window: int) -> int:
        return (self.layout.residue_bytes << window) // _ROW_BYTES

    def _lookups(self, rows: int, window: int, results: int) -> int:
        batches = -(-self._share(results) // self.contexts)
        return rows * max(self._products(results), batches * self._row_cycles(window))

    def _tables(self, rows: int, window: int) -> int:
        entries = max((1 << window) - 2, 1)
        written = max(self._share(rows) * self._row_cycles(window), self._memory(rows << window))
        return max(entries * self._products(rows), written)


def _rounded(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sizes rounded up to three significant bits: a little more than they are."""
    step = np.maximum(np.frexp(sizes)[1].astype(np.int64) - 3, 0)
    rounded: NDArray[np.int64] = -(-sizes >> step) << step
    return rounded
