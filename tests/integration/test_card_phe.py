"""Ciphertexts made on the simulated card decrypt in phe, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import phe
import pytest

from residue.backends._card import CardBackend
from residue.paillier import from_phe, keygen, to_phe, to_phe_keys
from residue_sim.board import Board, InProcess

INTEGERS: list[Any] = [-(2**62), 10**25]
FLOATS: list[Any] = [-2.75, np.pi]


@pytest.fixture(scope="module")
def card() -> Iterator[CardBackend]:
    backend = CardBackend(InProcess(Board("r21")), check_rate=0.0, timeout=120)
    yield backend
    backend.close()


@pytest.mark.full  # make demo runs the same card with a key of 1024 bits
@pytest.mark.parametrize(
    ("bits", "batches"),
    [(1024, [INTEGERS, FLOATS]), (2048, [FLOATS])],
    ids=["1024", "2048"],
)
def test_card_and_phe_open_each_others_ciphertexts(
    card: CardBackend, bits: int, batches: list[list[Any]]
) -> None:
    pk, sk = keygen(bits, insecure_allow_1024=True, device=card)
    phe_pk, phe_sk = to_phe_keys(phe, sk)
    schemes: tuple[Any, ...] = ("djn", "classic")
    for values in batches:
        exact = object if isinstance(values[0], int) else None
        for scheme in schemes:
            ours = to_phe(phe, pk.encrypt(values, scheme=scheme))
            assert [phe_sk.decrypt(c) for c in ours] == values, scheme
        theirs = from_phe(pk, [phe_pk.encrypt(v) for v in values])
        assert sk.decrypt(theirs, dtype=exact).tolist() == values
        assert sk.decrypt(theirs * 2 - theirs, dtype=exact).tolist() == values
    spent = card.stats()
    assert spent["pow"].products > 0
    assert spent["pow_fixed"].products > 0
