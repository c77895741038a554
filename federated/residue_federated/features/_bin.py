"""The component ``bin``: quantile bins of every party's columns, weighed by the guest's label.

1. The guest makes a key pair and sends the public half, then ``[y]``, y = 1 for positive rows, in
   blocks of rows.
2. A host adds up ``[y]`` by (column, bin), in an order of bins that only it knows, and returns the
   sums, packed, with the number of rows of each bin.
3. The guest decrypts, computes WOE and IV, and sends the host its IVs and, where the job asks for
   them, the WOEs.

Counts are integers, so the WOEs are those of the same bins in the clear, bit by bit. With privacy
the guest adds noise to the positives of all bins before it computes what they are worth, its own
included, as its columns are worked on by others afterwards.
"""

from __future__ import annotations

import functools
import operator
import secrets
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import residue
from residue.errors import EncodingOverflow
from residue.paillier import BOUND_STEP
from residue_federated._context import Context, Model, Outcome, Spec
from residue_federated._data import Table
from residue_federated._scratch import forget, row_blocks
from residue_federated.errors import DataError, ProtocolError
from residue_federated.features._bins import Bins, Evidence
from residue_federated.features._blocks import blocks
from residue_federated.features._config import BinConfig
from residue_federated.features._flows import binning as flow
from residue_federated.features._packing import SumSlots
from residue_federated.features._private import kept_order, with_noise

__all__ = ["apply", "flow", "run"]


def run(context: Context, config: BinConfig, table: Table | None) -> Outcome:
    """This party's bins, and its columns as WOE where the job says so.

    The model holds ``columns``: a column's name, cuts, whether a bin of missing values follows, IV,
    and the WOE of each bin where this party knows it.

    Raises:
        DataError: the parties' rows differ, the label is not of two kinds, or a column is empty.
        ProtocolError: a peer sent counts or weights that cannot be.
    """
    context.restored()
    if table is None:
        return Outcome()
    context.agree_on_rows(table)
    context.progress(0, 1)
    gone = table.missing() == len(table.ids)
    empty = [name for name, every in zip(table.columns, gone.tolist(), strict=True) if every]
    if empty:
        raise DataError(f"{context.party}: column '{empty[0]}' has no value: drop it first")
    bins = Bins.of(table.x, config.bins, table.scratch)
    outcome = (_guest if context.role == "guest" else _host)(context, config, table, bins)
    context.progress(1, 1)
    return outcome


def apply(context: Context, config: BinConfig, table: Table | None, model: Model) -> Outcome:
    """Put the WOEs of the bins that were found in place of other rows' values.

    Raises `DataError` if a value is missing in a column that had no bin for it.
    """
    if table is None:
        return Outcome()
    columns = model["columns"]
    table = table.with_columns(context.party, [column["name"] for column in columns])
    if config.transform is None:
        return Outcome(table=table)
    gaps = [column["name"] for column in columns if not column["missing"]]
    table.with_columns(context.party, gaps).require_complete(context.party)
    bins = Bins(
        [np.array(column["cuts"]) for column in columns],
        np.array([column["missing"] for column in columns]),
    )
    woe = np.concatenate([column["woe"] for column in columns])
    return Outcome(table=_as_woe(table, bins, woe))


def _as_woe(table: Table, bins: Bins, woe: NDArray[np.float64]) -> Table:
    """`woe` of each value's bin, ``(bins,)`` over all columns, in its place."""
    return replace(table.changed(lambda block: woe[bins.codes(block)]), x_scaling=None)


def _outcome(
    config: BinConfig,
    table: Table,
    bins: Bins,
    iv: NDArray[np.float64],
    woe: NDArray[np.float64] | None,
) -> Outcome:
    """What guest and host end with alike."""
    if config.transform is not None and woe is not None:
        table = _as_woe(table, bins, woe)
    return Outcome(table=table, model={"columns": _columns(table.columns, bins, iv, woe)}, rounds=1)


