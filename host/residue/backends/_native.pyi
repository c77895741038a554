from typing import Any

from numpy.typing import NDArray

def kernels() -> list[str]: ...
def layout(kernel: str, bits: int, squared: bool = ...) -> tuple[int, int]: ...
def lanes(kernel: str) -> int: ...

class Pool:
    def __init__(self, threads: int) -> None: ...
    def close(self) -> None: ...

class Field:
    def __init__(
        self,
        kernel: str,
        bits: int,
        n: NDArray[Any],
        one: NDArray[Any],
        scale: NDArray[Any],
        inverse: NDArray[Any],
        pool: Pool,
    ) -> None: ...
    @property
    def row(self) -> int: ...
    def enter(self, limbs: NDArray[Any], out: NDArray[Any]) -> None: ...
    def leave(self, a: NDArray[Any], out: NDArray[Any]) -> None: ...
    def multiply(self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None: ...
    def square(self, a: NDArray[Any], times: int, out: NDArray[Any]) -> None: ...
    def power(
        self, a: NDArray[Any], exponents: NDArray[Any], bits: int, window: int, out: NDArray[Any]
    ) -> None: ...
    def powers(self, a: NDArray[Any], window: int, out: NDArray[Any]) -> None: ...
    def comb(
        self,
        table: NDArray[Any],
        exponents: NDArray[Any],
        bits: int,
        window: int,
        out: NDArray[Any],
    ) -> None: ...
    def product(
        self,
        a: NDArray[Any],
        index: NDArray[Any],
        offsets: NDArray[Any],
        order: NDArray[Any],
        squarings: int,
        prefixes: bool,
        out: NDArray[Any],
    ) -> None: ...
