"""Paillier keys, fixed-point encoding and numpy-shaped ciphertexts."""

from __future__ import annotations

from residue.paillier._ciphertext import CiphertextArray, concatenate
from residue.paillier._encoding import FLOAT_EXPONENT
from residue.paillier._formats import BOUND_STEP
from residue.paillier._interop import (
    from_phe,
    private_key_from_phe,
    public_key_from_phe,
    to_phe,
    to_phe_keys,
)
from residue.paillier._keyfile import (
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
)
from residue.paillier._keys import PrivateKey, PublicKey, Scheme, keygen
from residue.paillier._packing import PackedArray, Packer, side_by_side, slot_order

__all__ = [
    "BOUND_STEP",
    "FLOAT_EXPONENT",
    "CiphertextArray",
    "PackedArray",
    "Packer",
    "PrivateKey",
    "PublicKey",
    "Scheme",
    "concatenate",
    "from_phe",
    "keygen",
    "load_private_key",
    "load_public_key",
    "private_key_from_phe",
    "public_key_from_phe",
    "save_private_key",
    "save_public_key",
    "side_by_side",
    "slot_order",
    "to_phe",
    "to_phe_keys",
]
