"""The backend `auto`: a healthy card while there is one, else the CPU."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue.backends._protocol import (
    Backend,
    Limbs,
    Modulus,
    OperationStats,
    ResidueArray,
    SupportsMultiPowVar,
    SupportsPowModuli,
    SupportsPowVar,
)
from residue.backends._rows import multi_pow_rows
from residue.backends._squares import (
    binomial_limbs,
    binomials,
    logarithm_limbs,
    logarithms,
    reduce,
    uploaded,
)
from residue.backends._validate import check_numbers
from residue.card._memory import DeviceMemoryError
from residue.errors import BackendError, CorruptResult, DeviceError

__all__ = ["AutoArray", "AutoBackend", "DeviceFallbackWarning"]

_log = logging.getLogger(__name__)

_DEEPEST = 64
_LONGEST_REST = 3600.0

Compute = Callable[..., ResidueArray]


class DeviceFallbackWarning(UserWarning):
    """A card is not used, or not used any more; the CPU does its work."""


@dataclass(eq=False)
class _Origin:
    """Where an array on the card comes from, so that another machine can make it again.

    Attributes:
        modulus: the array's modulus.
        host: its residues, once the host has them.
        compute: what makes it from `inputs` on a backend; None once the host has the residues.
        inputs: origins of the operands.
        depth: operations between it and residues that the host has.
    """

    modulus: Modulus
    host: Limbs | None = None
    compute: Compute | None = None
    inputs: tuple[_Origin, ...] = ()
    depth: int = 0

    def settle(self, host: Limbs) -> None:
        """The host has the residues: forget how they were made, exponents included."""
        self.host, self.compute, self.inputs, self.depth = host, None, (), 0


class AutoArray:
    """Residues on the machine that `AutoBackend` uses."""

    __slots__ = ("__weakref__", "_backend", "inner", "machine", "origin")

    def __init__(
        self, backend: AutoBackend, machine: Backend, inner: ResidueArray, origin: _Origin | None
    ) -> None:
        self._backend = backend
        self.machine = machine
        self.inner = inner
        self.origin = origin

    @property
    def backend(self) -> AutoBackend:
        """The backend that holds the array."""
        return self._backend

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self.inner.modulus

    def __len__(self) -> int:
        return len(self.inner)

    def wait(self) -> None:
        """Return when the array is computed, if need be by the CPU."""
        self._backend.wait(self)


class AutoBackend:
    """`Backend` that takes a card, and the CPU for what the card cannot do or when it fails.

    Every array on the card remembers the operations and operands that lead to it, back to residues
    that the host has. When the card fails, in whatever operation, all arrays in use are computed
    again on the CPU and work goes on there: nothing is lost, and a `DeviceFallbackWarning` says so.
    What an array remembers may hold secret exponents; it goes once the array has been downloaded.

    After a rest the card is opened again, at the next operation. It has to pass its self-test, and
    the rest doubles each time, up to an hour. A card that gave a wrong result is not used again.

    Args:
        cpu: the backend to fall back on.
        open_card: opens a card and has it test itself; None: there is none.
        rest: seconds after which a card that failed is tried again; None: never.
    """

    def __init__(
        self,
        cpu: Backend,
        open_card: Callable[[], Backend] | None,
        *,
        rest: float | None = 60.0,
    ) -> None:
        self._cpu = cpu
        self._open_card = open_card
        self._rest = rest
        self._retry_at: float | None = None
        self._card: Backend | None = None
        self._known: set[Modulus] = set()
        self._on_card: set[Modulus] = set()
        self._arrays: weakref.WeakSet[AutoArray] = weakref.WeakSet()
        self._lost_stats: dict[str, OperationStats] = {}
        self._lock = threading.RLock()
        self._closed = False
        if open_card is not None:
            try:
                self._card = open_card()
            except BackendError as error:
                self._rest_from(error)
                _warn(f"no card can be used, the CPU computes instead: {error}")

    @property
    def name(self) -> str:
        """``auto``."""
        return "auto"

    def describe(self) -> dict[str, str | int | float | bool]:
        """Facts about the machine in use, which `active` names."""
        with self._lock:
            active = self._card or self._cpu
            facts = active.describe() | {"name": "auto", "active": active.name}
            return facts | {"healthy": not self._closed}

    # ---------------------------------------------------------------------------------- arrays

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. One that is too large for the card is left to the CPU."""
        with self._lock:
            known = self._cpu.register(modulus)
            self._known.add(known)
            self._try_again()
            self._register_on_card(known)
            return known

    def upload(self, modulus: Modulus, values: Limbs) -> AutoArray:
        """Copy ``(n, modulus.limbs) uint64`` canonical residues to the machine."""
        with self._lock:
            if self._is_for_cpu(modulus):
                return self._wrap(self._cpu, self._cpu.upload(modulus, values), None)
            machine = self._machine(modulus)
            try:
                inner = machine.upload(modulus, values)
                return self._wrap(machine, inner, _Origin(modulus, values.copy()))
            except DeviceMemoryError as error:
                _log.info("left to the CPU: %s", error)
            except DeviceError as error:
                self._fall_back(error)
            return self._wrap(self._cpu, self._cpu.upload(modulus, values), None)

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""
        x = self._own(a)
        with self._lock:
            if x.machine is not self._cpu:
                try:
                    return self._settle(x).copy()
                except DeviceError as error:
                    self._fall_back(error)
            return self._cpu.download(x.inner)

    def take(self, a: ResidueArray, index: NDArray[np.int64]) -> AutoArray:
        """Gather ``a[index[j]]``."""
        index = index.copy()
        return self._run([a], lambda machine, x: machine.take(x, index))

    def concat(self, parts: list[ResidueArray]) -> AutoArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        return self._run(parts, lambda machine, *xs: machine.concat(list(xs)))

    # ------------------------------------------------------------------------------ arithmetic

    def mul(self, a: ResidueArray, b: ResidueArray) -> AutoArray:
        """Element-wise product; a length of one broadcasts."""
        return self._run([a, b], lambda machine, x, y: machine.mul(x, y))

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> AutoArray:
        """Element-wise powers, constant time in the exponent."""
        exponents = exponents.copy()
        return self._run([a], lambda machine, x: machine.pow(x, exponents, bits))

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> AutoArray:
        """As `pow`, but its time may depend on the exponents."""
        exponents = exponents.copy()

        def compute(machine: Backend, x: ResidueArray) -> ResidueArray:
            if isinstance(machine, SupportsPowVar):
                return machine.pow_var(x, exponents, bits)
            return machine.pow(x, exponents, bits)

        return self._run([a], compute)

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> AutoArray:
        """Powers of one base by a comb table."""
        exponents = exponents.copy()
        return self._run([base], lambda machine, x: machine.pow_fixed(x, exponents, bits))

    def prod(
        self, a: ResidueArray, index: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> AutoArray:
        """Gathered segmented product."""
        index, offsets = index.copy(), offsets.copy()
        return self._run([a], lambda machine, x: machine.prod(x, index, offsets))

    def multi_pow(self, a: ResidueArray, exponents: NDArray[np.int64], bits: int) -> AutoArray:
        """Simultaneous powers with short signed exponents."""
        exponents = exponents.copy()
        return self._run([a], lambda machine, x: machine.multi_pow(x, exponents, bits))

    def multi_pow_rows(
        self, a: ResidueArray, index: NDArray[np.int64], exponents: NDArray[np.int64], bits: int
    ) -> AutoArray:
        """`multi_pow` of each row of bases."""
        exponents = exponents.copy()
        return self._run([a], lambda machine, x: multi_pow_rows(machine, x, index, exponents, bits))

    def multi_pow_var(self, a: ResidueArray, exponents: NDArray[np.int64], bits: int) -> AutoArray:
        """As `multi_pow`, but its time and addresses may depend on the exponents."""
        exponents = exponents.copy()

        def compute(machine: Backend, x: ResidueArray) -> ResidueArray:
            if isinstance(machine, SupportsMultiPowVar):
                return machine.multi_pow_var(x, exponents, bits)
            return machine.multi_pow(x, exponents, bits)

        return self._run([a], compute)

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each, constant time in the exponent."""
        with self._lock:
            self._try_again()
            if isinstance(self._card, SupportsPowModuli):
                try:
                    return self._card.pow_moduli(moduli, bases, exponents, bits)
                except DeviceError as error:
                    self._fall_back(error)
                except BackendError as error:
                    _log.info("left to the CPU: %s", error)
            if not isinstance(self._cpu, SupportsPowModuli):
                raise BackendError(f"{self._cpu.name} has no powers with a modulus each")
            return self._cpu.pow_moduli(moduli, bases, exponents, bits)

    def inverse(self, a: ResidueArray) -> AutoArray:
        """Element-wise inverses."""
        return self._run([a], lambda machine, x: machine.inverse(x))

    # --------------------------------------------------------------------------------- squares

    def binomials(self, modulus: Modulus, m: NDArray[np.int64]) -> AutoArray:
        """``1 + m[i] n`` modulo ``n n``."""
        check_numbers(m)
        with self._lock:
            if self._is_for_cpu(modulus):
                return self._wrap(self._cpu, binomials(self._cpu, modulus, m), None)
            return self.upload(modulus, binomial_limbs(modulus, m))

    def reduce(self, moduli: Sequence[Modulus], values: Limbs) -> list[ResidueArray]:
        """Residues of integers of any size, modulo several moduli."""
        with self._lock:
            if all([self._is_for_cpu(modulus) for modulus in moduli]):
                arrays = reduce(self._cpu, moduli, values)
                return [self._wrap(self._cpu, array, None) for array in arrays]
            return uploaded(self, moduli, values)

    def logarithms(self, a: ResidueArray) -> Limbs:
        """``m`` for each ``1 + m n`` modulo ``n n``."""
        x = self._own(a)
        with self._lock:
            if x.machine is self._cpu:
                return logarithms(self._cpu, x.inner)
            return logarithm_limbs(x.modulus, self.download(x))

    # ---------------------------------------------------------------------------- housekeeping

    def wait(self, a: ResidueArray) -> None:
        """Return when `a` is computed, if need be by the CPU."""
        x = self._own(a)
        with self._lock:
            try:
                x.inner.wait()
            except DeviceError as error:
                self._fall_back(error)

    def synchronize(self) -> None:
        """Return when everything queued is done."""
        self._on_the_card(lambda card: card.synchronize())

    def stats(self) -> dict[str, OperationStats]:
        """What each operation has cost on all machines together since the last `reset_stats`."""
        with self._lock:
            total: dict[str, OperationStats] = {}
            machines = [self._cpu] if self._card is None else [self._cpu, self._card]
            for part in (self._lost_stats, *(machine.stats() for machine in machines)):
                _add(total, part)
            return total

    def reset_stats(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._lost_stats.clear()
            self._cpu.reset_stats()
            self._on_the_card(lambda card: card.reset_stats())

    def clear_secrets(self) -> None:
        """Erase secrets on all machines; arrays forget how they were made."""
        with self._lock:

            def clear(card: Backend) -> None:
                for array in list(self._arrays):
                    if array.origin is not None:
                        self._settle(array)
                card.clear_secrets()

            self._on_the_card(clear)
            self._cpu.clear_secrets()

    def close(self) -> None:
        """Release all machines. Arrays become unusable."""
        with self._lock:
            self._closed = True
            self._retry_at = None
            if self._card is not None:
                self._card.close()
            self._cpu.close()

    # --------------------------------------------------------------------------------- private

    def _own(self, a: ResidueArray) -> AutoArray:
        if not isinstance(a, AutoArray) or a.backend is not self:
            raise BackendError("the array lives on another backend; download and upload it")
        return a

    def _is_for_cpu(self, modulus: Modulus) -> bool:
        """Whether the CPU has what is new modulo this; a card that has rested is tried first."""
        if modulus not in self._known:
            self.register(modulus.value)
        self._try_again()
        return self._machine(modulus) is self._cpu

    def _machine(self, modulus: Modulus) -> Backend:
        return self._card if self._card is not None and modulus in self._on_card else self._cpu

    def _wrap(self, machine: Backend, inner: ResidueArray, origin: _Origin | None) -> AutoArray:
        array = AutoArray(self, machine, inner, origin)
        self._arrays.add(array)
        return array

    def _run(self, operands: list[ResidueArray], compute: Compute) -> AutoArray:
        own = [self._own(a) for a in operands]
        with self._lock:
            self._try_again()
            machine = self._machine(own[0].modulus)
            if machine is not self._cpu:
                try:
                    for x in own:
                        self._lift(machine, x)
                    return self._run_on_card(machine, own, compute)
                except DeviceMemoryError as error:
                    _log.info("left to the CPU: %s", error)
                except DeviceError as error:
                    self._fall_back(error)
            inner = compute(self._cpu, *(self._on_cpu(x) for x in own))
            return self._wrap(self._cpu, inner, None)

    def _run_on_card(
        self, machine: Backend, operands: list[AutoArray], compute: Compute
    ) -> AutoArray:
        inner = compute(machine, *(x.inner for x in operands))
        inputs = tuple(x.origin for x in operands if x.origin is not None)
        depth = 1 + max(origin.depth for origin in inputs)
        origin = _Origin(inner.modulus, None, compute, inputs, depth)
        array = self._wrap(machine, inner, origin)
        if depth > _DEEPEST:
            self._settle(array)
        return array

    def _lift(self, machine: Backend, x: AutoArray) -> None:
        """Bring an array that the CPU has to the card."""
        if x.machine is self._cpu:
            values = self._cpu.download(x.inner)
            x.inner = machine.upload(x.modulus, values)
            x.machine, x.origin = machine, _Origin(x.modulus, values)

    def _settle(self, x: AutoArray) -> Limbs:
        """Residues of an array on the card, which from now on need not be computed again."""
        assert x.origin is not None
        if x.origin.host is None:
            x.origin.settle(x.machine.download(x.inner))
        assert x.origin.host is not None
        return x.origin.host

    def _on_cpu(self, x: AutoArray) -> ResidueArray:
        return x.inner if x.machine is self._cpu else self._cpu.upload(x.modulus, self._settle(x))

    def _register_on_card(self, modulus: Modulus) -> None:
        if self._card is not None:
            try:
                self._on_card.add(self._card.register(modulus.value))
            except DeviceError as error:
                self._fall_back(error)
            except BackendError as error:
                _log.info("left to the CPU: %s", error)

    def _rest_from(self, error: BackendError) -> None:
        """Note when to try a card again after this error."""
        if self._rest is not None and not isinstance(error, CorruptResult):
            self._retry_at = time.monotonic() + self._rest
            self._rest = min(2 * self._rest, _LONGEST_REST)

    def _try_again(self) -> None:
        """Open the card once more if it has rested."""
        if self._retry_at is None or time.monotonic() < self._retry_at or self._closed:
            return
        assert self._open_card is not None
        self._retry_at = None
        try:
            self._card = self._open_card()
        except BackendError as error:
            self._rest_from(error)
            _log.info("the card is still not to be used: %s", error)
            return
        _log.info("the card passed its self-test and is used again")
        self._on_card.clear()
        for modulus in self._known:
            self._register_on_card(modulus)

    def _on_the_card(self, action: Callable[[Backend], None]) -> None:
        with self._lock:
            if self._card is not None:
                try:
                    action(self._card)
                except DeviceError as error:
                    self._fall_back(error)

    def _fall_back(self, error: DeviceError) -> None:
        """Give the card up: compute all its arrays again on the CPU."""
        card, self._card = self._card, None
        if card is None:
            raise error
        _add(self._lost_stats, card.stats())
        made: dict[_Origin, ResidueArray] = {}
        for array in list(self._arrays):
            if array.origin is not None:
                array.inner = self._remake(array.origin, made)
                array.machine, array.origin = self._cpu, None
        with contextlib.suppress(BackendError):
            card.close()
        self._rest_from(error)
        _warn(f"a card failed, the CPU goes on from here: {error}")

    def _remake(self, origin: _Origin, made: dict[_Origin, ResidueArray]) -> ResidueArray:
        """Compute an array on the CPU, operands first; `made` remembers what is done."""
        todo = [origin]
        while todo:
            current = todo[-1]
            if current in made:
                todo.pop()
            elif current.host is not None:
                made[current] = self._cpu.upload(current.modulus, current.host)
            elif missing := [o for o in current.inputs if o not in made]:
                todo += missing
            else:
                assert current.compute is not None
                operands = (made[o] for o in current.inputs)
                made[current] = current.compute(self._cpu, *operands)
        return made[origin]


def _add(total: dict[str, OperationStats], part: dict[str, OperationStats]) -> None:
    for name, stats in part.items():
        total.setdefault(name, OperationStats()).add(stats)


def _warn(message: str) -> None:
    _log.warning(message)
    warnings.warn(message, DeviceFallbackWarning, stacklevel=4)
