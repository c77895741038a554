from __future__ import annotations

import hashlib

import numpy as np
import pytest

from residue_federated.errors import ProtocolError
from residue_federated.psi._dh import safe_prime
from residue_federated.psi._elements import (
    check_elements,
    from_integers,
    random_exponents,
    to_integers,
)
from residue_federated.psi._hash import common, encode, fingerprints, new_domain, residues

P = safe_prime(2048)
DOMAIN = new_domain("job", "align")
PUBLIC = from_integers([P // 3], 32)
UNICODE = ["", "a", "ä", "a\u0308", "\x00", "\U0001f600", "\ud800", "42", " 42", "4" * 10_000]


def test_residues_are_a_reduced_hash_of_domain_and_entry() -> None:
    (value,) = to_integers(residues([b"x"], P, DOMAIN))
    wide = hashlib.shake_256(DOMAIN + b"x").digest((2048 + 128) // 8)
    assert value == int.from_bytes(wide, "little") % P


def test_residues_spread_over_the_modulus() -> None:
    values = to_integers(residues(encode([str(i) for i in range(4000)]), P, DOMAIN))
    quarters = np.bincount([int(4 * v // P) for v in values], minlength=4)
    # binomial, 4000 tries at 1/4: a standard deviation is 27
    assert (np.abs(quarters - 1000) < 6 * 27).all()


@pytest.mark.parametrize("other", [("job", "other"), ("joba", "lign"), ("job", "align", "")])
def test_another_domain_gives_other_hashes(other: tuple[str, ...]) -> None:
    domain = new_domain(*other)
    assert (residues([b"x"], P, DOMAIN) != residues([b"x"], P, domain)).any()
    ours, theirs = (fingerprints([b"x"], PUBLIC, PUBLIC, d) for d in (DOMAIN, domain))
    assert (ours != theirs).any()


def test_identifiers_that_differ_in_a_code_point_are_different() -> None:
    entries = encode(UNICODE)
    assert len(set(entries)) == len(UNICODE)
    assert len(set(to_integers(residues(entries, P, DOMAIN)))) == len(UNICODE)


def test_fingerprints_depend_on_identifier_element_and_key() -> None:
    one, two = from_integers([5], 32), from_integers([6], 32)
    seen = {
        fingerprints([entry], element, public, DOMAIN).tobytes()
        for entry in (b"x", b"y")
        for element in (one, two)
        for public in (one, two)
    }
    assert len(seen) == 8


def test_dummies_fill_up_and_equal_nothing() -> None:
    ids = ["a", "b"]
    first, second = encode(ids, 1000), encode(ids, 1000)
    assert len(first) == len(second) == 1000
    assert set(first) & set(second) == set(encode(ids))
    assert encode(ids, 1) == encode(ids)


@pytest.mark.parametrize("overlap", [0, 1, 17, 300])
def test_common_finds_the_pairs(overlap: int) -> None:
    rng = np.random.default_rng(overlap)
    both = rng.integers(0, 2**63, (overlap, 2)).astype(np.uint64)
    # Equal first words, different second ones, in both sets.
    ours = np.concatenate([both, np.array([[7, i] for i in range(50)], np.uint64)])
    theirs = np.concatenate([np.array([[7, i] for i in range(50, 90)], np.uint64), both])
    rng.shuffle(ours)
    rng.shuffle(theirs)
    i, j = common(ours, theirs)
    assert len(i) == overlap
    assert (np.diff(i) > 0).all()
    assert np.array_equal(ours[i], theirs[j])


def test_common_of_nothing() -> None:
    nothing = np.empty((0, 2), np.uint64)
    for pair in ((nothing, nothing), (nothing, np.ones((1, 2), np.uint64))):
        assert [len(rows) for rows in common(*pair)] == [0, 0]


@pytest.mark.parametrize("ours", [0, 1])
def test_common_refuses_repetitions(ours: int) -> None:
    with pytest.raises(ValueError, match="repeated"):
        common(np.ones((ours, 2), np.uint64), np.ones((2, 2), np.uint64))


@pytest.mark.parametrize(
    "value", [2, P - 2, P // 2, 2**64, 2**2047], ids=["2", "p-2", "q", "limb", "top"]
)
def test_elements_of_the_group_pass(value: int) -> None:
    check_elements(from_integers([value], 32), P, "host", "answers")


@pytest.mark.parametrize(
    "value", [0, 1, P - 1, P, P + 1, 2**2048 - 1], ids=["0", "1", "p-1", "p", "p+1", "ones"]
)
def test_others_are_counted_and_the_peer_is_named(value: int) -> None:
    values = from_integers([5, value, 7, value], 32)
    with pytest.raises(ProtocolError, match="host sent 2 answers"):
        check_elements(values, P, "host", "answers")


def test_no_elements_pass() -> None:
    check_elements(np.empty((0, 32), np.uint64), P, "host", "answers")


@pytest.mark.parametrize("bits", [64, 225, 275])
def test_exponents_fill_their_bits(bits: int) -> None:
    values = to_integers(random_exponents(200, bits))
    assert max(values).bit_length() == bits
    assert len(set(values)) == 200


def test_integers_round_trip() -> None:
    values = [0, 1, 2**64, 2**128 - 1]
    assert to_integers(from_integers(values, 2)).tolist() == values
