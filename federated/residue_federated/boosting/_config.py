"""The configuration of boosted trees."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from residue_federated._schema import ComponentConfig, Positive, Share, Strict

__all__ = ["EarlyStop", "Goss", "SecureBoostConfig"]

_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Goss(Strict):
    """Gradient-based one-side sampling (Ke et al., LightGBM, 2017).

    Each tree grows on the share `top` of rows with the largest gradients and on the share `other`
    of all rows, drawn from the rest and weighted up to stand for it.
    """

    top: float = Field(default=0.2, gt=0, lt=1)
    other: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _a_part(self) -> Self:
        if self.top + self.other > 1:
            raise ValueError("top and other together are at most 1")
        return self


class EarlyStop(Strict):
    """Stop once the loss has not fallen by more than `tolerance` for so many trees.

    The loss is that of the rows trained on, or, with `validation`, of that share of rows, drawn by
    the seed and not trained on. Trees that brought no gain stay in the model.
    """

    rounds: int = Field(default=5, ge=1)
    tolerance: _NotNegative = 0.0
    validation: float = Field(default=0.0, ge=0, lt=1)


class SecureBoostConfig(ComponentConfig):
    """Trees grown level by level on histograms; the guest holds the key, no arbiter is needed.

    trees: how many; of several classes, one for each class counts as one together.
    bins: of values a column; missing values have one of their own and go where the gain is larger.
    min_child_weight, min_leaf_rows: sum of second derivatives, and rows, that a child has at least.
    subsample, column_subsample: share of the rows, and of each party's columns, a tree grows on.
    precision_bits: of a first or second derivative under encryption; float32 has 24.
    guest_trees: numbers, from 1, of trees that only the guest's columns split.
    mixed_period: all parties take turns with so many trees of their own columns, the guest first.

    Other names are xgboost's and mean the same.
    """

    trains: ClassVar[bool] = True
    why_no_privacy: ClassVar[str] = (
        "hosts see which rows share a node, and splits are chosen by exact sums, so noise on the "
        "weights of leaves would hide no row; randomise_labels before it protects labels"
    )
    accepts_missing: ClassVar[bool] = True

    type: Literal["secureboost"]
    objective: Literal["binary", "multiclass", "squared_error"] = "binary"
    trees: int = Field(default=10, ge=1, le=100_000)
    depth: int = Field(default=5, ge=1, le=12)
    bins: int = Field(default=32, ge=2, le=255)
    learning_rate: Positive = 0.3
    reg_lambda: _NotNegative = 1.0
    gamma: _NotNegative = 0.0
    min_child_weight: _NotNegative = 1.0
    min_leaf_rows: int = Field(default=1, ge=1)
    subsample: Share = 1.0
    column_subsample: Share = 1.0
    goss: Goss | None = None
    early_stop: EarlyStop | None = None
    precision_bits: int = Field(default=24, ge=8, le=32)
    seed: int = Field(default=0, ge=0)
    guest_trees: list[Annotated[int, Field(ge=1)]] = Field(default=[])
    mixed_period: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.goss is not None and self.subsample < 1:
            raise ValueError("give goss or subsample, not both")
        if self.guest_trees and self.mixed_period is not None:
            raise ValueError("give guest_trees or mixed_period, not both")
        return self

    @property
    def most_rounds(self) -> int:
        """Trees."""
        return self.trees
