"""OpenSSL as `cryptography` ships it: RSA, its constant-time modular power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cryptography
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


class Adapter:
    """As `adapters` says. Blinding, the check of the result and OAEP are in its turns."""

    operations = ("rsa",)

    def __init__(self, variant: str) -> None:
        self.facts = {
            "version": f"{backend.openssl_version_text()}, cryptography {cryptography.__version__}",
            "algorithm": "RSA with blinding and OAEP",
        }

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """An RSA key of the size."""
        self._messages = inputs["messages"]
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=bits)

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of `count` decryptions."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        public = self._key.public_key()
        ciphertexts = [public.encrypt(m.to_bytes(8, "big"), oaep) for m in self._messages[:count]]
        return lambda: [self._key.decrypt(c, oaep) for c in ciphertexts]

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first messages of a turn's result."""
        return [int.from_bytes(m, "big") for m in result[:limit]]
