"""The configuration of linear models."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from residue_federated._schema import ComponentConfig, Positive, Strict

__all__ = ["EarlyStop", "LinearConfig", "Optimiser", "Precision"]


class Optimiser(Strict):
    """How a party turns a gradient into new weights; each party runs it on its own weights."""

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: float = Field(default=0.0, ge=0, lt=1)


class EarlyStop(Strict):
    """Stop after the epoch whose loss differs from the one before by less than `tolerance`."""

    tolerance: Positive = 1e-4


class Precision(Strict):
    """Fixed-point widths. A device's work grows with ``ceil(feature_bits / 4)``.

    feature_bits: signed width of a feature, each column scaled to use all of it.
    residual_bits, integer_bits: fractional and integer bits of one party's share of a residual.
    pack: gradients in one ciphertext on the way to the arbiter.
    """

    feature_bits: int = Field(default=12, ge=4, le=24)
    residual_bits: int = Field(default=16, ge=8, le=32)
    integer_bits: int = Field(default=6, ge=2, le=16)
    pack: int = Field(default=4, ge=1, le=16)


class LinearConfig(ComponentConfig):
    """A vertical linear model, trained by gradients. ``batch_size: null`` is full batch.

    one_vs_rest: logistic regression of a label of several classes 0, 1, ...: a model for each class
    against all others, one after the other. Softmax regression is one model for all of them, by
    the exact gradient.

    The loss that is minimised is the mean over rows plus ``l1 * sum of |w| + l2 / 2 * sum of w**2``
    over all weights but intercepts; with l1 weights become exactly zero.

    Poisson regression takes labels from 0 to below ``2**precision.integer_bits``, and the factor
    ``exp(u)`` of each party must stay below that bound too. Softmax moves its factors below it;
    where the parties' scores differ much, more integer_bits and residual_bits keep it exact.
    """

    needs_arbiter: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    why_no_privacy: ClassVar[str] = (
        "every party sees its exact gradient of every step, so noise on the weights that they lead "
        "to would hide nothing from the others; randomise_labels before it protects labels"
    )

    type: Literal[
        "logistic_regression", "linear_regression", "poisson_regression", "softmax_regression"
    ]
    one_vs_rest: bool = False
    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=2)
    shuffle_seed: int | None = Field(default=None, ge=0)
    optimiser: Optimiser = Optimiser()
    l1: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    intercept: bool = True
    early_stop: EarlyStop | None = None
    precision: Precision = Precision()

    @model_validator(mode="after")
    def _one_label(self) -> Self:
        if self.one_vs_rest and self.type != "logistic_regression":
            raise ValueError("one_vs_rest is for logistic_regression")
        return self

    def check_clients(self, clients: int) -> None:
        """Raise `ValueError` if factors of so many parties are too coarse for softmax."""
        bits = self.precision
        least = (clients - 1) * bits.integer_bits
        if self.type == "softmax_regression" and bits.residual_bits < least:
            raise ValueError(f"softmax_regression needs precision.residual_bits of {least} here")

    @property
    def most_rounds(self) -> int:
        """Epochs."""
        return self.epochs
