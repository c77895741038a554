"""The CPU backend: residues as GMP integers, batches spread over the machine's cores."""

from __future__ import annotations

import os
import platform
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends import _cpu_kernels as kernels
from residue.backends._counted import Counted
from residue.backends._cpu_pool import Task, WorkerPool
from residue.backends._protocol import Limbs, Modulus, ResidueArray
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
from residue.errors import BackendError

__all__ = ["CpuArray", "CpuBackend"]


class CpuArray:
    """Residues as GMP integers; immutable, canonical, always complete."""

    __slots__ = ("_modulus", "_values")

    def __init__(self, modulus: Modulus, values: list[mpz]) -> None:
        self._modulus = modulus
        self._values = values

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    def __len__(self) -> int:
        return len(self._values)

    def wait(self) -> None:
        """Return at once: operations of this backend are synchronous."""


class CpuBackend(Counted):
    """`Backend` on gmpy2.

    `pow` uses GMP's constant-time power. `pow_fixed` and `multi_pow` make a number of products
    that depends on public sizes alone, but their tables are indexed by exponent digits, which a
    cache-observing process on the same machine can see; `inverse` is variable-time in its operand.

    Small batches run in the calling thread. Large ones are spread over `workers` cores: powers
    over threads (GMP releases the interpreter lock for them), products over worker processes.

    Args:
        workers: cores to use; by default ``RESIDUE_CPU_WORKERS``, else all that this process may
            run on.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        if workers is None:
            workers = _default_workers()
        if workers < 1:
            raise BackendError(f"workers must be at least 1, not {workers}")
        super().__init__()
        self._workers = workers
        self._pool = WorkerPool(workers)
        self._tables = kernels.CombCache()
        self._comb_uses: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._work_seen = 0.0  # estimated seconds
        self._closed = False
        _backends.add(self)

    @property
    def name(self) -> str:
        """``cpu``."""
        return "cpu"

    def describe(self) -> dict[str, str | int | float | bool]:
        """Processor, cores in use and GMP version."""
        return {
            "name": "cpu",
            "device": _processor(),
            "cores": self._workers,
            "library": f"{gmpy2.mp_version()}, gmpy2 {gmpy2.version()}",
            "healthy": not self._closed,
        }

    # --- arrays ---------------------------------------------------------------------------------

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. Raises `BackendError` if even or below 2**64."""
        check_modulus(modulus)
        return Modulus(int(modulus))

    def upload(self, modulus: Modulus, values: Limbs) -> CpuArray:
        """Take ``(n, modulus.limbs) uint64`` canonical residues."""
        check_residues(modulus, values)
        return CpuArray(modulus, from_limbs(values))

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``."""
        return to_limbs(self._own(a)._values, a.modulus.limbs)

    def take(self, a: ResidueArray, index: NDArray[np.int64]) -> CpuArray:
        """Gather ``a[index[j]]``."""
        values = self._own(a)._values
        check_index(index, len(values))
        return CpuArray(a.modulus, [values[i] for i in index.tolist()])

    def concat(self, parts: list[ResidueArray]) -> CpuArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        modulus = parts[0].modulus
        values: list[mpz] = []
        for part in parts:
            values += self._own(part, modulus)._values
        return CpuArray(modulus, values)

    # --- arithmetic -----------------------------------------------------------------------------

    def mul(self, a: ResidueArray, b: ResidueArray) -> CpuArray:
        """Element-wise product; a length of one broadcasts."""
        x, y = self._own(a)._values, self._own(b, a.modulus)._values
        length = broadcast_length(len(x), len(y))
        if len(x) != len(y):
            x, y = (x, y * length) if len(y) == 1 else (x * length, y)
        n = mpz(a.modulus.value)
        with self._count("mul", a.modulus, length, length):
            return CpuArray(a.modulus, [u * v % n for u, v in zip(x, y, strict=True)])

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> CpuArray:
        """Element-wise powers, constant time in the exponent."""
        return self._pow("pow", kernels.pow_sec, a, exponents, bits)

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> CpuArray:
        """`pow` by sliding windows: faster, its time depends on the exponents."""
        return self._pow("pow_var", kernels.pow_var, a, exponents, bits)

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> CpuArray:
        """Powers of one base by a comb table that grows with its use."""
        if len(base) != 1:
            raise BackendError(f"pow_fixed takes one base, not {len(base)}")
        (value,) = self._own(base)._values
        check_exponents(exponents, bits)
        n, modulus = len(exponents), mpz(base.modulus.value)
        window = self._comb_window(int(modulus), int(value), bits, n)
        products = n * (-(-bits // window) - 1)
        with self._count("pow_fixed", base.modulus, n, products):
            shares = self._shares(n, products, base.modulus)
            if shares == 1:
                with self._lock:
                    table = self._tables.get(modulus, value, bits, window)
                return CpuArray(base.modulus, kernels.pow_fixed_var(table, exponents))
            return self._spread(
                base.modulus,
                [
                    ("pow_fixed", int(modulus), (int(value), bits, window, part))
                    for part in np.array_split(exponents, shares)
                ],
            )

    def prod(
        self, a: ResidueArray, index: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> CpuArray:
        """Gathered segmented product."""
        values = self._own(a)._values
        check_index(index, len(values))
        check_offsets(offsets, len(index))
        with self._count("prod", a.modulus, len(offsets) - 1, len(index)):
            # A product costs little more than the two conversions of its operand.
            reuse = len(index) // max(1, len(values))
            shares = self._shares(len(offsets) - 1, len(index), a.modulus) if reuse > 3 else 1
            if shares == 1:
                flat, cuts = index.tolist(), offsets.tolist()
                segments = [flat[i:j] for i, j in pairwise(cuts)]
                return CpuArray(a.modulus, kernels.prod(mpz(a.modulus.value), values, segments))
            limbs = to_limbs(values, a.modulus.limbs)
            wanted = np.linspace(0, len(index), shares + 1)
            cuts = np.searchsorted(offsets, wanted).tolist()
            cuts[0], cuts[-1] = 0, len(offsets) - 1
            tasks: list[Task] = []
            for lo, hi in pairwise(cuts):
                start, stop = int(offsets[lo]), int(offsets[hi])
                used, local = np.unique(index[start:stop], return_inverse=True)
                arguments = (limbs[used], local.astype(np.int64), offsets[lo : hi + 1] - start)
                tasks.append(("prod", a.modulus.value, arguments))
            return self._spread(a.modulus, tasks)

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each, constant time in the exponent."""
        if self._closed:
            raise BackendError("this CPU backend is closed")
        check_pow_moduli(moduli, bases, exponents, bits)
        n = len(moduli)
        values, e = from_limbs(bases), from_limbs(exponents)
        e = e * n if len(e) == 1 else e
        products = n * (bits + bits // 4)
        largest = max(moduli, key=lambda m: m.bits, default=None)
        with self._count("pow_moduli", largest, n, products):
            shares = self._shares(n, products, largest, threads=True) if largest else 1
            with ThreadPoolExecutor(shares) as threads:
                powers = threads.map(
                    lambda m, x, y: kernels.pow_sec(mpz(m.value), [x], [y])[0], moduli, values, e
                )
                return to_limbs(list(powers), bases.shape[1])

    def multi_pow_var(self, a: ResidueArray, exponents: NDArray[np.int64], bits: int) -> CpuArray:
        """`multi_pow`, which on this backend is by buckets where they take fewer products."""
        return self.multi_pow(a, exponents, bits)

    def multi_pow(self, a: ResidueArray, exponents: NDArray[np.int64], bits: int) -> CpuArray:
        """Simultaneous powers with short signed exponents."""
        values = self._own(a)._values
        check_short_exponents(exponents, bits, len(values))
        n, m = exponents.shape
        _, _, products = kernels.multi_pow_plan(min(n, 1024), m, bits + 1)
        products *= -(-n // 1024)
        with self._count("multi_pow", a.modulus, m, products):
            shares = self._shares(n // 16, products, a.modulus)
            try:
                if shares == 1:
                    modulus = mpz(a.modulus.value)
                    return CpuArray(
                        a.modulus, kernels.multi_pow_var(modulus, values, exponents, bits)
                    )
                limbs = to_limbs(values, a.modulus.limbs)
                pairs = zip(
                    np.array_split(limbs, shares), np.array_split(exponents, shares), strict=True
                )
                partial = self._spread(
                    a.modulus, [("multi_pow", a.modulus.value, (x, e, bits)) for x, e in pairs]
                )
            except ZeroDivisionError as error:
                raise BackendError("a base with a negative exponent has no inverse") from error
        whole = np.arange(shares * m, dtype=np.int64).reshape(shares, m).T.ravel()
        return self.prod(partial, whole, np.arange(m + 1, dtype=np.int64) * shares)

    def inverse(self, a: ResidueArray) -> CpuArray:
        """Element-wise inverses by Montgomery's trick."""
        values = self._own(a)._values
        with self._count("inverse", a.modulus, len(values), 3 * len(values)):
            try:
                return CpuArray(a.modulus, kernels.inverse_var(mpz(a.modulus.value), values))
            except ZeroDivisionError as error:
                raise BackendError("a residue has no inverse modulo its modulus") from error

    # --- housekeeping ---------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Return at once: operations of this backend are synchronous."""

    def clear_secrets(self) -> None:
        """Forget comb tables and end the worker processes.

        Python frees integers without erasing them; this backend cannot promise more.
        """
        with self._lock:
            self._tables.clear()
        self._pool.close()

    def close(self) -> None:
        """End the worker processes; operations raise `BackendError` from now on."""
        self._closed = True
        self.clear_secrets()

    # --- private --------------------------------------------------------------------------------

    def _own(self, a: ResidueArray, modulus: Modulus | None = None) -> CpuArray:
        if self._closed:
            raise BackendError("this CPU backend is closed")
        if not isinstance(a, CpuArray):
            raise BackendError("the array lives on another backend; download and upload it")
        if modulus is not None and a.modulus != modulus:
            raise BackendError("the arrays have different moduli")
        return a

    def _pow(
        self, operation: str, kernel: Any, a: ResidueArray, exponents: Limbs, bits: int
    ) -> CpuArray:
        values = self._own(a)._values
        check_exponents(exponents, bits, len(values))
        modulus, e = mpz(a.modulus.value), from_limbs(exponents)
        products = len(values) * (bits + bits // 4)
        with self._count(operation, a.modulus, len(values), products):
            shares = self._shares(len(values), products, a.modulus, threads=True)
            if shares == 1:
                return CpuArray(a.modulus, kernel(modulus, values, e))
            step = -(-len(values) // shares)
            starts = range(0, len(values), step)
            with ThreadPoolExecutor(shares) as threads:
                parts = threads.map(
                    lambda i: kernel(
                        modulus, values[i : i + step], e if len(e) == 1 else e[i : i + step]
                    ),
                    starts,
                )
                return CpuArray(a.modulus, [v for part in parts for v in part])

    def _comb_window(
        self, modulus: int, base: int, bits: int, elements: int,
        largest: int = kernels.MAX_COMB_WINDOW,
    ) -> int:  # fmt: skip
        """Window for this base: planned for twice its use so far, again when that is outgrown."""
        key = (modulus, base, bits)
        with self._lock:
            used, planned = self._comb_uses.get(key, (0, 0))
            used += elements
            if used > planned:
                planned = 2 * used
            self._comb_uses[key] = (used, planned)
        return kernels.comb_window(bits, planned, largest)

    def _shares(self, parts: int, products: int, modulus: Modulus, *, threads: bool = False) -> int:
        """Among how many cores to spread an operation: one where starting others costs more."""
        seconds = products * 2.5e-6 * (modulus.bits / 2048) ** 1.6
        if threads:
            worth = seconds > 0.005
        else:  # worker processes: start them once the work seen so far would have paid for it
            self._work_seen += seconds
            worth = seconds > 0.02 and (self._pool.started or self._work_seen > 0.5)
        return max(1, min(self._workers, parts)) if worth else 1

    def _spread(self, modulus: Modulus, tasks: list[Task]) -> CpuArray:
        return CpuArray(modulus, [v for part in self._pool.map(tasks) for v in from_limbs(part)])

    def _forget(self) -> None:
        """In a forked child: the parent's lock may have been held."""
        self._lock = threading.RLock()


_backends: weakref.WeakSet[CpuBackend] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for backend in list(_backends):
        backend._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _default_workers() -> int:
    text = os.environ.get("RESIDUE_CPU_WORKERS", "")
    if text and not (text.isdecimal() and int(text)):
        raise BackendError(f"RESIDUE_CPU_WORKERS must be a positive integer, not {text!r}")
    return int(text) if text else len(os.sched_getaffinity(0))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
