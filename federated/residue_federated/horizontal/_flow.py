"""The messages of horizontal training, for the audit."""

from __future__ import annotations

from residue_federated.audit import Flow, Loop, Scene, Step
from residue_federated.horizontal._budget import repeats
from residue_federated.horizontal._config import HorizontalConfig

__all__ = ["flow"]

_CLIENTS = ("guest", "host")
_PAID = (
    Step("host", "guest", "given", "record"),
    *(Step("guest", role, "released", "record") for role in ("host", "arbiter")),
)


def flow(config: HorizontalConfig, scene: Scene) -> Flow:
    """Agreement on columns, keys, and one secure sum for each statistic, round and the end.

    A job that is resumed has its statistics already. Where hosts may be lost, the guest then hands
    the state to those that lack it, and with privacy the parties agree on how many sums are paid
    for. With privacy there is no sum at the end. Applied to other rows, nothing is sent.
    """
    if scene.applies:
        return Flow(agrees=False)
    masks = config.aggregation == "masks"
    add = _masked_sum if masks else _paillier_sum
    private, hosts = config.privacy, len(scene.hosts)
    counted = private is None or private.unit == "record"
    statistics = (
        *(add("mean") if counted else ()),
        *(add("variance") if config.standardise else ()),
    )
    least = 1 if private is None else 0  # the budget may be spent before a job is resumed
    loses = not repeats(config, 1 + hosts)
    return Flow(
        Step("host", "guest", "columns", "record"),
        Step("guest", "host", "columns", "record"),
        Step("guest", "arbiter", "columns", "record"),
        *([Step("guest", "host", "state", "record", optional=True)] if loses else []),
        *(_PAID if loses and private is not None else ()),
        *(_identities() if masks else _key()),
        *([Loop("statistics", statistics, least=0, most=1)] if statistics else []),
        Loop("round", add("round/{round}"), least=least, most=config.rounds, rounds=True),
        *(add("final") if private is None else ()),
    )


def _key() -> tuple[Step, ...]:
    return tuple(Step("guest", role, "key", "public_key") for role in ("host", "arbiter"))


def _identities() -> tuple[Step, ...]:
    """Every client to every other; nobody waits for theirs."""
    pairs = [("guest", "host"), ("host", "guest"), ("host", "host")]
    return tuple(Step(a, b, "identity", "record", waits=False) for a, b in pairs)


def _paillier_sum(name: str) -> tuple[Step | Loop, ...]:
    """Clients send part after part without waiting; the sums come back as they are ready."""
    part = (
        *(Step(c, "arbiter", f"{name}/*", "ciphertexts", waits=False) for c in _CLIENTS),
        Step("arbiter", "guest", f"{name}/sum/*", "ciphertexts"),
    )
    return (Loop("part", part), Step("guest", "host", f"{name}/sum", "record"))


def _masked_sum(name: str) -> tuple[Step | Loop, ...]:
    """Three times clients say something and the arbiter answers those who are left."""
    asked = (("offer", "offers"), ("vector", "left"), ("shares", "sum"))
    return tuple(
        step
        for said, answered in asked
        for step in (
            *(Step(c, "arbiter", f"{name}/{said}", "record") for c in _CLIENTS),
            *(Step("arbiter", c, f"{name}/{answered}", "record") for c in _CLIENTS),
        )
    )
