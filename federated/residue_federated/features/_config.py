"""The configurations of feature components."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from residue_federated._schema import ComponentConfig, Name
from residue_federated.privacy._config import Epsilon, LabelPrivacy, Range

__all__ = [
    "BinConfig",
    "CorrelationConfig",
    "EvaluateConfig",
    "Fill",
    "ImputeConfig",
    "RandomiseLabelsConfig",
    "SampleConfig",
    "SelectConfig",
    "SplitConfig",
    "StandardiseConfig",
]

Fill = Literal["mean", "median"] | Annotated[float, Field(allow_inf_nan=False)]
"""What stands for a missing value: the mean or median of its column, or a number."""


class StandardiseConfig(ComponentConfig):
    """Scale every column to mean 0 and variance 1; missing values stay missing.

    target: the guest's label as well, for regression.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["standardise"]
    target: bool = False


class ImputeConfig(ComponentConfig):
    """Fill missing values, each party its own.

    fill: of every column that `columns` does not name. columns: name -> fill, of any party.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["impute"]
    fill: Fill = "mean"
    columns: dict[str, Fill] = Field(default_factory=dict)


class BinConfig(ComponentConfig):
    """Cut columns into bins by quantiles; weigh bins (WOE) and columns (IV) by a binary label.

    The guest learns how many rows and positives each bin of a host has, but not which bin is which;
    a host learns the IV of its columns and, with ``transform: woe``, the WOE of its bins, which
    says how often the label is positive there.

    bins: at most so many a column, besides the one of missing values. transform: ``woe`` puts the
    WOE of its bin in place of every value. privacy: differential privacy of the guest's labels
    towards the hosts; what the guest's own bins are worth has noise then, too.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["bin"]
    bins: int = Field(default=10, ge=2, le=256)
    transform: Literal["woe"] | None = None
    privacy: LabelPrivacy | None = None

    @property
    def tells_labels(self) -> bool:
        """Whether hosts get exact WOE or IV."""
        return self.privacy is None


class SelectConfig(ComponentConfig):
    """Keep the columns that meet everything that is asked.

    keep: only these. drop: not these. min_variance: at least this variance, missing values aside.
    min_iv: at least this IV. bins: the ``bin`` component whose IVs count; by default the last one
    before. Names are of columns of any party.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["select"]
    keep: list[str] | None = Field(default=None, min_length=1)
    drop: list[str] = Field(default_factory=list)
    min_variance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    min_iv: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    bins: Name | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.bins is not None and self.min_iv is None:
            raise ValueError("bins is for min_iv: set min_iv as well")
        return self


class SplitConfig(ComponentConfig):
    """One part of the rows. Components with the same shares, seed and input give disjoint parts.

    train, validation, test: shares of the rows, together 1. stratify: every part has the label's
    classes in the same proportions; hosts then get the rows from the guest.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["split"]
    part: Literal["train", "validation", "test"]
    train: float = Field(default=0.8, ge=0, le=1)
    validation: float = Field(default=0.0, ge=0, le=1)
    test: float = Field(default=0.2, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    stratify: bool = False

    @property
    def tells_labels(self) -> bool:
        """Whether rows are drawn by label."""
        return self.stratify

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of train, validation and test rows."""
        return self.train, self.validation, self.test

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        if not getattr(self, self.part):
            raise ValueError(f"part is {self.part}, whose share of the rows is 0")
        return self


class SampleConfig(ComponentConfig):
    """Leave out or repeat rows by chance; a repeated row's identifier gains ``#2``, ``#3``, ...

    share: how often a row is drawn on average: below 1 leaves rows out, above 1 repeats rows, each
    as often as any other or once more. classes: label -> share, in place of `share` for rows of
    that label; hosts then get the rows from the guest, and learn from what is left out or repeated
    something about its label. stratify: draw within each class; hosts get the rows here, too.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["sample"]
    share: Annotated[float, Field(gt=0, le=100)] = 1.0
    classes: dict[float, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    stratify: bool = False

    @property
    def tells_labels(self) -> bool:
        """Whether rows are drawn by label."""
        return self.stratify or bool(self.classes)

    @property
    def repeats_rows(self) -> bool:
        """Whether a row may come more than once."""
        return max([self.share, *self.classes.values()]) > 1


class RandomiseLabelsConfig(ComponentConfig):
    """Give every label of the guest's by a random answer: differential privacy of labels.

    Whatever is computed of the answers is epsilon-DP: two tables are neighbours if one row has
    another label. That is what hosts, arbiter and whoever gets the model see of all components
    behind this one, together.

    epsilon: of each label. classes: labels are 0, 1, ... (or -1 and 1, answered by 0 and 1), so
    many; each is kept or becomes another class (randomised response). range: labels are numbers,
    cut to least and largest value, from general knowledge and not from the data; Laplace noise is
    added. cut: noisy numbers are cut to the range as well, which Poisson regression needs.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["randomise_labels"]
    epsilon: Epsilon
    classes: int | None = Field(default=None, ge=2, le=100)
    range: Range | None = None
    cut: bool = False

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.classes is None) == (self.range is None):
            raise ValueError("give either classes or range: what the labels are")
        if self.range is None and self.cut:
            raise ValueError("cut is for numbers: give range")
        return self


class CorrelationConfig(ComponentConfig):
    """Pearson correlations of all columns with the guest's, those of hosts under encryption.

    Guest and host learn the correlations of each of the guest's columns with each of the host's,
    rounded to four digits; the columns of a party among themselves are its own affair.

    fraction_bits: of standardised values in fixed point.
    """

    type: Literal["correlation"]
    fraction_bits: int = Field(default=12, ge=8, le=20)


class EvaluateConfig(ComponentConfig):
    """Metrics and curves of the guest's scores against its labels.

    model: the component that gave the scores; by default the last one before that trains. If it
    took another table than this component takes, its model is applied to this one: rows that it has
    not seen, of a ``split``. task: what the label is; by default told from scores and
    label. threshold: probability from which on a row counts as positive.
    """

    accepts_missing: ClassVar[bool] = True

    type: Literal["evaluate"]
    model: Name | None = None
    task: Literal["binary", "multiclass", "regression"] | None = None
    threshold: float = Field(default=0.5, gt=0, lt=1)
