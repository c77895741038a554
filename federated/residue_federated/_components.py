"""What a job can be made of: each type of component, its configuration and its module."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Protocol

from pydantic import Field

from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.features._config import (
    BinConfig,
    CorrelationConfig,
    EvaluateConfig,
    ImputeConfig,
    RandomiseLabelsConfig,
    SampleConfig,
    SelectConfig,
    SplitConfig,
    StandardiseConfig,
)
from residue_federated.horizontal._config import HorizontalLogisticConfig, HorizontalMlpConfig
from residue_federated.linear._config import LinearConfig
from residue_federated.psi._config import PsiConfig
from residue_federated.shared._config import SharedConfig
from residue_federated.validation._config import CrossValidateConfig

__all__ = ["USES", "AnyComponent", "Runner", "packages_of", "runner_of"]

AnyComponent = Annotated[
    PsiConfig
    | StandardiseConfig
    | ImputeConfig
    | SelectConfig
    | SplitConfig
    | SampleConfig
    | RandomiseLabelsConfig
    | BinConfig
    | CorrelationConfig
    | EvaluateConfig
    | LinearConfig
    | SharedConfig
    | SecureBoostConfig
    | HorizontalLogisticConfig
    | HorizontalMlpConfig
    | CrossValidateConfig,
    Field(discriminator="type"),
]

_MODULES = {
    "psi": "psi._align",
    "standardise": "features._standardise",
    "impute": "features._impute",
    "select": "features._select",
    "split": "features._split",
    "sample": "features._sample",
    "randomise_labels": "features._randomise",
    "bin": "features._bin",
    "correlation": "features._correlation",
    "evaluate": "features._evaluate",
    "logistic_regression": "linear._train",
    "linear_regression": "linear._train",
    "poisson_regression": "linear._train",
    "softmax_regression": "linear._train",
    "shared_logistic_regression": "shared._train",
    "shared_linear_regression": "shared._train",
    "shared_poisson_regression": "shared._train",
    "shared_softmax_regression": "shared._train",
    "secureboost": "boosting._train",
    "horizontal_logistic_regression": "horizontal._train",
    "horizontal_mlp": "horizontal._train",
    "cross_validate": "validation._cross",
}

USES = {"shared": ("linear",), "validation": ("features",)}
"""Packages of components whose code those of another one run, configurations aside."""


class Runner(Protocol):
    """The module of a component.

    One that trains offers ``twin(job, config, tables) -> Twin`` as well, ``predictions(config,
    scores)``, which names what its scores say, and for `cross_validate` ``judge(config, y,
    scores)``, their metrics. One that trains, or does something to other rows by
    what it learnt, offers ``apply(context, config, table, model) -> Outcome``; without, other rows
    pass it untouched. With ``flow(config, scene)`` it declares its protocol, see
    `residue_federated.audit`.
    """

    def run(self, context: Any, config: Any, table: Any) -> Any:
        """The component's part at one party: `Context`, configuration, `Table` -> `Outcome`."""


def runner_of(component: AnyComponent) -> Any:
    """The module of a component, imported on first use."""
    return importlib.import_module(f"residue_federated.{_MODULES[component.type]}")


def packages_of(component: AnyComponent) -> list[str]:
    """The packages below this one whose code a component runs, that which it wraps included."""
    wrapped = [component.trainer] if component.type == "cross_validate" else []
    own = [_MODULES[each.type].partition(".")[0] for each in (component, *wrapped)]
    return [package for each in own for package in (each, *USES.get(each, ()))]
