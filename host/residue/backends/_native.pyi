from typing import Any

from numpy.typing import NDArray

def kernels() -> list[str]: ...
def layout(kernel: str, bits: int) -> tuple[int, int]: ...
def lanes(kernel: str) -> int: ...

class Field:
    def __init__(
        self,
        kernel: str,
        bits: int,
        n: NDArray[Any],
        one: NDArray[Any],
        square: NDArray[Any],
        inverse: NDArray[Any],
    ) -> None: ...
    @property
    def row(self) -> int: ...
    def enter(self, limbs: NDArray[Any], out: NDArray[Any]) -> None: ...
    def leave(self, a: NDArray[Any], out: NDArray[Any]) -> None: ...
    def multiply(self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None: ...
    def power(
        self, a: NDArray[Any], exponents: NDArray[Any], bits: int, window: int, out: NDArray[Any]
    ) -> None: ...
    def product(
        self,
        a: NDArray[Any],
        index: NDArray[Any],
        offsets: NDArray[Any],
        order: NDArray[Any],
        out: NDArray[Any],
    ) -> None: ...
