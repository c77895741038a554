"""The configurations of feature components."""

from __future__ import annotations

from typing import ClassVar, Literal

from residue_federated._schema import ComponentConfig

__all__ = ["StandardiseConfig"]


class StandardiseConfig(ComponentConfig):
    """Scale every column to mean 0 and variance 1; missing values stay missing.

    target: the guest's label as well, for regression.
    """

    gives_table: ClassVar[bool] = True
    accepts_missing: ClassVar[bool] = True

    type: Literal["standardise"]
    target: bool = False
