"""What training asks of a secure sum, however it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from residue_federated.errors import ProtocolError

__all__ = ["Adder", "Sum", "Summand", "check_sum"]


@dataclass(frozen=True)
class Sum:
    """values: ``(n,) int64``. clients: whose vectors are in it, in the job's order.

    sender: whom it came from.
    """

    values: NDArray[np.int64]
    clients: tuple[str, ...]
    sender: str


class Summand(Protocol):
    """A client of secure sums; names of sums differ."""

    def sum(self, name: str, values: NDArray[np.int64]) -> Sum:
        """The sum of all clients' vectors, which have the length of this one's."""


class Adder(Protocol):
    """The arbiter of secure sums."""

    def sum(self, name: str, size: int) -> tuple[str, ...]:
        """Take part in one sum of vectors of `size` integers; returns whose are in it."""


def check_sum(values: NDArray[np.int64], clients: int, bits: int, sender: str) -> None:
    """Raise `ProtocolError` if `values` cannot be the sum of vectors of `bits` bits."""
    most = clients << (bits - 1)
    if not bool(np.all((values >= -most) & (values <= most))):
        raise ProtocolError(
            f"{sender} sent a sum outside the range of {clients} summands of {bits} bits"
        )
