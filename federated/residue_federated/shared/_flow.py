"""The messages of secret-shared training, for the audit."""

from __future__ import annotations

from residue_federated.audit import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.linear._models import batches
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._format import ring_of

__all__ = ["flow"]


def flow(config: SharedConfig, scene: Scene) -> Flow:
    """One training, or with `one_vs_rest` the number of classes, keys, and one training for each.

    Applied to other rows, the hosts' shares of the scores, or the protocol of predictors.
    """
    keys = _both("key", "public_key")
    if scene.applies:
        if config.reveal == "own":
            return Flow(*SAME_ROWS, _SCORES, agrees=False)
        scores = (*_predictors("scores"), _SCORES)
        if not config.one_vs_rest:
            return Flow(*SAME_ROWS, *keys, *scores, agrees=False)
        parts = {"class-*": Flow(*scores, agrees=False)}
        return Flow(*SAME_ROWS, *keys, agrees=False, parts=parts)
    if not config.one_vs_rest:
        return _training(config, scene, keys)
    parts = {"class-*": _training(config, scene, ())}
    return Flow(*keys, Step("guest", "host", "classes", "record"), agrees=False, parts=parts)


def _training(config: SharedConfig, scene: Scene, keys: tuple[Step, ...]) -> Flow:
    """Agreement on rows, columns and keys, the batches, what is opened."""
    bits = None if scene.rows is None else ring_of(config, scene.rows).bits
    batch = (
        *_predictors("{epoch}/{batch}"),
        *_residuals(config),
        *_both("d/{epoch}/{batch}", "ciphertexts", bits),
        *_both("g/{epoch}/{batch}", "ciphertexts"),
        *(_threshold(bits) if config.l1 else ()),
    )
    number = None if scene.rows is None else len(list(batches(config.plain, scene.rows, 0)))
    epoch = Loop("batch", batch, least=number or 1, most=number)
    moved = () if config.early_stop is None else _moved(bits)
    epochs = Loop(
        "epoch",
        (epoch, *moved),
        least=config.epochs if config.early_stop is None else 1,
        most=config.epochs,
        rounds=True,
    )
    return Flow(
        *SAME_ROWS,
        *_both("columns", "record"),
        *keys,
        epochs,
        *(_both("weights", "record") if config.reveal == "own" else _predictors("scores")),
        _SCORES,
    )


_SCORES = Step("host", "guest", "scores", "record")


def _both(tag: str, kind: str, bits: int | None = None) -> tuple[Step, Step]:
    """A message each way, at the same time: the host's needs not the guest's."""
    return (
        Step("guest", "host", tag, kind, bits=bits),
        Step("host", "guest", tag, kind, bits=bits, waits=False),
    )


def _predictors(tag: str) -> tuple[Step, ...]:
    return (*_both(f"w/{tag}", "ciphertexts"), *_both(f"z/{tag}", "ciphertexts"))


def _residuals(config: SharedConfig) -> tuple[Step, ...]:
    """The host's part of a product of shares, the guest's answer."""
    if config.type != "shared_poisson_regression" and config.activation == "taylor":
        return ()
    return (
        Step("host", "guest", "p/{epoch}/{batch}", "ciphertexts", waits=False),
        Step("guest", "host", "p/{epoch}/{batch}", "ciphertexts"),
    )


def _threshold(bits: int | None) -> tuple[Step, ...]:
    """Bits of the host's numbers, then its part of a product of shares; the guest's answers."""
    return tuple(
        Step(
            a, b, f"{tag}/{{epoch}}/{{batch}}", "ciphertexts", bits=width if b == "guest" else None
        )
        for tag, width in (("c", 1), ("m", bits))
        for a, b in (("host", "guest"), ("guest", "host"))
    )


def _moved(bits: int | None) -> tuple[Step, ...]:
    return (
        Step("host", "guest", "moved/{epoch}", "ciphertexts", bits=bits),
        Step("guest", "host", "moved/{epoch}", "ciphertexts"),
        *_both("norm/{epoch}", "record"),
    )
