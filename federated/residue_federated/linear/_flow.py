"""The messages of vertical linear training, for the audit."""

from __future__ import annotations

from residue_federated.audit import SAME_ROWS, Flow, Loop, Step
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._models import batches

__all__ = ["flow"]


def flow(config: LinearConfig, rows: int | None) -> Flow:
    """The four steps of every batch, between the agreement on rows and key, and the scores.

    A share of a residual fits the bits that the precision gives it, rounding included.
    """
    batch = (
        Step("host", "guest", "u/{epoch}/{batch}", "ciphertexts", bits=_share_bits(config)),
        Step("guest", "host", "d/{epoch}/{batch}", "ciphertexts"),
        Step("host", "guest", "loss/{epoch}/{batch}", "ciphertexts"),
        Step("guest", "arbiter", "g/{epoch}/{batch}", "ciphertexts"),
        Step("host", "arbiter", "g/{epoch}/{batch}", "ciphertexts"),
        Step("arbiter", "guest", "g/{epoch}/{batch}", "masked_plaintexts"),
        Step("arbiter", "host", "g/{epoch}/{batch}", "masked_plaintexts"),
    )
    number = None if rows is None else len(list(batches(config, rows, 0)))
    epoch = Loop("batch", batch, least=number or 1, most=number)
    return Flow(
        *SAME_ROWS,
        Step("guest", "arbiter", "shape", "record"),
        Step("host", "arbiter", "shape", "record"),
        Step("arbiter", "guest", "key", "public_key"),
        Step("arbiter", "host", "key", "public_key"),
        Loop("epoch", (epoch,), most=config.epochs, rounds=True),
        Step("host", "guest", "scores", "record"),
    )


def _share_bits(config: LinearConfig) -> int:
    return config.precision.residual_bits + config.precision.integer_bits + 1
