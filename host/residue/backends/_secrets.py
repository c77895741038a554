"""The end of a job that used secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from residue.backends._protocol import Backend

__all__ = ["clearing_secrets"]


@contextlib.contextmanager
def clearing_secrets(*backends: Backend) -> Iterator[None]:
    """Have these backends forget secrets when the block ends, however it ends.

    Around a job that decrypts, or raises to secret exponents::

        with clearing_secrets(sk.backend):
            scores = sk.decrypt(ciphertexts)

    Erases what `Backend.clear_secrets` does on each, comb tables included; arrays stay valid.

    Raises:
        DeviceError: a device could not be erased.
    """
    with contextlib.ExitStack() as stack:
        for backend in backends:
            stack.callback(backend.clear_secrets)
        yield
