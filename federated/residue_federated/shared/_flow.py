"""The messages of secret-shared training, for the audit."""

from __future__ import annotations

from residue_federated.audit import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.linear._models import MOST_CLASSES, batch_count
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._format import ring_of
from residue_federated.shared._reciprocal import RING
from residue_federated.shared._softmax import interval_of, levels_of, prime_of

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
    return Flow(*keys, _CLASSES, agrees=False, parts=parts)


def _training(config: SharedConfig, scene: Scene, keys: tuple[Step, ...]) -> Flow:
    """Agreement on rows, columns, classes and keys, the batches, what is opened."""
    bits = None if scene.rows is None else ring_of(config, scene.rows).bits
    batch = (
        *_predictors("{epoch}/{batch}"),
        *_residuals(config),
        *_both("d/{epoch}/{batch}", "ciphertexts", bits),
        *_both("g/{epoch}/{batch}", "ciphertexts"),
        *(_rectified("{epoch}/{batch}", bits) if config.l1 else ()),
    )
    number = None if scene.rows is None else batch_count(config.plain, scene.rows)
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
        *([_CLASSES] if config.softmax else []),
        *keys,
        epochs,
        *(_both("weights", "record") if config.reveal == "own" else _predictors("scores")),
        _SCORES,
    )


_SCORES = Step("host", "guest", "scores", "record")
_CLASSES = Step("guest", "host", "classes", "record")


def _both(tag: str, kind: str, bits: int | None = None) -> tuple[Step, Step]:
    """A message each way, at the same time: the host's needs not the guest's."""
    return (
        Step("guest", "host", tag, kind, bits=bits),
        Step("host", "guest", tag, kind, bits=bits, waits=False),
    )


def _predictors(tag: str) -> tuple[Step, ...]:
    return (*_both(f"w/{tag}", "ciphertexts"), *_both(f"z/{tag}", "ciphertexts"))


def _residuals(config: SharedConfig) -> tuple[Step | Loop, ...]:
    """Products of shares: one, or those of softmax, for the largest number of classes."""
    if config.quadratic:
        return ()
    if not config.softmax:
        return _crossed("p/{epoch}/{batch}", waits=False)
    levels, rounds = levels_of(MOST_CLASSES), interval_of(MOST_CLASSES).rounds
    compared = _rectified("{epoch}/{batch}/{level}", RING.bits)
    divided = _crossed("r/{epoch}/{batch}/{round}", RING.bits)
    return (
        Loop("level", compared, most=levels),
        *_crossed("p/{epoch}/{batch}", prime_of(config.precision).bit_length()),
        *_crossed("s/{epoch}/{batch}", RING.bits),
        Loop("round", divided, least=interval_of(2).rounds, most=rounds),
        *_crossed("q/{epoch}/{batch}", RING.bits),
    )


def _crossed(tag: str, bits: int | None = None, *, waits: bool = True) -> tuple[Step, Step]:
    """`Exchange.crossed`: the host's part of products of shares, the guest's answer."""
    return (
        Step("host", "guest", tag, "ciphertexts", bits=bits, waits=waits),
        Step("guest", "host", tag, "ciphertexts"),
    )


def _rectified(tag: str, bits: int | None) -> tuple[Step, ...]:
    """Bits of the host's numbers, compared, then products of shares of `bits` bits."""
    return (*_crossed(f"c/{tag}", 1), *_crossed(f"m/{tag}", bits))


def _moved(bits: int | None) -> tuple[Step, ...]:
    return (*_crossed("moved/{epoch}", bits), *_both("norm/{epoch}", "record"))