def _columns(
    names: list[str], bins: Bins, iv: NDArray[np.float64], woe: NDArray[np.float64] | None
) -> list[dict[str, Any]]:
    starts = bins.starts.tolist()
    return [
        {
            "name": name,
            "cuts": cuts.tolist(),
            "missing": missing,
            "iv": value,
            "woe": None if woe is None else woe[start:end].tolist(),
        }
        for name, cuts, missing, value, start, end in zip(
            names,
            bins.cuts,
            bins.missing.tolist(),
            iv.tolist(),
            starts[:-1],
            starts[1:],
            strict=True,
        )
    ]


# --- guest ----------------------------------------------------------------------------------------


def _guest(context: Context, config: BinConfig, table: Table, bins: Bins) -> Outcome:
    """Sends labels, weighs its own bins and those of every host; IVs of all are its facts."""
    line, positive, size = context.line, _positive(table), int(bins.starts[-1])
    totals = int(positive.sum()), int((~positive).sum())
    public, secret = context.make_key(context.hosts)
    for number, rows in enumerate(blocks(len(positive))):
        block = public.encrypt(positive[rows].astype(np.int64))
        line.broadcast(context.hosts, f"y/{number}", block)
    counts, positives = np.zeros((2, size), np.int64)
    for rows in row_blocks(table.x):
        codes = bins.codes(table.x[rows])
        counts += np.bincount(codes.ravel(), minlength=size)
        positives += np.bincount(codes[positive[rows]].ravel(), minlength=size)
    found = {context.party: Evidence.of(positives, counts, bins.sizes, totals)}
    sizes_of, trace = {context.party: bins.sizes}, []
    for host in context.hosts:
        sizes, theirs = _counts_of(context, config, host, len(positive))
        slots = SumSlots.plan(public, len(positive), theirs.size)
        (packed,) = line.receive(host, "sums", public, (slots.groups,))
        sums = slots.unpack(_decrypted(secret, host, packed))
        found[host], sizes_of[host] = _weighed(host, sums, theirs, sizes, totals), sizes
        if context.trace:
            columns = np.repeat(np.arange(sizes.size), sizes)
            positives = found[host].positives
            trace.append(positives[np.lexsort((positives, columns))].tolist())
    facts: dict[str, Any] = {"positives": totals[0], "negatives": totals[1]}
    if config.privacy is not None:
        found, facts["privacy"] = with_noise(context, config.privacy, found, sizes_of)
    own = found.pop(context.party)
    ivs: dict[str, Any] = {context.party: dict(zip(table.columns, own.iv.tolist(), strict=True))}
    for host, evidence in found.items():
        answer = {"iv": evidence.iv}
        if config.transform is not None:
            answer["woe"] = evidence.woe
        line.send_record(host, "weights", **answer)
        ivs[host] = evidence.iv.tolist()
    outcome = _outcome(config, table, bins, own.iv, own.woe)
    outcome.facts, outcome.trace = facts | {"iv": ivs}, trace
    return outcome


def _decrypted(secret: residue.PrivateKey, host: str, packed: residue.CiphertextArray) -> list[int]:
    try:
        return list(secret.decrypt(packed, dtype=object))
    except EncodingOverflow as error:
        raise ProtocolError(f"{host} sent sums out of range") from error


def _positive(table: Table) -> NDArray[np.bool_]:
    """``(rows,) bool``: the larger of two labels."""
    assert table.y is not None
    kinds = np.unique(table.y)
    if kinds.size != 2:
        raise DataError(f"bins are weighed by a label of two kinds, not of {kinds.size}")
    return np.asarray(table.y == kinds[1])


