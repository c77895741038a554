"""The messages of feature components, for the audit."""

from __future__ import annotations

from residue_federated._schema import ComponentConfig
from residue_federated.audit import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.features._blocks import BLOCK_ROWS, block_count
from residue_federated.features._config import (
    ImputeConfig,
    SampleConfig,
    SelectConfig,
    SplitConfig,
)

__all__ = ["binning", "correlating", "drawing", "naming", "quiet"]

_KEY = Step("guest", "host", "key", "public_key")


def quiet(config: ComponentConfig, scene: Scene) -> Flow:
    """Of a component that sends nothing of its own."""
    return Flow(agrees=not scene.applies)


def naming(config: ImputeConfig | SelectConfig, scene: Scene) -> Flow:
    """Columns that the job names: which party has them."""
    if scene.applies:
        return Flow(agrees=False)
    named = config.columns if config.type == "impute" else config.keep or config.drop
    if not named:
        return Flow()
    asked = Step("host", "guest", "columns", "record")
    return Flow(asked, Step("guest", "host", "columns", "record"))


def drawing(config: SplitConfig | SampleConfig, scene: Scene) -> Flow:
    """Rows drawn by label are told by the guest, others are drawn alike everywhere."""
    if scene.applies:
        return Flow(agrees=False)
    by_label = config.stratify or (config.type == "sample" and bool(config.classes))
    told = [Step("guest", "host", "chosen", "record")] if by_label else []
    return Flow(*SAME_ROWS, *told)


def binning(config: ComponentConfig, scene: Scene) -> Flow:
    """Encrypted labels to the hosts, sums by bin back, what the bins are worth."""
    if scene.applies:
        return Flow(agrees=False)
    return Flow(
        *SAME_ROWS,
        _KEY,
        _per_block("y", scene),
        Step("host", "guest", "bins", "record"),
        Step("host", "guest", "sums", "ciphertexts"),
        Step("guest", "host", "weights", "record"),
    )


def correlating(config: ComponentConfig, scene: Scene) -> Flow:
    """Encrypted columns to the hosts, masked products back, decrypted, and the correlations."""
    if scene.applies:
        return Flow(agrees=False)
    return Flow(
        *SAME_ROWS,
        _KEY,
        Step("guest", "host", "columns", "record"),
        _per_block("rows", scene),
        Step("host", "guest", "columns", "record"),
        Step("host", "guest", "sums", "ciphertexts"),
        Step("guest", "host", "sums", "record"),
        Step("host", "guest", "correlations", "record"),
    )


def _per_block(tag: str, scene: Scene) -> Loop:
    number = None if scene.rows is None else block_count(scene.rows)
    step = Step("guest", "host", f"{tag}/{{block}}", "ciphertexts")
    return Loop("block", (step,), least=number or 1, most=number, rows=BLOCK_ROWS)
