"""The component ``correlation``: Pearson's r of each of the guest's columns with each of a host's.

1. The guest standardises its columns, packs a row's values into as few plaintexts as hold them, and
   sends the rows encrypted, in blocks.
2. A host multiplies them with its own standardised columns, ``X_h.T @ [X_g]``, adds secret masks
   and returns the sums; the guest decrypts the masked sums and sends them back.
3. The host removes its masks and sends the guest the correlations, rounded.

The squares of a standardised column add up to the number of rows, so by Cauchy and Schwarz no sum
is above ``rows * unit**2`` but for rounding, whatever the data: slots need no knowledge of them.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import residue
from residue.errors import EncodingOverflow
from residue.paillier import BOUND_STEP, slot_order
from residue_federated._context import Context, Outcome, Spec
from residue_federated._data import Scaling, Table
from residue_federated._scratch import forget, row_blocks
from residue_federated._slots import Slots, draw_masks
from residue_federated.errors import ProtocolError
from residue_federated.features._blocks import blocks
from residue_federated.features._config import CorrelationConfig
from residue_federated.features._flows import correlating as flow

__all__ = ["flow", "run"]

_DIGITS = 4
"""To which correlations are rounded before a host tells them."""
_MOST_COLUMNS = 1 << 20
_HIDING = 136
"""Bits of the plaintext space that slots leave free, so that a mask hides them; as in training."""


def run(context: Context, config: CorrelationConfig, table: Table | None) -> Outcome:
    """Correlations as facts: ``own``, of this party's columns among themselves, and ``with``, peer
    -> a row for each of the host's columns, a column for each of the guest's. A constant column's
    are 0.

    Raises:
        DataError: values are missing, or the parties' rows differ.
        ProtocolError: a peer sent what cannot be.
    """
    context.restored()
    if table is None:
        return Outcome()
    table.require_complete(context.party)
    context.agree_on_rows(table)
    context.progress(0, 1)
    columns = _Columns(table.x, Scaling.of(table.x), float(1 << config.fraction_bits))
    outcome = (_guest if context.role == "guest" else _host)(context, config, columns)
    own = np.round(columns.products() / len(table.ids), _DIGITS)
    outcome.facts |= {"columns": table.columns, "own": own.tolist()}
    outcome.rounds = 1
    context.progress(1, 1)
    return outcome


@dataclass(frozen=True)
class _Columns:
    """A party's columns, standardised, and as integers of so much a unit."""

    x: NDArray[np.float64]
    scaling: Scaling
    unit: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.x.shape[0], self.x.shape[1]

    def __getitem__(self, rows: slice) -> NDArray[np.int64]:
        values = np.rint(self.scaling.apply(self.x[rows]) * self.unit)
        forget(self.x)
        return np.asarray(values, dtype=np.int64)

    def products(self) -> NDArray[np.float64]:
        """``(columns, columns)``: the columns' products with each other."""
        total = np.zeros((self.x.shape[1], self.x.shape[1]))
        for rows in row_blocks(self.x):
            z = np.ascontiguousarray(self.scaling.apply(self.x[rows]))
            total += z.T @ z
        return total


def _most(config: CorrelationConfig, rows: int) -> int:
    """No sum of products exceeds it: both columns' norms are ``sqrt(rows) * unit`` and rounding."""
    return rows * ((1 << config.fraction_bits) + 1) ** 2


