"""Scores of rows by a secret-shared model, opened to the guest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Model, Outcome
from residue_federated._data import Table
from residue_federated.errors import Diverged
from residue_federated.linear import _predict as of_own_weights
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._exchange import Exchange, Keys
from residue_federated.shared._format import encoded_features, fraction_of
from residue_federated.shared._products import Products
from residue_federated.shared._ring import Integers, Ring, integers

__all__ = ["apply", "opened_scores", "predictions", "scores_of_own"]


def apply(context: Context, config: SharedConfig, table: Table | None, model: Model) -> Outcome:
    """The linear predictor of each row, at the guest, in the units of the label; of each class.

    Raises `DataError` if the parties' rows differ, or values are missing or too large.
    """
    if config.reveal == "own":
        return of_own_weights.apply(context, config.plain, table, model)
    assert table is not None  # a job with an arbiter has no such component
    models = model["classes"] if config.one_vs_rest else [model]
    table = table.with_columns(context.party, models[0]["columns"])
    table.require_complete(context.party)
    context.agree_on_rows(table)
    keys, x = Keys.agree(context), encoded_features(config, context, table)
    parts = [
        context.within(f"class-{k}", lambda *_: None) if config.one_vs_rest else context
        for k in range(len(models))
    ]
    scores = [
        _scores(part, config, keys, x, each["shares"])
        for part, each in zip(parts, models, strict=True)
    ]
    found = [u for u in scores if u is not None]
    if not found:
        return Outcome()
    if config.one_vs_rest:
        return Outcome(scores=np.stack(found, axis=1))
    (u,) = found
    return Outcome(scores=u if table.y_scaling is None else table.y_scaling.undo(u))


def _scores(
    context: Context, config: SharedConfig, keys: Keys, x: NDArray[np.int64], shares: dict[str, Any]
) -> NDArray[np.float64] | None:
    """Of rows with features x, by one model; None at the host."""
    own, peers = (_of_hex(shares[whose]) for whose in ("own", "peers"))
    exchange, ring = Exchange(context, keys), Ring(shares["bits"])
    sizes = own.shape[-1], peers.shape[-1]
    products = Products(exchange, ring, config.precision, *sizes)
    return opened_scores(config, products, x, own, peers)


def _of_hex(shares: Any) -> Integers:
    """Integers of a nested list of their digits."""
    digits = np.array(shares, dtype=np.str_)
    return integers([int(s, 16) for s in digits.ravel()]).reshape(digits.shape)


def scores_of_own(context: Context, table: Table, model: Model) -> NDArray[np.float64] | None:
    """At the guest, from weights that each party has of its own columns; None at the host.

    ``(rows,)``, or ``(rows, classes)`` of softmax.
    """
    scores = table.x @ np.array(model["weights"]).T + np.array(model["intercept"] or 0.0)
    if context.role == "host":
        context.line.send_record(context.guest, "scores", scores=scores)
        return None
    return of_own_weights.with_shares(context, scores)


def opened_scores(
    config: SharedConfig,
    products: Products,
    x: NDArray[np.int64],
    own: Integers,
    peers: Integers,
) -> NDArray[np.float64] | None:
    """At the guest, from shares of all weights; None at the host.

    ``(rows,)``, or ``(rows, classes)`` of softmax. Raises `Diverged` if one is out of range.
    """
    exchange, ring = products.exchange, products.ring
    u = products.predictors("scores", x, own, peers)
    if not exchange.lead:
        exchange.show("scores", ring, u)
        return None
    whole = ring.centred(u + exchange.shown("scores", ring, u.shape))
    fraction = fraction_of(config.precision)
    if abs(whole).max() >> (fraction + config.precision.integer_bits):
        raise Diverged(
            "a score left the range of precision.integer_bits: lower the learning rate, "
            "standardise the data or raise integer_bits"
        )
    return np.asarray(np.ldexp(whole.astype(np.float64), -fraction).T)


def predictions(
    config: SharedConfig, scores: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What `scores` say of each row, by name."""
    return of_own_weights.predictions(config.plain, scores)
