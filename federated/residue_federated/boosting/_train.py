"""SecureBoost: trees over the columns of a guest and its hosts.

After Cheng et al., "SecureBoost: A Lossless Federated Learning Framework" (2021), with the packing
and histogram subtraction of "SecureBoost+" (Chen et al., 2021). The guest has the label and the
keys. It sends hosts the rows' gradients encrypted, they sum them over the bins of their columns,
and the guest decrypts the sums and chooses the splits; see `residue_federated.boosting._exchange`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome, Spec
from residue_federated._data import Table
from residue_federated.boosting._bins import Cuts
from residue_federated.boosting._booster import Booster, columns_of
from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._exchange import HostColumns, Remote, send_gradients
from residue_federated.boosting._flow import flow
from residue_federated.boosting._model import guest_share, host_share, importance, quality, unscaled
from residue_federated.boosting._objective import objective
from residue_federated.boosting._packing import Format
from residue_federated.boosting._plain import twin
from residue_federated.boosting._predict import apply, judge, predictions
from residue_federated.boosting._tree import Local, Party, Records, grow
from residue_federated.errors import DataError, ProtocolError

__all__ = ["apply", "flow", "judge", "predictions", "run", "twin"]

_STOP, _WATCH, _TAKE_PART = range(3)
"""What the guest tells a party of a round."""
_MOST_COLUMNS = 1 << 20
_MOST_OUTPUTS = 1 << 10


def run(context: Context, config: SecureBoostConfig, table: Table | None) -> Outcome:
    """This party's part of the training; an arbiter, which other components need, looks on.

    Raises `DataError` before anything is encrypted if a host's rows are not the guest's or the
    label is not what the objective takes.
    """
    if context.role == "guest":
        assert table is not None
        return _guest(context, config, table)
    return _arbiter(context, config) if table is None else _host(context, config, table)


def _guest(context: Context, config: SecureBoostConfig, table: Table) -> Outcome:
    line, hosts = context.line, context.hosts
    done, state = context.restored() or (0, {})
    context.agree_on_rows(table)
    assert table.y is not None
    try:
        loss, y = objective(config.objective, table.y)
    except DataError as error:
        raise DataError(f"{context.party}: {error}") from error
    booster = Booster(config, loss, y, 1 + len(hosts))
    records = Records()
    if done:
        booster.restore(state)
        records = Records(**state["records"])
    widths = [_columns_at(context, host) for host in hosts]
    key, secret = context.make_key(hosts)
    for host in hosts:
        line.send_record(host, "outputs", outputs=np.array([loss.outputs]))
    trace: list[list[int]] = []
    remotes = [
        Remote(
            index,
            host,
            line,
            secret,
            bins=config.bins,
            records=booster.splits_of(index),
            trace=trace if context.trace else None,
        )
        for index, host in enumerate(hosts, 1)
    ]
    cuts = Cuts.of(table.x, config.bins, table.scratch)
    local = Local(
        0, context.party, cuts.apply(table.x, table.scratch), cuts, table.columns, records
    )
    context.progress(done, config.trees, booster.losses[-1] if done else None)
    while not booster.stopped:
        tag, owners = f"{booster.done}", booster.owners
        quantised, selected = booster.sample()
        taking_part = [remotes[owner - 1] for owner in owners if owner]
        for peer in context.others:
            line.receive_record(peer, f"{tag}/ready")  # so nobody is a round behind
            part = _TAKE_PART if peer in [p.name for p in taking_part] else _WATCH
            _tell(context, peer, tag, part, selected)
        form = Format.plan(config.precision_bits, int(selected.sum()), key)
        if taking_part:
            plaintexts = form.plaintexts(quantised.g[:, selected], quantised.h[:, selected])
            send_gradients(line, [p.name for p in taking_part], tag, key, plaintexts.ravel())
        last = booster.done + 1 == config.trees
        idle = line.precompute(key, 0 if last else loss.outputs * int(selected.sum()))
        parties: list[Party] = []
        if 0 in owners:
            own = columns_of(config, booster.done, 0, len(table.columns))
            local.begin(quantised, selected, own)
            parties.append(local)
        for remote in taking_part:
            columns = columns_of(config, booster.done, remote.index, widths[remote.index - 1])
            remote.begin(tag, selected, len(columns), form, idle)
            parties.append(remote)
        booster.add(*grow(quantised, selected, parties, booster.rule))
        context.checkpoint(booster.done, booster.state | {"records": records.to_dict()})
        context.progress(booster.done, config.trees, booster.losses[-1])
    for peer in context.others:
        line.receive_record(peer, f"{booster.done}/ready")
        _tell(context, peer, f"{booster.done}", _STOP, np.zeros(0, np.bool_))
    share = guest_share(booster, [context.party, *hosts], table, records)
    return Outcome(
        model=share,
        rounds=booster.done,
        losses=booster.losses,
        metrics=quality(booster, table),
        scores=unscaled(booster.scores, table),
        trace=trace,
        facts={"importance": importance(share)},
    )


def _columns_at(context: Context, host: str) -> int:
    answer = context.line.receive_record(host, "columns", columns=Spec(np.int64, (1,)))
    columns = int(answer["columns"][0])
    if not 1 <= columns <= _MOST_COLUMNS:
        raise ProtocolError(f"{host} claims a table of {columns} columns")
    return columns


def _tell(context: Context, peer: str, tag: str, part: int, selected: NDArray[np.bool_]) -> None:
    """What a party has to do with a round; only who takes part learns the rows."""
    rows = np.packbits(selected) if part == _TAKE_PART else np.zeros(0, np.uint8)
    told = np.array([part], np.uint8)
    context.line.send_record(peer, f"{tag}/round", part=told, selected=rows)


def _told(context: Context, done: int) -> tuple[int, NDArray[np.uint8]]:
    """What the guest tells of the coming round."""
    context.line.send_record(context.guest, f"{done}/ready")
    told = context.line.receive_record(
        context.guest,
        f"{done}/round",
        part=Spec(np.uint8, (1,)),
        selected=Spec(np.uint8, (None,)),
    )
    return int(told["part"][0]), told["selected"]


def _host(context: Context, config: SecureBoostConfig, table: Table) -> Outcome:
    line, guest = context.line, context.guest
    done, state = context.restored() or (0, {})
    context.agree_on_rows(table)
    rows = len(table.ids)
    line.send_record(guest, "columns", columns=np.array([len(table.columns)]))
    key = line.receive_key(guest, context.job.key.bits)
    answer = line.receive_record(guest, "outputs", outputs=Spec(np.int64, (1,)))
    outputs = int(answer["outputs"][0])
    if not 1 <= outputs <= _MOST_OUTPUTS:
        raise ProtocolError(f"{guest} wants {outputs} trees at once")
    records = Records(**state["records"]) if done else Records()
    cuts = Cuts.of(table.x, config.bins, table.scratch)
    binned = cuts.apply(table.x, table.scratch)
    ours = HostColumns(line, guest, key, binned, cuts, table.columns, records)
    index = 1 + context.hosts.index(context.party)
    context.progress(done, config.trees)
    while (told := _told(context, done))[0] != _STOP:
        if told[0] == _TAKE_PART:
            if len(told[1]) != -(-rows // 8):
                raise ProtocolError(f"{guest} selected rows of another table")
            selected = np.unpackbits(told[1], count=rows).astype(np.bool_)
            if not selected.any():
                raise ProtocolError(f"{guest} selected no rows")
            form = Format.plan(config.precision_bits, int(selected.sum()), key)
            columns = columns_of(config, done, index, len(table.columns))
            ours.round(f"{done}", config.depth, outputs, selected, columns, form)
        done += 1
        context.checkpoint(done, {"records": records.to_dict()})
        context.progress(done, config.trees)
    share = host_share(table, records)
    return Outcome(model=share, rounds=done, facts={"importance": importance(share)})


def _arbiter(context: Context, config: SecureBoostConfig) -> Outcome:
    done, _ = context.restored() or (0, {})
    context.progress(done, config.trees)
    while _told(context, done)[0] != _STOP:
        done += 1
        context.checkpoint(done, {})
        context.progress(done, config.trees)
    return Outcome(rounds=done)
