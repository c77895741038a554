"""The backend `gpus`: one batch over several GPUs of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from residue.backends._cards import CardsBackend
from residue.backends._gpu import GpuBackend

__all__ = ["GpusBackend"]

_SUMS = ("multiprocessors", "memory_bytes")


class GpusBackend(CardsBackend):
    """`CardsBackend` on GPUs: parts of nearly equal length, and the host between them.

    A GPU takes no fewer numbers than it has groups for at once. Constant time where `GpuBackend`
    is.

    Args:
        gpus: the devices.
        least: fewest elements that are worth another GPU; None: as many as keep each one full.

    Raises:
        BackendError: there is no GPU, or one is named twice.
    """

    def __init__(self, gpus: Sequence[GpuBackend], *, least: int | None = None) -> None:
        super().__init__(gpus, least=least)
        self._gpus = list(gpus)

    @property
    def name(self) -> str:
        """``gpus``."""
        return "gpus"

    def describe(self) -> dict[str, str | int | float | bool]:
        """How many GPUs there are, what they have together, and the state of each."""
        facts = [gpu.describe() for gpu in self._gpus]
        total: dict[str, str | int | float | bool] = {
            "name": "gpus",
            "device": ", ".join(str(fact["device"]) for fact in facts),
            "gpus": len(facts),
        }
        total |= {key: sum(int(fact[key]) for fact in facts) for key in _SUMS}
        total["max_modulus_bits"] = min(int(fact["max_modulus_bits"]) for fact in facts)
        for fact in facts:
            state = "healthy" if fact["healthy"] else "not healthy"
            total[f"gpu_{fact['ordinal']}"] = f"{fact['device']}, {state}"
        return total | {"healthy": all(fact["healthy"] for fact in facts)}