def _counts_of(
    context: Context, config: BinConfig, host: str, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins of each of a host's columns, and rows of each bin: checked."""
    spec = Spec(np.int64, (None,))
    record = context.line.receive_record(host, "bins", sizes=spec, counts=spec)
    sizes, counts = record["sizes"], record["counts"]
    if not sizes.size or not np.all((sizes >= 1) & (sizes <= config.bins + 1)):
        raise ProtocolError(f"{host} sent impossible numbers of bins")
    if counts.size != sizes.sum() or not np.all((counts >= 1) & (counts <= rows)):
        raise ProtocolError(f"{host} sent bins with impossible numbers of rows")
    if not np.all(np.add.reduceat(counts, _starts(sizes)) == rows):
        raise ProtocolError(f"{host} sent bins that do not hold all rows")
    return sizes, counts


def _weighed(
    host: str,
    sums: list[int],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    totals: tuple[int, int],
) -> Evidence:
    """A host's bins, in the order in which they came, checked."""
    if not all(0 <= positive <= rows for positive, rows in zip(sums, counts.tolist(), strict=True)):
        raise ProtocolError(f"{host} sent bins with more positives than rows")
    positives = np.array(sums, dtype=np.int64)
    if not np.all(np.add.reduceat(positives, _starts(sizes)) == totals[0]):
        raise ProtocolError(f"{host} sent bins that do not hold all positives")
    return Evidence.shuffled(positives, counts, sizes, totals)


# --- host -----------------------------------------------------------------------------------------


def _host(context: Context, config: BinConfig, table: Table, bins: Bins) -> Outcome:
    """Adds up labels by bin and learns what its columns are worth."""
    line, guest, size = context.line, context.guest, int(bins.starts[-1])
    public = line.receive_key(guest, context.job.key.bits)
    slots, counts = SumSlots.plan(public, len(table.ids), size), np.zeros(size, np.int64)
    later = line.precompute(public, slots.groups)
    shuffled = _shuffled(bins)
    if config.privacy is not None:
        shuffled = kept_order(context, shuffled)
    partial = []
    for number, rows in enumerate(blocks(len(table.ids))):
        (y,) = line.receive(guest, f"y/{number}", public, (rows.stop - rows.start,), idle=later)
        if y.exponent or y.bound.bit_length() > BOUND_STEP:
            raise ProtocolError(f"{guest} sent labels that are not 0 and 1")
        codes = bins.codes(table.x[rows])
        counts += np.bincount(codes.ravel(), minlength=size)
        partial.append(_sums(y, codes, size))
        forget(table.x)
    sums = functools.reduce(operator.add, partial)
    line.send_record(guest, "bins", sizes=bins.sizes, counts=counts[shuffled])
    line.send(guest, "sums", slots.packed(sums[shuffled]))
    specs = {"iv": Spec(np.float64, (bins.sizes.size,))}
    if config.transform is not None:
        specs["woe"] = Spec(np.float64, (size,))
    weights = line.receive_record(guest, "weights", idle=None, **specs)
    if not all(np.isfinite(values).all() for values in weights.values()) or weights["iv"].min() < 0:
        raise ProtocolError(f"{guest} sent impossible weights")
    woe = weights["woe"][np.argsort(shuffled)] if "woe" in weights else None
    return _outcome(config, table, bins, weights["iv"], woe)


def _sums(
    y: residue.CiphertextArray, codes: NDArray[np.int64], size: int
) -> residue.CiphertextArray:
    """``(size,)``: ``[y]`` of a block of rows added up by bin."""
    flat = codes.T.ravel()
    index = np.argsort(flat, kind="stable") % len(codes)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=size))])
    return y.gather_sum(index, offsets)


def _shuffled(bins: Bins) -> NDArray[np.int64]:
    """All bins, each column's in a random order of its own."""
    column = np.repeat(np.arange(bins.sizes.size), bins.sizes)
    keys = np.frombuffer(secrets.token_bytes(8 * column.size), np.uint64)
    return np.asarray(np.lexsort((keys, column)))


# --- both -----------------------------------------------------------------------------------------


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]])
