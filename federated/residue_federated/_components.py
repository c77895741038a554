"""What a job can be made of: each type of component, its configuration and its module."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Protocol

from pydantic import Field

from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.features._config import StandardiseConfig
from residue_federated.linear._config import LinearConfig

__all__ = ["AnyComponent", "Runner", "runner_of"]

AnyComponent = Annotated[
    StandardiseConfig | LinearConfig | SecureBoostConfig,
    Field(discriminator="type"),
]

_MODULES = {
    "standardise": "features._standardise",
    "logistic_regression": "linear._train",
    "linear_regression": "linear._train",
    "secureboost": "boosting._train",
}


class Runner(Protocol):
    """The module of a component; one that trains offers ``twin(config, tables)`` as well."""

    def run(self, context: Any, config: Any, table: Any) -> Any:
        """The component's part at one party: `Context`, configuration, `Table` -> `Outcome`."""


def runner_of(component: AnyComponent) -> Any:
    """The module of a component, imported on first use."""
    return importlib.import_module(f"residue_federated.{_MODULES[component.type]}")
