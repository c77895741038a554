"""One client of the owner: its arrays, its quota, and the operations that it asks for."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue._limbs import from_limbs
from residue.backends._protocol import (
    Backend,
    Limbs,
    Modulus,
    OperationStats,
    ResidueArray,
    SupportsMultiPowVar,
    SupportsPowModuli,
    SupportsPowVar,
    SupportsSelfTest,
)
from residue.backends._validate import (
    broadcast_length,
    check_exponents,
    check_index,
    check_offsets,
    check_pow_moduli,
)
from residue.errors import BackendError
from residue.owner._machine import Machine
from residue.owner._wire import DeviceMemoryError, as_failure, as_tensor, pack_facts, pack_stats
from residue.owner.proto import v1

__all__ = ["Answer", "Gone", "Session"]

_log = logging.getLogger(__name__)

_HANDLE_BYTES = 16
_MAX_MODULI = 1024
_MAX_MODULUS_BITS = 1 << 16
_MAX_EXPONENT_BITS = 1 << 20

Index = NDArray[np.int64]
Answer = tuple[v1.Result | v1.Failure, list[Limbs]]
"""A reply, and the array that follows it, if any."""


class Gone(Exception):
    """The client of a session is not there any more."""


class Session:
    """Arrays of one client. Their handles are random and known to this session alone.

    Args:
        machine: the device.
        quota: most bytes of all arrays together, in the border's form.
        pid: the client's process, as it says.
        check_alive: raises `Gone` if the client is.
    """

    def __init__(
        self, machine: Machine, quota: int, pid: int, check_alive: Callable[[], None]
    ) -> None:
        self._machine = machine
        self._quota = quota
        self._arrays: dict[bytes, ResidueArray] = {}
        self._moduli: set[Modulus] = set()
        self._began = time.monotonic()
        self._operations = 0
        self._pid = pid
        self.used = 0
        self.check_alive = check_alive
        self.backend: Backend = machine.healthy()
        self.stats: dict[str, OperationStats] = {}

    def status(self) -> v1.SessionStatus:
        """What there is to say about it without secrets."""
        return v1.SessionStatus(
            pid=self._pid,
            seconds=time.monotonic() - self._began,
            operations=self._operations,
            arrays=len(self._arrays),
            bytes=self.used,
        )

    def answer(self, request: v1.Operation, tensors: list[Any]) -> Answer:
        """Do what the client asks for. Its errors become the answer."""
        self._operations += 1
        try:
            return self._answer(request, tensors)
        except BackendError as error:
            return as_failure(error), []
        except Gone:
            raise
        except Exception as error:
            # Other clients go on; the text may hold residues, so that only its kind is told.
            what = f"the owner failed in operation {request.kind}: {type(error).__name__}"
            _log.error(what)
            return as_failure(BackendError(what)), []

    def free(self, handles: Iterable[bytes]) -> None:
        """Forget arrays."""
        for handle in handles:
            array = self._arrays.pop(handle, None)
            if array is not None:
                self.used -= _bytes(array.modulus, len(array))

    def end(self) -> None:
        """Free all arrays and erase what they leave behind."""
        self._arrays.clear()
        self.used = 0
        try:
            with self._machine.turn(self) as backend:
                backend.clear_secrets()
        except BackendError as error:
            _log.warning("secrets of a session that ended could not be erased: %s", error)

    # --------------------------------------------------------------------------------- private

    def _answer(self, request: v1.Operation, tensors: list[Any]) -> Answer:
        known = _OPERATIONS.get(request.kind)
        if known is None:
            raise BackendError(f"the owner knows no operation {request.kind}: update it")
        method, arrays, count = known
        if len(tensors) != count or (arrays is not None and len(request.arrays) != arrays):
            raise BackendError(
                f"operation {request.kind} takes {arrays} arrays and {count} tensors, not "
                f"{len(request.arrays)} and {len(tensors)}"
            )
        if request.bits > _MAX_EXPONENT_BITS:
            raise BackendError(f"an owner takes at most {_MAX_EXPONENT_BITS} exponent bits")
        operands = [self._array(handle) for handle in request.arrays]
        if arrays is None:
            return method(self, request, operands, *tensors)
        return method(self, request, *operands, *tensors)

    def _array(self, handle: bytes) -> ResidueArray:
        try:
            return self._arrays[handle]
        except KeyError:
            raise BackendError("this session has no such array") from None

    def _check_room(self, modulus: Modulus, rows: int) -> None:
        wanted = _bytes(modulus, rows)
        if self.used + wanted > self._quota:
            raise DeviceMemoryError(
                f"the arrays of this session have {self.used:,} bytes, {wanted:,} more exceed its "
                f"quota of {self._quota:,}: free arrays, use smaller batches, or start the owner "
                "with a larger --quota-mib"
            )

    def _keep(self, array: ResidueArray) -> Answer:
        handle = secrets.token_bytes(_HANDLE_BYTES)
        self._arrays[handle] = array
        self.used += _bytes(array.modulus, len(array))
        return v1.Result(array=handle, length=len(array)), []

    def _sliced(
        self, request: v1.Operation, modulus: Modulus, n: int,
        compute: Callable[[Backend, int, int], ResidueArray],
    ) -> Answer:  # fmt: skip
        self._check_room(modulus, n)
        key = (request.kind, modulus.bits, request.bits)
        return self._keep(
            self._machine.sliced(
                self, key, n, compute, lambda backend, parts: backend.concat(parts)
            )
        )

    def _at_once(
        self, modulus: Modulus, n: int, compute: Callable[[Backend], ResidueArray]
    ) -> Answer:
        self._check_room(modulus, n)
        with self._machine.turn(self) as backend:
            return self._keep(compute(backend))

    # ------------------------------------------------------------------------------ operations

    def _describe(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self) as backend:
            facts = backend.describe()
        facts |= {"session_quota_bytes": self._quota, "session_free_bytes": self._quota - self.used}
        return v1.Result(facts=pack_facts(facts)), []

    def _register(self, request: v1.Operation) -> Answer:
        if 8 * len(request.modulus) > _MAX_MODULUS_BITS:
            raise BackendError(f"an owner takes moduli of at most {_MAX_MODULUS_BITS} bits")
        if len(self._moduli) >= _MAX_MODULI:
            raise BackendError(f"a session has at most {_MAX_MODULI} moduli: open another one")
        value = int.from_bytes(request.modulus, "little")
        with self._machine.turn(self) as backend:
            self._moduli.add(backend.register(value))
        return v1.Result(), []

    def _upload(self, request: v1.Operation, values: Limbs) -> Answer:
        modulus = Modulus(int.from_bytes(request.modulus, "little"))
        if modulus not in self._moduli:
            raise BackendError("this session has not registered the modulus")
        return self._at_once(modulus, len(values), lambda b: b.upload(modulus, values))

    def _download(self, request: v1.Operation, a: ResidueArray) -> Answer:
        with self._machine.turn(self) as backend:
            values = backend.download(a)
        return v1.Result(tensor=as_tensor(values)), [values]

    def _take(self, request: v1.Operation, a: ResidueArray, index: Index) -> Answer:
        return self._at_once(a.modulus, index.size, lambda b: b.take(a, index))

    def _concat(self, request: v1.Operation, parts: list[ResidueArray]) -> Answer:
        if not parts:
            raise BackendError("nothing to concatenate")
        return self._at_once(parts[0].modulus, sum(map(len, parts)), lambda b: b.concat(parts))

    def _mul(self, request: v1.Operation, a: ResidueArray, b: ResidueArray) -> Answer:
        n = broadcast_length(len(a), len(b))
        return self._at_once(a.modulus, n, lambda backend: backend.mul(a, b))

    def _pow(self, request: v1.Operation, a: ResidueArray, exponents: Limbs) -> Answer:
        bits, var = request.bits, request.kind == v1.POW_VAR
        check_exponents(exponents, bits, len(a))

        def powers(backend: Backend, lo: int, hi: int) -> ResidueArray:
            rows = a if (lo, hi) == (0, len(a)) else backend.take(a, np.arange(lo, hi))
            part = exponents if len(exponents) == 1 else exponents[lo:hi]
            if var and isinstance(backend, SupportsPowVar):
                return backend.pow_var(rows, part, bits)
            return backend.pow(rows, part, bits)

        return self._sliced(request, a.modulus, len(a), powers)

    def _pow_fixed(self, request: v1.Operation, base: ResidueArray, exponents: Limbs) -> Answer:
        check_exponents(exponents, request.bits)
        return self._sliced(
            request, base.modulus, len(exponents),
            lambda backend, lo, hi: backend.pow_fixed(base, exponents[lo:hi], request.bits),
        )  # fmt: skip

    def _prod(self, request: v1.Operation, a: ResidueArray, index: Index, offsets: Index) -> Answer:
        check_index(index, len(a))
        check_offsets(offsets, len(index))

        def segments(backend: Backend, lo: int, hi: int) -> ResidueArray:
            cuts = offsets[lo : hi + 1]
            return backend.prod(a, index[cuts[0] : cuts[-1]], cuts - cuts[0])

        return self._sliced(request, a.modulus, len(offsets) - 1, segments)

    def _multi_pow(self, request: v1.Operation, a: ResidueArray, exponents: Index) -> Answer:
        bits, var = request.bits, request.kind == v1.MULTI_POW_VAR
        columns = exponents.shape[-1] if exponents.ndim else 0

        def powers(backend: Backend) -> ResidueArray:
            if var and isinstance(backend, SupportsMultiPowVar):
                return backend.multi_pow_var(a, exponents, bits)
            return backend.multi_pow(a, exponents, bits)

        return self._at_once(a.modulus, columns, powers)

    def _pow_moduli(
        self, request: v1.Operation, moduli: Limbs, bases: Limbs, exponents: Limbs
    ) -> Answer:
        bits = request.bits
        if moduli.ndim != 2 or 64 * moduli.shape[1] > _MAX_MODULUS_BITS:
            raise BackendError(f"an owner takes moduli of at most {_MAX_MODULUS_BITS} bits")
        values = [Modulus(int(value)) for value in from_limbs(moduli)]
        check_pow_moduli(values, bases, exponents, bits)

        def powers(backend: Backend, lo: int, hi: int) -> Limbs:
            if not isinstance(backend, SupportsPowModuli):
                raise BackendError(f"{backend.name} has no powers with a modulus each")
            part = exponents if len(exponents) == 1 else exponents[lo:hi]
            return backend.pow_moduli(values[lo:hi], bases[lo:hi], part, bits)

        key = (request.kind, moduli.shape[1], bits)
        result = self._machine.sliced(
            self, key, len(values), powers, lambda _, parts: np.concatenate(parts)
        )
        return v1.Result(tensor=as_tensor(result)), [result]

    def _inverse(self, request: v1.Operation, a: ResidueArray) -> Answer:
        return self._at_once(a.modulus, len(a), lambda backend: backend.inverse(a))

    def _wait(self, request: v1.Operation, a: ResidueArray) -> Answer:
        with self._machine.turn(self):
            a.wait()
        return v1.Result(), []

    def _synchronize(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self) as backend:
            backend.synchronize()
        return v1.Result(), []

    def _stats(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self):
            self._machine.count()
        return v1.Result(stats=pack_stats(self.stats)), []

    def _reset_stats(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self):
            self._machine.count()
        self.stats.clear()
        return v1.Result(), []

    def _clear_secrets(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self) as backend:
            backend.clear_secrets()
        return v1.Result(), []

    def _self_test(self, request: v1.Operation) -> Answer:
        with self._machine.turn(self) as backend:
            if isinstance(backend, SupportsSelfTest):
                backend.self_test()
        return v1.Result(), []


def _bytes(modulus: Modulus, rows: int) -> int:
    return 8 * modulus.limbs * rows


# Operation -> what does it, how many arrays (None: any number) and tensors it takes.
_OPERATIONS: dict[int, tuple[Callable[..., Answer], int | None, int]] = {
    v1.DESCRIBE: (Session._describe, 0, 0),
    v1.REGISTER: (Session._register, 0, 0),
    v1.UPLOAD: (Session._upload, 0, 1),
    v1.DOWNLOAD: (Session._download, 1, 0),
    v1.TAKE: (Session._take, 1, 1),
    v1.CONCAT: (Session._concat, None, 0),
    v1.MUL: (Session._mul, 2, 0),
    v1.POW: (Session._pow, 1, 1),
    v1.POW_VAR: (Session._pow, 1, 1),
    v1.POW_FIXED: (Session._pow_fixed, 1, 1),
    v1.PROD: (Session._prod, 1, 2),
    v1.MULTI_POW: (Session._multi_pow, 1, 1),
    v1.MULTI_POW_VAR: (Session._multi_pow, 1, 1),
    v1.POW_MODULI: (Session._pow_moduli, 0, 3),
    v1.INVERSE: (Session._inverse, 1, 0),
    v1.WAIT: (Session._wait, 1, 0),
    v1.SYNCHRONIZE: (Session._synchronize, 0, 0),
    v1.STATS: (Session._stats, 0, 0),
    v1.RESET_STATS: (Session._reset_stats, 0, 0),
    v1.CLEAR_SECRETS: (Session._clear_secrets, 0, 0),
    v1.SELF_TEST: (Session._self_test, 0, 0),
}
