"""The card backend: what users of the narrow waist call."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends._card_arrays import CardArray, Index
from residue.backends._card_checks import (
    multi_pow_identity,
    multi_pow_sec,
    pow_fixed_identity,
    pow_identity,
    pow_products,
    prod_identity,
    product,
)
from residue.backends._card_commands import CardCommands
from residue.backends._cpu_kernels import inverse_var, pow_sec
from residue.backends._protocol import Limbs, Modulus, OperationStats, ResidueArray
from residue.backends._validate import (
    broadcast_length,
    check_exponents,
    check_index,
    check_modulus,
    check_offsets,
    check_pow_moduli,
    check_residues,
    check_short_exponents,
)
from residue.card._abi import Opcode
from residue.card._device import Card
from residue.card._memory import DeviceMemoryError
from residue.card._port import Port
from residue.card._queue import Task
from residue.card._records import CommandRecord
from residue.errors import BackendError, CorruptResult, DeviceError

__all__ = ["CardArray", "CardBackend"]


class CardBackend(CardCommands):
    """`Backend` on one card.

    Operations are queued and return at once; small ones wait for company. Arrays stay in the
    card's memory; what does not fit is kept on the host, and batches larger than the memory are
    computed in parts. The cycle count of every operation depends on public sizes alone; apart from
    that, the host inverts one product in `inverse` and in `multi_pow`, in variable time.

    Args:
        port: the board.
        check_rate: fraction of results that the host recomputes before any result is released.
        timeout: seconds without any sign of life after which the card is reset, and given up when
            that does not help.
        slack: how many times the cycles that it should take by its sizes a command may take before
            the card is reset, though it shows signs of life; at least 1.
        queue_size: descriptors in the command queue, a power of two, 2 .. 1024.
        staging_bytes: most bytes that one transfer carries; a multiple of 4096.
        arena_bytes: size of the pieces in which memory for arrays is taken from the board.
        memory_limit: most bytes to take for arrays; None: as much as the board has.

    Raises:
        DeviceError: there is no card behind the port, or it does not answer.
    """

    def __init__(
        self,
        port: Port,
        *,
        check_rate: float = 1e-3,
        timeout: float = 10.0,
        slack: float = 16.0,
        queue_size: int = 64,
        staging_bytes: int = 2 << 20,
        arena_bytes: int = 16 << 20,
        memory_limit: int | None = None,
    ) -> None:
        if not 0 <= check_rate <= 1:
            raise BackendError(f"check_rate is a fraction between 0 and 1, not {check_rate}")
        if slack < 1:
            raise BackendError(f"slack is a factor of at least 1, not {slack}")
        card = Card(
            port,
            timeout=timeout,
            slack=slack,
            queue_size=queue_size,
            staging_bytes=staging_bytes,
            arena_bytes=arena_bytes,
            memory_limit=memory_limit,
        )
        super().__init__(card, check_rate)

    @property
    def name(self) -> str:
        """``card``."""
        return "card"

    def describe(self) -> dict[str, str | int | float | bool]:
        """The card's configuration, the state of its memory, whether it is healthy."""
        with self._lock:
            card = self._card
            return {
                "name": "card",
                "device": card.port.name,
                **asdict(card.capabilities),
                "memory_bytes": card.memory.reserved,
                "memory_free_bytes": card.memory.free,
                "memory_largest_free_bytes": card.memory.largest_free,
                "check_rate": self._check_rate,
                "resets": card.queue.resets,
                "healthy": not self._closed and card.queue.error is None,
            }

    def records(self) -> list[CommandRecord]:
        """What the last commands (16,384 at most) did on the card, oldest first.

        Commands still in the queue are not among them: `synchronize` first.
        """
        with self._lock:
            return list(self._card.queue.records)

    def counters(self) -> dict[str, int]:
        """The card's own counters since its last reset: cycles, busy slots, products, bytes, ..."""
        with self._guard():
            return self._card.counters()

    # ------------------------------------------------------------------------------------- arrays

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. Raises `BackendError` if even, < 2**64 or too large."""
        check_modulus(modulus)
        with self._guard():
            self._card.modulus(int(modulus))
        return Modulus(int(modulus))

    def upload(self, modulus: Modulus, values: Limbs) -> CardArray:
        """Copy ``(n, modulus.limbs) uint64`` canonical residues to the card."""
        check_residues(modulus, values)
        with self._operation("upload", modulus, len(values)) as task:
            try:
                array = self._upload(task, modulus, values)
            except DeviceMemoryError:
                return self._on_host(modulus, values.copy())
            if (picked := self._sample(len(values))) is not None:
                wanted = from_limbs(values[picked])
                self._check("upload", array, picked, [], lambda: wanted, 0)
            return array

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""
        x = self._own(a)
        with self._operation("download", x.modulus, len(x), x) as task:
            values = self._hand_over(task, x)
            self._verify()
            return values if x.host is None else values.copy()

    def take(self, a: ResidueArray, index: Index) -> CardArray:
        """Gather ``a[index[j]]``; without any copy where the index is a range of positive step."""
        x = self._own(a)
        check_index(index, len(x))
        with self._operation("take", x.modulus, len(index), x) as task:
            return self._split(
                len(index), x.modulus, lambda lo, hi: self._take(task, x, index[lo:hi])
            )

    def concat(self, parts: list[ResidueArray]) -> CardArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        own = [self._own(part, parts[0].modulus) for part in parts]
        modulus = own[0].modulus
        with self._operation("concat", modulus, sum(map(len, own)), *own) as task:
            try:
                return self._concat(task, own)
            except DeviceMemoryError:
                values = [self._hand_over(task, part) for part in own]
                return self._on_host(modulus, np.concatenate(values))

    # --------------------------------------------------------------------------------- arithmetic

    def mul(self, a: ResidueArray, b: ResidueArray) -> CardArray:
        """Element-wise product; a length of one broadcasts. Constant time."""
        x = self._own(a)
        y = self._own(b, x.modulus)
        n = broadcast_length(len(x), len(y))
        modulus = mpz(x.modulus.value)
        with self._operation("mul", x.modulus, n, x, y) as task:
            result = self._split(
                n, x.modulus,
                lambda lo, hi: self._mul(
                    task, self._rows(task, x, lo, hi), self._rows(task, y, lo, hi)
                ),
            )  # fmt: skip
            if (picked := self._sample(n)) is not None:
                self._check(
                    "mul", result, picked,
                    [(a, picked if len(a) == n else 0 * picked) for a in (x, y)],
                    lambda us, vs: [u * v % modulus for u, v in zip(us, vs, strict=True)], 1,
                )  # fmt: skip
            return result

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> CardArray:
        """Element-wise powers. Constant time in residues and exponents."""
        x = self._own(a)
        check_exponents(exponents, bits, len(x))
        modulus = mpz(x.modulus.value)
        shared = from_limbs(exponents)[0] if len(exponents) == 1 else None
        if shared is not None:
            exponents = np.broadcast_to(exponents, (len(x), exponents.shape[1]))
        with self._operation("pow", x.modulus, len(x), x) as task:
            result = self._split(
                len(x), x.modulus,
                lambda lo, hi: self._pow(
                    task, self._rows(task, x, lo, hi), exponents[lo:hi], bits
                ),
            )  # fmt: skip
            if (picked := self._sample(len(x))) is not None:
                chosen = from_limbs(exponents[picked])
                self._check(
                    "pow", result, picked, [(x, picked)],
                    lambda us: pow_sec(modulus, us, chosen), pow_products(bits),
                    pow_identity(x, shared, bits, modulus) if shared is not None else None,
                )  # fmt: skip
            return result

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> CardArray:
        """Powers of one base by a comb table, kept while `base` lives. Constant time."""
        x = self._own(base)
        if len(x) != 1:
            raise BackendError(f"pow_fixed takes one base, not {len(x)}")
        check_exponents(exponents, bits)
        n = len(exponents)
        modulus = mpz(x.modulus.value)
        with self._operation("pow_fixed", x.modulus, n, x) as task:
            if n == 0:
                return self._empty(x.modulus)
            try:
                with self._pins():
                    comb = self._comb(task, x, bits, n)
            except DeviceMemoryError:
                comb = None
            result = self._split(
                n, x.modulus,
                lambda lo, hi: self._pow_fixed(task, x, comb, exponents[lo:hi], bits),
            )  # fmt: skip
            if (picked := self._sample(n)) is not None:
                chosen = from_limbs(exponents[picked])
                self._check(
                    "pow_fixed", result, picked, [(x, 0 * picked)],
                    lambda us: pow_sec(modulus, us, chosen), pow_products(bits),
                    pow_fixed_identity(x, exponents, bits, modulus),
                )  # fmt: skip
            return result

    def prod(self, a: ResidueArray, index: Index, offsets: Index) -> CardArray:
        """Gathered segmented product. Constant time in residues; index and offsets are public."""
        x = self._own(a)
        check_index(index, len(x))
        check_offsets(offsets, len(index))
        n = len(offsets) - 1
        modulus = mpz(x.modulus.value)
        with self._operation("prod", x.modulus, n, x) as task:
            if n == 0:
                return self._empty(x.modulus)
            result = self._prod_parts(task, x, index, offsets)
            if (picked := self._sample(n)) is not None:
                self._check(
                    "prod", result, picked,
                    [(x, index[offsets[s] : offsets[s + 1]]) for s in picked],
                    lambda *segments: [product(factors, modulus) for factors in segments],
                    -(-int(np.diff(offsets)[picked].sum()) // len(picked)),
                    prod_identity(x, index, offsets, modulus),
                )  # fmt: skip
            return result

    def multi_pow(self, a: ResidueArray, exponents: Index, bits: int) -> CardArray:
        """Simultaneous powers with short signed exponents; their values do not steer the card.

        Which bases are not invertible and have a negative exponent, if any, is not hidden.
        """
        return self._multi_pow_checked("multi_pow", a, exponents, bits, buckets=False)

    def multi_pow_var(self, a: ResidueArray, exponents: Index, bits: int) -> CardArray:
        """`multi_pow`, by buckets where they take less time: addresses follow the exponents."""
        return self._multi_pow_checked("multi_pow_var", a, exponents, bits, buckets=True)

    def _multi_pow_checked(
        self, name: str, a: ResidueArray, exponents: Index, bits: int, *, buckets: bool
    ) -> CardArray:
        x = self._own(a)
        check_short_exponents(exponents, bits, len(x))
        n, m = exponents.shape
        modulus = mpz(x.modulus.value)
        with self._operation(name, x.modulus, m, x) as task:
            if m == 0:
                return self._empty(x.modulus)
            result = self._multi_pow_parts(task, x, exponents, bits, buckets=buckets)
            if (picked := self._sample(m)) is not None:
                columns = exponents[:, picked].T.tolist()
                self._check(
                    name, result, picked, [(x, np.arange(n))],
                    lambda us: [multi_pow_sec(modulus, us, column, bits) for column in columns],
                    n * pow_products(bits + 1),
                    multi_pow_identity(x, exponents, bits, modulus),
                )  # fmt: skip
            return result

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each. Constant time in residues and exponents.

        Moduli of one size share commands; others follow one another.
        """
        check_pow_moduli(moduli, bases, exponents, bits)
        n, limbs = bases.shape
        exponents = np.broadcast_to(exponents, (n, exponents.shape[1]))
        result = np.zeros((n, limbs), np.uint64)
        values = [modulus.value for modulus in moduli]
        if bits > self._card.capabilities.max_exponent_bits:
            for modulus in set(moduli):
                same = np.array([i for i, m in enumerate(moduli) if m == modulus])
                array = self.upload(self.register(modulus.value), bases[same, : modulus.limbs])
                powers = self.pow(array, exponents[same], bits)
                result[same, : modulus.limbs] = self.download(powers)
            return result
        with self._operation("pow_moduli", None, n) as task:
            size = {m.value: self._card.checked_layout(m.value).digits for m in set(moduli)}
            order = sorted(range(n), key=lambda i: (size[values[i]], values[i]))
            while order:
                most = self._moduli_rows(values[order[0]], bits)
                rows = [i for i in order[:most] if size[values[i]] == size[values[order[0]]]]
                del order[: len(rows)]
                with self._pins():
                    result[rows] = self._pow_moduli(
                        task, [values[i] for i in rows], bases[rows], exponents[rows], bits
                    )
            self._check_pow_moduli(values, bases, exponents, bits, result)
        return result

    def _check_pow_moduli(
        self, moduli: list[int], bases: Limbs, exponents: Limbs, bits: int, result: Limbs
    ) -> None:
        results = from_limbs(result)
        picked = self._sample(len(moduli))
        chosen = picked.tolist() if picked is not None else []
        start = time.perf_counter()
        right = all(r < m for r, m in zip(results, moduli, strict=True)) and all(
            pow_sec(mpz(moduli[i]), from_limbs(bases[i : i + 1]), from_limbs(exponents[i : i + 1]))
            == [results[i]]
            for i in chosen
        )
        if chosen:
            stats = self._stats.setdefault("check", OperationStats())
            stats.calls += 1
            stats.elements += len(chosen)
            stats.host_products += len(chosen) * pow_products(bits)
            stats.host_seconds += time.perf_counter() - start
        if not right:
            self._retire(CorruptResult("the card computed a wrong result in pow_moduli"))

    def inverse(self, a: ResidueArray) -> CardArray:
        """Element-wise inverses: a product tree on the card, one inversion on the host.

        Variable time in the product of all elements. Raises `BackendError` if one has no inverse.
        """
        x = self._own(a)
        modulus = mpz(x.modulus.value)
        with self._operation("inverse", x.modulus, len(x), x) as task:
            try:
                result = self._split(
                    len(x), x.modulus,
                    lambda lo, hi: self._inverse(task, self._rows(task, x, lo, hi)),
                )  # fmt: skip
            except ZeroDivisionError:
                self._refuse_inverses(task, x, "a residue has no inverse modulo its modulus")
            if (picked := self._sample(len(x))) is not None:
                self._check(
                    "inverse", result, picked, [(x, picked)],
                    lambda us: inverse_var(modulus, us), 3,
                )  # fmt: skip
            return result

    # ------------------------------------------------------------------------------- housekeeping

    def synchronize(self) -> None:
        """Return when everything queued is done and sampled results are checked."""
        with self._guard():
            self._card.wait_number(self._card.queue.submitted)
            self._verify()

    def self_test(self) -> None:
        """Let the card test itself, and compare powers and products with the host's.

        Raises:
            DeviceError: the card fails, or computes something else than the host.
        """
        value = (1 << self._card.capabilities.max_modulus_bits) - 1
        modulus = self.register(value)
        with self._operation("self_test", modulus, 1) as task:
            self._issue(task, Opcode.SELFTEST, modulus, length=16)
            self._card.wait(task)
        xs = [0, 1, value - 1, *(int.from_bytes(self._random.bytes(32)) for _ in range(5))]
        es = [0, 1, 0xFFFF, *self._random.integers(1 << 16, size=5).tolist()]
        a = self.upload(modulus, to_limbs([mpz(x) for x in xs], modulus.limbs))
        power = self.pow(a, np.array(es, np.uint64).reshape(-1, 1), 16)
        expected = [pow(x, e, value) for x, e in zip(xs, es, strict=True)]
        expected += [x * x % value for x in xs]
        if from_limbs(self.download(self.concat([power, self.mul(a, a)]))) != expected:
            self._retire(CorruptResult("the card computed something else than its self-test wants"))

    def clear_secrets(self) -> None:
        """Erase operands, exponents, tables and freed arrays from card and transfer memory."""
        with self._guard():
            self._clear_card()
            self._card.wipe()

    def close(self) -> None:
        """Erase everything, give the memory back and leave the board. Arrays become unusable."""
        with self._lock:
            if self._closed:
                return
            with contextlib.suppress(DeviceError), self._guard():
                self._clear_card()
            self._closed = True
            self._checks.clear()
            with contextlib.suppress(DeviceError):
                self._card.wipe(arrays=True)
            with contextlib.suppress(DeviceError):
                self._card.close()

    def _clear_card(self) -> None:
        self.synchronize()
        self._combs.clear()
        task = Task("clear_secrets", OperationStats())
        self._card.issue(task, Opcode.CLEAR, None)
        self._card.wait(task)
