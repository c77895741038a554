"""Settings of components, for `JobBuilder.add`; what each does is in docs/federated.md."""

from __future__ import annotations

from residue_federated.boosting._config import EarlyStop as BoostingEarlyStop
from residue_federated.boosting._config import Goss, SecureBoostConfig
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
from residue_federated.linear._config import EarlyStop as LinearEarlyStop
from residue_federated.linear._config import LinearConfig, Optimiser, Precision
from residue_federated.psi._config import PsiConfig
from residue_federated.shared._config import (
    Settled,
    SharedConfig,
    SharedOptimiser,
    SharedPrecision,
)
from residue_federated.validation._config import CrossValidateConfig

__all__ = [
    "BinConfig",
    "BoostingEarlyStop",
    "CorrelationConfig",
    "CrossValidateConfig",
    "EvaluateConfig",
    "Goss",
    "HorizontalLogisticConfig",
    "HorizontalMlpConfig",
    "ImputeConfig",
    "LinearConfig",
    "LinearEarlyStop",
    "Optimiser",
    "Precision",
    "PsiConfig",
    "RandomiseLabelsConfig",
    "SampleConfig",
    "SecureBoostConfig",
    "SelectConfig",
    "Settled",
    "SharedConfig",
    "SharedOptimiser",
    "SharedPrecision",
    "SplitConfig",
    "StandardiseConfig",
]
