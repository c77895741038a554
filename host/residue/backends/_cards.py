"""The backend `cards`: one batch over several cards, of one board or of several.

Arrays lie in contiguous, nearly equal parts, one a card, from the first card on. How many cards an
array takes follows from its length and modulus alone, so that arrays of one length have their parts
on the same cards, and element-wise operations move nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import reduce
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from residue.backends._card_arrays import Index
from residue.backends._protocol import (
    Backend,
    Limbs,
    Modulus,
    OperationStats,
    ResidueArray,
    SupportsMultiPowVar,
    SupportsPowModuli,
    SupportsSelfTest,
)
from residue.backends._validate import (
    broadcast_length,
    check_exponents,
    check_index,
    check_offsets,
    check_pow_moduli,
    check_residues,
    check_short_exponents,
)
from residue.errors import BackendError

__all__ = ["CardsArray", "CardsBackend"]

T = TypeVar("T")

_SUMS = ("rings", "masters", "memory_bytes", "memory_free_bytes", "resets")
_LIMITS = ("max_modulus_bits", "max_exponent_bits")


class Machine(Protocol):
    """A card at work on a modulus, as plans see it."""

    @property
    def rings(self) -> int:
        """What computes at the same time."""

    @property
    def fill(self) -> int:
        """Elements that keep one of those busy."""

    def multi_pow_plan(
        self, bases: int, outputs: int, bits: int, *, buckets: bool
    ) -> tuple[bool, int]:
        """Whether by buckets, and the window."""


class Card(Backend, SupportsMultiPowVar, SupportsPowModuli, SupportsSelfTest, Protocol):
    """A backend that takes parts of a batch: a card, or a GPU."""

    def machine(self, modulus: Modulus) -> Machine:
        """The card at work on a modulus."""


class CardsArray:
    """Residues in the memories of several cards: part i on card i."""

    __slots__ = ("_backend", "_length", "_modulus", "copies", "parts")

    def __init__(
        self, backend: CardsBackend, modulus: Modulus, parts: Sequence[ResidueArray]
    ) -> None:
        self._backend = backend
        self._modulus = modulus
        self._length = sum(map(len, parts))
        self.parts = tuple(parts)
        self.copies: dict[int, ResidueArray] = {}  # of an array of one: card -> the same residue

    @property
    def backend(self) -> CardsBackend:
        """The backend that holds the array."""
        return self._backend

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    @property
    def starts(self) -> Index:
        """Index of the first element of every part."""
        return _starts(self.parts)

    def __len__(self) -> int:
        return self._length

    def wait(self) -> None:
        """Return when the array is computed; raise the error of the operation that failed."""
        self._backend.wait(self)


class CardsBackend:
    """`Backend` on several cards at once.

    Every operation runs on all cards that hold a part of its result, each driven by a thread of its
    own. Residues that one card has and another one needs go through the host: single ones that
    broadcast (once for each card, then they are kept), what `take` and `concat` put elsewhere, and
    what `prod` and `multi_pow` exchange. Those two either bring factors to the cards that have the
    results, or multiply on each card what it has and bring the partial products together; public
    sizes and indices decide, by the products that the busiest card makes.

    When a card fails, operations on its parts raise its `DeviceError`; parts on other cards are of
    no use alone. Constant time where the cards are: where residues go depends on lengths, and on
    the indices and offsets of `take` and `prod`, which are public.

    Args:
        cards: the cards, of any configurations; a batch takes as long as the slowest one's part.
        least: fewest elements that are worth another card; None: as many as keep the rings of each
            card full, since with fewer one card takes no longer.

    Raises:
        BackendError: there is no card, or one is named twice.
    """

    def __init__(self, cards: Sequence[Card], *, least: int | None = None) -> None:
        if not cards or len({id(card) for card in cards}) < len(cards):
            raise BackendError("several devices are at least one, and each of them is named once")
        if least is not None and least < 1:
            raise BackendError(f"a card takes at least one element, not {least}")
        self._cards = list(cards)
        self._least = least
        self._full: dict[int, int] = {}  # bits of a modulus -> elements that fill a card
        self._pool = ThreadPoolExecutor(len(cards), "residue-card")  # its threads end with it

    @property
    def name(self) -> str:
        """``cards``."""
        return "cards"

    def describe(self) -> dict[str, str | int | float | bool]:
        """How many cards there are, what they have together, and the state of each.

        Rings, memory and resets are summed; limits are those of the card with the lowest.
        """
        facts = [card.describe() for card in self._cards]
        total: dict[str, str | int | float | bool] = {
            "name": "cards",
            "device": ", ".join(str(fact["device"]) for fact in facts),
            "cards": len(facts),
        }
        total |= {key: sum(int(fact[key]) for fact in facts) for key in _SUMS}
        total |= {key: min(int(fact[key]) for fact in facts) for key in _LIMITS}
        for i, fact in enumerate(facts):
            state = "healthy" if fact["healthy"] else "not healthy"
            total[f"card_{i}"] = f"{fact['device']}, {fact['rings']} rings, {state}"
        return total | {"healthy": all(fact["healthy"] for fact in facts)}

    # ------------------------------------------------------------------------------------- arrays

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known to all cards. Raises `BackendError` if too large for one of them."""
        return self._each(lambda i: self._cards[i].register(modulus), self._all)[0]

    def upload(self, modulus: Modulus, values: Limbs) -> CardsArray:
        """Copy ``(n, modulus.limbs) uint64`` canonical residues to the cards."""
        check_residues(modulus, values)
        cuts = self._cuts(modulus, len(values))
        return self._make(
            modulus, cuts, lambda card, i: card.upload(modulus, values[cuts[i] : cuts[i + 1]])
        )

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""
        x = self._own(a)
        cards = range(len(x.parts))
        return np.concatenate(self._each(lambda i: self._cards[i].download(x.parts[i]), cards))

    def take(self, a: ResidueArray, index: Index) -> CardsArray:
        """Gather ``a[index[j]]``; what lies on another card than its place goes through the host.

        Nothing is copied where the index is a range of positive step within each part.
        """
        x = self._own(a)
        check_index(index, len(x))
        return self._gather(x.modulus, list(enumerate(x.parts)), index.astype(np.int64))

    def concat(self, parts: list[ResidueArray]) -> CardsArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        own = [self._own(part, parts[0].modulus) for part in parts]
        pieces = [piece for part in own for piece in enumerate(part.parts)]
        return self._gather(own[0].modulus, pieces, np.arange(sum(map(len, own))))

    # --------------------------------------------------------------------------------- arithmetic

    def mul(self, a: ResidueArray, b: ResidueArray) -> CardsArray:
        """Element-wise product; a length of one broadcasts. Constant time."""
        x = self._own(a)
        y = self._own(b, x.modulus)
        n = broadcast_length(len(x), len(y))
        cuts = self._cuts(x.modulus, n)
        xs, ys = (self._aligned(z, n, len(cuts) - 1) for z in (x, y))
        return self._make(x.modulus, cuts, lambda card, i: card.mul(xs[i], ys[i]))

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> CardsArray:
        """Element-wise powers. Constant time in residues and exponents."""
        x = self._own(a)
        check_exponents(exponents, bits, len(x))
        cuts = self._cuts(x.modulus, len(x))

        def powers(card: Card, i: int) -> ResidueArray:
            part = exponents if len(exponents) == 1 else exponents[cuts[i] : cuts[i + 1]]
            return card.pow(x.parts[i], part, bits)

        return self._make(x.modulus, cuts, powers)

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> CardsArray:
        """Powers of one base; each card builds a comb table. Constant time."""
        x = self._own(base)
        if len(x) != 1:
            raise BackendError(f"pow_fixed takes one base, not {len(x)}")
        check_exponents(exponents, bits)
        cuts = self._cuts(x.modulus, len(exponents))
        bases = self._aligned(x, len(exponents), len(cuts) - 1)
        return self._make(
            x.modulus, cuts,
            lambda card, i: card.pow_fixed(bases[i], exponents[cuts[i] : cuts[i + 1]], bits),
        )  # fmt: skip

    def prod(self, a: ResidueArray, index: Index, offsets: Index) -> CardsArray:
        """Gathered segmented product. Constant time in residues; index and offsets are public."""
        x = self._own(a)
        check_index(index, len(x))
        check_offsets(offsets, len(index))
        index = index.astype(np.int64)
        cuts = self._cuts(x.modulus, len(offsets) - 1)
        bounds = offsets[cuts]
        home = np.searchsorted(x.starts, index, side="right") - 1
        target = np.repeat(np.arange(len(cuts) - 1), np.diff(bounds))
        factors = self._per_card(home)
        apart = self._per_card(target) + self._moves(x, index, home, target)
        if apart.max() <= (factors + self._meetings(factors > 0, cuts)).max():
            return self._prod_by_results(x, index, offsets, cuts, home)

        def partial(i: int) -> ResidueArray:
            here = home == i
            shares = np.concatenate([[0], np.cumsum(here)])[offsets]
            return self._cards[i].prod(x.parts[i], index[here] - x.starts[i], shares)

        holders = np.flatnonzero(factors).tolist()
        partials = self._each(partial, holders)
        return self._meet(x.modulus, cuts, dict(zip(holders, partials, strict=True)))

    def _prod_by_results(
        self, x: CardsArray, index: Index, offsets: Index, cuts: list[int], home: Index
    ) -> CardsArray:
        """Each card multiplies the segments of its part of the results."""
        operands: list[ResidueArray | None] = []
        wanted, local = [], []
        for i in range(len(cuts) - 1):
            lo, hi = offsets[cuts[i]], offsets[cuts[i + 1]]
            if i < len(x.parts) and (home[lo:hi] == i).all():
                operands.append(x.parts[i])
                wanted.append(index[:0])
                local.append(index[lo:hi] - x.starts[i])
            else:
                operands.append(None)
                used, inverse = np.unique(index[lo:hi], return_inverse=True)
                wanted.append(used)
                local.append(inverse)
        brought = self._bring(x.modulus, list(enumerate(x.parts)), wanted)

        def segments(card: Card, i: int) -> ResidueArray:
            operand = operands[i]
            rows = offsets[cuts[i] : cuts[i + 1] + 1]
            return card.prod(brought[i] if operand is None else operand, local[i], rows - rows[0])

        return self._make(x.modulus, cuts, segments)

    def multi_pow(self, a: ResidueArray, exponents: Index, bits: int) -> CardsArray:
        """Simultaneous powers with short signed exponents; their values do not steer the cards."""
        return self._multi_pow(lambda card: card.multi_pow, a, exponents, bits, buckets=False)

    def multi_pow_var(self, a: ResidueArray, exponents: Index, bits: int) -> CardsArray:
        """`multi_pow`, by buckets where they take less time: addresses follow the exponents."""
        return self._multi_pow(lambda card: card.multi_pow_var, a, exponents, bits, buckets=True)

    def _multi_pow(
        self, method: Callable[[Card], Callable[[ResidueArray, Index, int], ResidueArray]],
        a: ResidueArray, exponents: Index, bits: int, *, buckets: bool,
    ) -> CardsArray:  # fmt: skip
        """By bases where they lie, or by results with all bases on each card."""
        x = self._own(a)
        check_short_exponents(exponents, bits, len(x))
        n, m = exponents.shape
        cuts = self._cuts(x.modulus, m)
        bases, results = self._padded(map(len, x.parts)), self._padded(np.diff(cuts))
        machine = self._cards[0].machine(x.modulus)

        def products(bases: int, outputs: int) -> int:
            """Of these bases' tables and of their entries, about."""
            if not bases or not outputs:
                return 0
            by_buckets, window = machine.multi_pow_plan(bases, outputs, bits + 1, buckets=buckets)
            return bases * (outputs * -(-(bits + 1) // window) + (not by_buckets) * (1 << window))

        takes = results > 0
        apart = takes * (n - bases) + (takes.sum() > takes) * bases
        apart += [products(n, int(outputs)) for outputs in results]
        together = self._meetings(bases > 0, cuts)
        together += [products(int(rows), m) for rows in bases]
        if not n or apart.max() <= together.max():
            every = [np.arange(n)] * (len(cuts) - 1)
            copies = self._bring(x.modulus, list(enumerate(x.parts)), every)
            return self._make(
                x.modulus, cuts,
                lambda card, i: method(card)(copies[i], exponents[:, cuts[i] : cuts[i + 1]], bits),
            )  # fmt: skip

        def partial(i: int) -> ResidueArray:
            rows = exponents[x.starts[i] : x.starts[i] + len(x.parts[i])]
            return method(self._cards[i])(x.parts[i], rows, bits)

        partials = self._each(partial, range(len(x.parts)))
        return self._meet(x.modulus, cuts, dict(enumerate(partials)))

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each. Constant time in residues and exponents."""
        check_pow_moduli(moduli, bases, exponents, bits)
        largest = max(moduli, key=lambda modulus: modulus.bits, default=None)
        cuts = self._cuts(largest, len(moduli)) if largest is not None else [0, 0]

        def powers(i: int) -> Limbs:
            lo, hi = cuts[i], cuts[i + 1]
            part = exponents if len(exponents) == 1 else exponents[lo:hi]
            return self._cards[i].pow_moduli(moduli[lo:hi], bases[lo:hi], part, bits)

        return np.concatenate(self._each(powers, range(len(cuts) - 1)))

    def inverse(self, a: ResidueArray) -> CardsArray:
        """Element-wise inverses; the host inverts one product of each card, in variable time."""
        x = self._own(a)
        cuts = self._cuts(x.modulus, len(x))
        return self._make(x.modulus, cuts, lambda card, i: card.inverse(x.parts[i]))

    # ------------------------------------------------------------------------------- housekeeping

    def wait(self, a: ResidueArray) -> None:
        """Return when `a` is computed; raise the error of a part that failed."""
        x = self._own(a)
        self._each(lambda i: x.parts[i].wait(), range(len(x.parts)))

    def synchronize(self) -> None:
        """Return when everything queued is done and sampled results are checked."""
        self._each(lambda i: self._cards[i].synchronize(), self._all)

    def self_test(self) -> None:
        """Let every card test itself. Raises the `DeviceError` of one that fails."""
        self._each(lambda i: self._cards[i].self_test(), self._all)

    def stats(self) -> dict[str, OperationStats]:
        """Sums over the cards; an operation is a call on each card that it ran on."""
        total: dict[str, OperationStats] = {}
        for card in self._cards:
            for name, stats in card.stats().items():
                total.setdefault(name, OperationStats()).add(stats)
        return total

    def reset_stats(self) -> None:
        """Start counting anew."""
        for card in self._cards:
            card.reset_stats()

    def clear_secrets(self) -> None:
        """Erase operands, exponents, tables and freed arrays on all cards."""
        self._each(lambda i: self._cards[i].clear_secrets(), self._all)

    def close(self) -> None:
        """Erase everything and leave all boards. Arrays become unusable."""
        self._each(lambda i: self._cards[i].close(), self._all)

    # ----------------------------------------------------------------------------- cards and parts

    @property
    def _all(self) -> range:
        return range(len(self._cards))

    def _each(self, work: Callable[[int], T], cards: Iterable[int]) -> list[T]:
        """``work(i)`` of these cards at the same time; when all are done, the first error."""
        numbers = list(cards)
        if len(numbers) == 1:
            return [work(numbers[0])]
        futures = [self._pool.submit(work, i) for i in numbers]
        try:
            wait(futures)
            return [future.result() for future in futures]
        finally:
            del futures  # an error's traceback must not keep arrays

    def _make(
        self, modulus: Modulus, cuts: list[int], compute: Callable[[Card, int], ResidueArray]
    ) -> CardsArray:
        """An array of the parts that ``compute(card, i)`` makes."""
        parts = self._each(lambda i: compute(self._cards[i], i), range(len(cuts) - 1))
        return CardsArray(self, modulus, parts)

    def _own(self, a: ResidueArray, modulus: Modulus | None = None) -> CardsArray:
        if not isinstance(a, CardsArray) or a.backend is not self:
            raise BackendError("the array lives on another backend; download and upload it")
        if modulus is not None and a.modulus != modulus:
            raise BackendError("the arrays have different moduli")
        return a

    def _cuts(self, modulus: Modulus, n: int) -> list[int]:
        """Where the parts of `n` elements begin, and the end of the last one."""
        if (full := self._full.get(modulus.bits)) is None:
            machines = [card.machine(modulus) for card in self._cards]
            full = self._least or max(machine.fill * machine.rings for machine in machines)
            self._full[modulus.bits] = full
        parts = min(len(self._cards), max(1, n // full))
        return [n * i // parts for i in range(parts + 1)]

    def _aligned(self, a: CardsArray, n: int, cards: int) -> Sequence[ResidueArray]:
        """Parts of `a` beside those of an array of `n`; if it has one element, that one on each."""
        if len(a) == n and len(a.parts) == cards:
            return a.parts
        missing = [i for i in range(1, cards) if i not in a.copies]
        if missing:
            value = self._cards[0].download(a.parts[0])

            def copy(i: int) -> ResidueArray:
                made = self._cards[i].upload(a.modulus, value)
                made.wait()  # one that failed is not kept
                return made

            a.copies |= zip(missing, self._each(copy, missing), strict=True)
        return [a.parts[0], *(a.copies[i] for i in range(1, cards))]

    # ----------------------------------------------------------------------------- between cards

    def _gather(
        self, modulus: Modulus, pieces: list[tuple[int, ResidueArray]], index: Index
    ) -> CardsArray:
        """Elements ``index[j]`` of `pieces` in a row, as an array."""
        cuts = self._cuts(modulus, len(index))
        wanted = [index[lo:hi] for lo, hi in pairwise(cuts)]
        return CardsArray(self, modulus, self._bring(modulus, pieces, wanted))

    def _bring(
        self, modulus: Modulus, pieces: list[tuple[int, ResidueArray]], wanted: list[Index]
    ) -> list[ResidueArray]:
        """Elements ``wanted[i]`` of `pieces`, which are pairs of a card and an array, on card i.

        Each element that another card has is downloaded once, and uploaded once a card.
        """
        home = np.array([card for card, _ in pieces])
        arrays = [array for _, array in pieces]
        starts = _starts(arrays)

        def find(index: Index) -> tuple[Index, Index]:
            """Which arrays elements are in, and their rows there."""
            which = np.searchsorted(starts, index, side="right") - 1
            return which, index - starts[which]

        places = [find(index) for index in wanted]
        aways = [home[which] != i for i, (which, _) in enumerate(places)]
        foreign = [np.unique(index[away]) for index, away in zip(wanted, aways, strict=True)]
        moved = np.unique(np.concatenate(foreign))
        which, row = find(moved)
        values = np.zeros((len(moved), modulus.limbs), np.uint64)

        def send(i: int) -> None:
            at = np.flatnonzero(home[which] == i)
            picked = _pick(self._cards[i], modulus, arrays, which[at], row[at])
            values[at] = self._cards[i].download(picked)

        self._each(send, np.unique(home[which]).tolist())

        def assemble(i: int) -> ResidueArray:
            card, own = self._cards[i], arrays
            (which, row), away = places[i], aways[i]
            if away.any():
                arrived = values[np.searchsorted(moved, foreign[i])]
                own = [*arrays, card.upload(modulus, arrived)]
                which, row = np.where(away, len(arrays), which), row.copy()
                row[away] = np.searchsorted(foreign[i], wanted[i][away])
            return _pick(card, modulus, own, which, row)

        return self._each(assemble, range(len(wanted)))

    def _meet(
        self, modulus: Modulus, cuts: list[int], partials: dict[int, ResidueArray]
    ) -> CardsArray:
        """Products of what each card in `partials` has for every result."""
        targets = range(len(cuts) - 1)
        rows = [np.arange(cuts[i], cuts[i + 1]) for i in targets]

        def send(s: int) -> dict[int, Limbs]:
            card = self._cards[s]
            return {
                i: card.download(card.take(partials[s], rows[i])) for i in targets if i != s
            }  # fmt: skip

        sent = self._each(send, partials)

        def multiply(card: Card, i: int) -> ResidueArray:
            factors = [card.take(partials[i], rows[i])] if i in partials else []
            factors += [card.upload(modulus, values[i]) for values in sent if i in values]
            return reduce(card.mul, factors)

        return self._make(modulus, cuts, multiply)

    # ------------------------------------------------------------ costs, in products of every card

    def _per_card(self, cards: Index) -> Index:
        """How often each card occurs."""
        return np.bincount(cards, minlength=len(self._cards))

    def _padded(self, counts: Iterable[int]) -> Index:
        """Counts of the first cards, and 0 for the others."""
        first = [int(count) for count in counts]
        return np.array(first + [0] * (len(self._cards) - len(first)))

    def _moves(self, x: CardsArray, index: Index, home: Index, target: Index) -> Index:
        """Conversions, of a product each, to bring factors to the cards of their segments."""
        away = home != target
        cards = len(self._cards)
        pairs = np.unique(index[away] * cards + target[away])
        sent = np.searchsorted(x.starts, np.unique(pairs // cards), side="right") - 1
        return self._per_card(sent) + self._per_card(pairs % cards)

    def _meetings(self, holders: NDArray[np.bool_], cuts: list[int]) -> Index:
        """The same, and the products, for partial products of `holders` to meet."""
        sizes = self._padded(np.diff(cuts))
        others = holders.sum() - holders
        costs: Index = holders * (cuts[-1] - sizes) + 2 * others * sizes
        return costs


def _starts(arrays: Sequence[ResidueArray]) -> Index:
    lengths = np.array([len(array) for array in arrays], np.int64)
    starts: Index = np.cumsum(lengths) - lengths
    return starts


def _pick(
    card: Card, modulus: Modulus, arrays: Sequence[ResidueArray], which: Index, row: Index
) -> ResidueArray:
    """``arrays[which[j]][row[j]]`` for all j, all of them on one card."""
    if not len(which):
        return card.upload(modulus, np.zeros((0, modulus.limbs), np.uint64))
    order = np.argsort(which, kind="stable")
    chosen, first = np.unique(which[order], return_index=True)
    groups = np.split(order, first)[1:]
    taken = [card.take(arrays[w], row[at]) for w, at in zip(chosen, groups, strict=True)]
    return taken[0] if len(taken) == 1 else card.take(card.concat([*taken]), np.argsort(order))