def _slots(config: CorrelationConfig, key: residue.PublicKey, rows: int, columns: int) -> Slots:
    width = _most(config, rows).bit_length() + 1
    count = max(1, min(columns, (key.bits - _HIDING) // width))
    return Slots(width, count, -(-columns // count), columns)


# --- guest ----------------------------------------------------------------------------------------


def _guest(context: Context, config: CorrelationConfig, q: _Columns) -> Outcome:
    line, (rows, columns) = context.line, q.shape
    public, secret = context.make_key(context.hosts)
    for host in context.hosts:
        line.send_record(host, "columns", count=np.array([columns]))
    slots = _slots(config, public, rows, columns)
    for number, block in enumerate(blocks(rows)):
        encrypted = public.encrypt(_packed(q[block], slots))
        line.broadcast(context.hosts, f"rows/{number}", encrypted)
    plain = {host: _decrypted(context, host, public, secret, slots) for host in context.hosts}
    for host, values in plain.items():
        line.send_record(host, "sums", masked=_bytes(values.ravel().tolist(), public.bits))
    found = {}
    for host, values in plain.items():
        spec = Spec(np.float64, (len(values), columns))
        r = line.receive_record(host, "correlations", r=spec)["r"]
        if not np.all(np.abs(r) <= 1):
            raise ProtocolError(f"{host} sent correlations beyond 1")
        found[host] = r.tolist()
    return Outcome(facts={"with": found})


def _decrypted(
    context: Context,
    host: str,
    public: residue.PublicKey,
    secret: residue.PrivateKey,
    slots: Slots,
) -> NDArray[np.object_]:
    """``(columns of the host, groups)`` masked sums."""
    spec = Spec(np.int64, (1,))
    columns = int(context.line.receive_record(host, "columns", count=spec)["count"][0])
    if not 1 <= columns <= _MOST_COLUMNS:
        raise ProtocolError(f"{host} sent an impossible number of columns")
    (masked,) = context.line.receive(host, "sums", public, (columns, slots.groups))
    try:
        return np.asarray(secret.decrypt(masked, dtype=object))
    except EncodingOverflow as error:
        raise ProtocolError(f"{host} sent sums out of range") from error


def _packed(q: NDArray[np.int64], slots: Slots) -> NDArray[np.object_]:
    """``(rows, groups)`` plaintexts of a block of rows."""
    order = slot_order(q.shape[1], slots.count)
    values = q.astype(object)
    packed = values[:, order[-1]]
    for part in order[-2::-1]:
        packed = (packed << slots.width) + values[:, part]
    return packed


def _bytes(values: list[int], bits: int) -> NDArray[np.uint8]:
    """``(n, bits // 8 + 1) uint8``: signed integers, little-endian."""
    width = bits // 8 + 1
    data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    return np.frombuffer(data, np.uint8).reshape(len(values), width)


# --- host -----------------------------------------------------------------------------------------


def _host(context: Context, config: CorrelationConfig, q: _Columns) -> Outcome:
    line, guest, (rows, columns) = context.line, context.guest, q.shape
    public = line.receive_key(guest, context.job.key.bits)
    theirs = int(line.receive_record(guest, "columns", count=Spec(np.int64, (1,)))["count"][0])
    if not 1 <= theirs <= _MOST_COLUMNS:
        raise ProtocolError(f"{guest} sent an impossible number of columns")
    slots = _slots(config, public, rows, theirs)
    later = line.precompute(public, columns * slots.groups)
    largest = slots.count * slots.width + BOUND_STEP
    partial = []
    for number, block in enumerate(blocks(rows)):
        shape = (block.stop - block.start, slots.groups)
        (encrypted,) = line.receive(guest, f"rows/{number}", public, shape, idle=later)
        if encrypted.exponent or encrypted.bound.bit_length() > largest:
            raise ProtocolError(f"{guest} sent values that are not standardised")
        partial.append(encrypted.matmul(q[block].T, reflected=True))
    sums = functools.reduce(operator.add, partial)
    masks = np.array(draw_masks(sums.size, public.bits), dtype=object).reshape(sums.shape)
    line.send_record(guest, "columns", count=np.array([columns]))
    line.send(guest, "sums", sums + masks)
    spec = Spec(np.uint8, (sums.size, public.bits // 8 + 1))
    masked = line.receive_record(guest, "sums", masked=spec)["masked"]
    plain = [int.from_bytes(row.tobytes(), "little", signed=True) for row in masked]
    unmasked = np.array(plain, dtype=object).reshape(sums.shape) - masks
    products = [slots.unpack(row.tolist()) for row in unmasked]
    most = _most(config, rows)
    if any(abs(product) > most for row in products for product in row):
        raise ProtocolError(f"{guest} decrypted sums out of range")
    unit = float(rows) * 4.0**config.fraction_bits
    r = np.round(np.clip(np.array(products, dtype=np.float64) / unit, -1, 1), _DIGITS)
    line.send_record(guest, "correlations", r=r)
    trace = products if context.trace else []
    return Outcome(facts={"with": {guest: r.tolist()}}, trace=trace)
