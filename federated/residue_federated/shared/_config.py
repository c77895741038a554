"""The configuration of secret-shared linear models."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from residue_federated._schema import ComponentConfig, Positive, Strict
from residue_federated.linear._config import LinearConfig

__all__ = ["Settled", "SharedConfig", "SharedOptimiser", "SharedPrecision"]

_SOFTMAX_BITS = 6
"""Integer bits at most: an exponential of a score is a number of so many powers of two."""
_THRESHOLD_BITS = 6
"""Of a threshold, at least: it is exact to one percent."""


class SharedOptimiser(Strict):
    """Gradient descent, with momentum: what is linear, so that it can be done on shares."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: float = Field(default=0.0, ge=0, lt=1)


class Settled(Strict):
    """Stop after the epoch that moved the weights by less than `tolerance` (Euclidean norm).

    That norm, one number an epoch, becomes known to both parties.
    """

    tolerance: Positive = 1e-3


class SharedPrecision(Strict):
    """Fixed-point widths. A device's work grows with the bits of a feature.

    feature_bits, weight_bits: fractional bits of features and weights. integer_bits: features,
    weights, predictors, residuals and labels stay below ``2**integer_bits`` in magnitude.
    """

    feature_bits: int = Field(default=8, ge=4, le=12)
    weight_bits: int = Field(default=24, ge=16, le=32)
    integer_bits: int = Field(default=6, ge=2, le=12)


class SharedConfig(ComponentConfig):
    """A linear model whose weights are shared between guest and host while it is trained.

    one_vs_rest: logistic regression of a label of several classes 0, 1, ...: a model for each class
    against all others, one after the other.

    ``batch_size: null`` is full batch. activation, of logistic regression: ``taylor``, the tangent
    of the sigmoid at 0, or ``sine``, a series near it for predictors from -24 to 24. reveal:
    ``own`` gives each party the weights of its own columns at the end, ``none`` keeps them shared;
    both parties are then needed to predict.

    With l1 weights become exactly zero, by a soft threshold of ``l1 * learning_rate`` after each
    step, which takes a comparison of every weight.

    Poisson regression takes labels from 0 to below ``2**precision.integer_bits``; predictors may
    fall to -16.

    Softmax regression is one model of all classes 0, 1, ... of the label, by the exact gradient. It
    takes up to 6 integer_bits: scores of a row stay below ``2**integer_bits`` in magnitude.
    """

    trains: ClassVar[bool] = True
    two_parties: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    type: Literal[
        "shared_logistic_regression",
        "shared_linear_regression",
        "shared_poisson_regression",
        "shared_softmax_regression",
    ]
    one_vs_rest: bool = False
    activation: Literal["taylor", "sine"] = "taylor"
    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=2)
    shuffle_seed: int | None = Field(default=None, ge=0)
    optimiser: SharedOptimiser = SharedOptimiser()
    l1: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    intercept: bool = True
    early_stop: Settled | None = None
    reveal: Literal["own", "none"] = "own"
    precision: SharedPrecision = SharedPrecision()

    @model_validator(mode="after")
    def _of_classes(self) -> Self:
        for name, default in (("activation", "taylor"), ("one_vs_rest", False)):
            if getattr(self, name) != default and self.type != "shared_logistic_regression":
                raise ValueError(f"{name} is for shared_logistic_regression")
        return self

    @model_validator(mode="after")
    def _exponentials_fit(self) -> Self:
        if self.softmax and self.precision.integer_bits > _SOFTMAX_BITS:
            raise ValueError(
                f"shared_softmax_regression takes up to {_SOFTMAX_BITS} precision.integer_bits"
            )
        return self

    @model_validator(mode="after")
    def _threshold_fits(self) -> Self:
        bits = self.precision
        fine = 2.0 ** (_THRESHOLD_BITS - bits.weight_bits)
        step = self.l1 * self.optimiser.learning_rate
        if self.l1 and not fine <= step < 2.0**bits.integer_bits:
            raise ValueError(
                f"l1 times learning_rate is {step:g}: with this precision it can be from {fine:g} "
                f"to below {2**bits.integer_bits}"
            )
        return self

    @property
    def softmax(self) -> bool:
        """Whether there is a weight of each column for each class."""
        return self.type == "shared_softmax_regression"

    @property
    def quadratic(self) -> bool:
        """Whether residuals are linear in the scores, so that each party computes its share."""
        curved = self.softmax or self.type == "shared_poisson_regression"
        return not curved and self.activation == "taylor"

    @property
    def most_rounds(self) -> int:
        """Epochs."""
        return self.epochs

    @property
    def plain(self) -> LinearConfig:
        """The model of the arbiter's family that this one trains: its batches, label, penalty."""
        return LinearConfig.model_validate(
            {
                "type": self.type.removeprefix("shared_"),
                "one_vs_rest": self.one_vs_rest,
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "shuffle_seed": self.shuffle_seed,
                "l1": self.l1,
                "l2": self.l2,
                "intercept": self.intercept,
            }
        )
