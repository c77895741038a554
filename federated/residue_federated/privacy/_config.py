"""What a job file says about differential privacy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from residue_federated._schema import Positive, Strict
from residue_federated.privacy._accounting import Release, calibrated

__all__ = ["Epsilon", "LabelPrivacy", "Range", "TrainingPrivacy"]

_Delta = Annotated[float, Field(ge=1e-30, lt=1)]
Epsilon = Annotated[float, Field(ge=1e-3, le=1e4)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError(f"a range goes from its least to its largest value: {ends[0]}, {ends[1]}")
    return ends


Range = Annotated[tuple[_Number, _Number], AfterValidator(_ascending)]


class TrainingPrivacy(Strict):
    """Noise on every sum of a horizontal training: what is released of it is (epsilon, delta)-DP.

    The numbers of rows are public (with ``unit: client`` they are not released at all). Two sets of
    data are neighbours if in one of them a row (``unit: record``) or all rows of one guest or host
    (``unit: client``) contribute nothing. To replace is to do so twice.

    unit: what is protected. epsilon: the budget of the whole component; training ends before it
    would be passed. noise_multiplier: deviation of the noise over `clip`; by default the least with
    which all rounds fit the budget. clip: longest gradient of a row, or update of a client.
    sample: the chance of each row to be in a round, drawn in secret; ``unit: record`` only.
    colluding: the guarantee holds although so many guests and hosts together know or leave out
    their share of the noise; each of the others adds so much that those who must remain suffice.
    range, ranges: least and largest value, from general knowledge and not from the data, of all
    columns and of those named; they are scaled to -1 and 1.
    """

    unit: Literal["record", "client"] = "record"
    epsilon: Epsilon | None = None
    delta: _Delta
    noise_multiplier: Annotated[float, Field(ge=1e-4, le=1e6)] | None = None
    clip: Positive
    sample: float = Field(default=1.0, gt=0, le=1)
    colluding: int = Field(default=1, ge=0)
    range: Range | None = None
    ranges: dict[str, Range] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("give epsilon, noise_multiplier or both")
        if self.unit == "client" and self.sample < 1:
            raise ValueError("sample is for unit: record")
        if self._passes_in_one_round():
            raise ValueError(
                f"noise_multiplier {self.noise_multiplier:g} is too little: one round alone would "
                f"pass epsilon {self.epsilon:g} at delta {self.delta:g}"
            )
        return self

    def noise_for(self, rounds: int) -> float:
        """Deviation of the noise over the most that one unit changes a sum."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None
        return calibrated(self.epsilon, self.delta, rounds, self.sample)

    def _passes_in_one_round(self) -> bool:
        if self.epsilon is None or self.noise_multiplier is None:
            return False
        release = Release(0.5 / self.noise_multiplier**2, self.sample)
        return release.epsilon(1, self.delta) > self.epsilon


class LabelPrivacy(Strict):
    """Noise on the positives of bins before anything made of them is sent to a host.

    For hosts, all together, the guest's labels are (epsilon, delta)-DP: two tables are neighbours
    if one row has another label. Without `delta` it is epsilon-DP, by Laplace noise; with it the
    noise is Gaussian, which is less from about a dozen columns on.
    """

    epsilon: Epsilon
    delta: _Delta | None = None
