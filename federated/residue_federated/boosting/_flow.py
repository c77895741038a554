"""The messages of boosted trees, for the audit."""

from __future__ import annotations

from residue_federated.audit import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.boosting._config import SecureBoostConfig

__all__ = ["flow"]


def flow(config: SecureBoostConfig, scene: Scene) -> Flow:
    """A round a tree: who takes part, encrypted gradients, then sums and splits level by level.

    After the last tree a round tells everybody to stop. Applied to other rows: the walk through all
    trees, some rows at a time.
    """
    return _walk() if scene.applies else _training(config)


def _walk() -> Flow:
    asked = Step("guest", "host", "walk/{chunk}/{level}", "record")
    told = Step("host", "guest", "walk/{chunk}/{level}", "record")
    return Flow(
        *SAME_ROWS,
        Step("guest", "host", "walk", "record"),
        Loop("chunk", (Loop("level", (asked, told)),), least=0),
        agrees=False,
    )


def _training(config: SecureBoostConfig) -> Flow:
    level: tuple[Step | Loop, ...] = (
        Step("guest", "host", "{tree}/build/{level}", "record"),
        Step("host", "guest", "{tree}/counts/{level}", "record"),
        Loop("part", (Step("host", "guest", "{tree}/sums/{level}/{part}", "ciphertexts"),)),
        Step("guest", "host", "{tree}/divide/{level}", "record", optional=True),
        Step("host", "guest", "{tree}/left/{level}", "record", optional=True),
    )
    # Peer after peer: nobody waits for all others here.
    tree: tuple[Step | Loop, ...] = (
        *(Step(role, "guest", "{tree}/ready", "record") for role in ("host", "arbiter")),
        *(Step("guest", r, "{tree}/round", "record", waits=False) for r in ("host", "arbiter")),
        Loop("part", (Step("guest", "host", "{tree}/gradients/{part}", "ciphertexts"),), least=0),
        Loop("level", level, least=0, most=config.depth),
    )
    return Flow(
        *SAME_ROWS,
        Step("host", "guest", "columns", "record"),
        Step("guest", "host", "key", "public_key"),
        Step("guest", "host", "outputs", "record", waits=False),
        Loop("tree", tree, most=config.trees + 1, rounds=True),
    )
