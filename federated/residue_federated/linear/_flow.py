"""The messages of vertical linear training, for the audit."""

from __future__ import annotations

from itertools import pairwise

from residue_federated.audit import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._models import batch_count

__all__ = ["flow"]


def flow(config: LinearConfig, scene: Scene) -> Flow:
    """One training, or with `one_vs_rest` the key, the number of classes, and one for each.

    Applied to other rows, the hosts' shares of the scores.
    """
    if scene.applies:
        return Flow(*SAME_ROWS, Step("host", "guest", "scores", "record"), agrees=False)
    key = tuple(Step("arbiter", role, "key", "public_key") for role in ("guest", "host"))
    if not config.one_vs_rest:
        return _training(config, scene, key)
    told = (Step("guest", role, "classes", "record") for role in ("host", "arbiter"))
    parts = {"class-*": _training(config, scene, ())}
    return Flow(*key, *told, agrees=False, parts=parts)


def _training(config: LinearConfig, scene: Scene, key: tuple[Step, ...]) -> Flow:
    """The four steps of every batch, between the agreement on rows and key, and the scores."""
    batch = (
        *_residuals(config, scene),
        Step("guest", "host", "d/{epoch}/{batch}", "ciphertexts"),
        Step("host", "guest", "loss/{epoch}/{batch}", "ciphertexts"),
        Step("guest", "arbiter", "g/{epoch}/{batch}", "ciphertexts"),
        Step("host", "arbiter", "g/{epoch}/{batch}", "ciphertexts"),
        Step("arbiter", "guest", "g/{epoch}/{batch}", "masked_plaintexts"),
        Step("arbiter", "host", "g/{epoch}/{batch}", "masked_plaintexts"),
    )
    number = None if scene.rows is None else batch_count(config, scene.rows)
    epoch = Loop("batch", batch, least=number or 1, most=number)
    softmax = config.type == "softmax_regression"
    labelled = softmax or config.type == "poisson_regression"
    return Flow(
        *SAME_ROWS,
        *([Step("guest", "host", "classes", "record")] if softmax else []),
        Step("guest", "arbiter", "shape", "record"),
        Step("host", "arbiter", "shape", "record"),
        *key,
        *([Step("guest", "host", "y", "ciphertexts")] if labelled else []),
        Loop("epoch", (epoch,), most=config.epochs, rounds=True),
        Step("host", "guest", "scores", "record"),
    )


def _residuals(config: LinearConfig, scene: Scene) -> list[Step]:
    """How the guest comes by the residuals: shares of all hosts, or chains of factors.

    What a party encrypts fits the bits that the precision gives it, rounding included.
    """
    bits = config.precision.residual_bits + config.precision.integer_bits + 1
    if config.type in ("linear_regression", "logistic_regression"):
        return [Step("host", "guest", "u/{epoch}/{batch}", "ciphertexts", bits=bits)]
    chain = [*(f"@{host}" for host in scene.hosts), "guest"]
    factors = [
        Step(a, b, "u/{epoch}/{batch}", "ciphertexts", bits=None if number else bits)
        for number, (a, b) in enumerate(pairwise(chain))
    ]
    if config.type == "poisson_regression":
        return factors
    return [
        *factors,
        Step("guest", "arbiter", "s/{epoch}/{batch}", "ciphertexts"),
        Step("arbiter", "guest", "s/{epoch}/{batch}", "ciphertexts"),
        *(Step(a, b, "p/{epoch}/{batch}", "ciphertexts") for a, b in pairwise(["guest", *chain])),
    ]
