"""The two blindly computed functions, on the CPU: both sides by hand, no messages."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa as openssl

from residue.backends import Backend, get_backend
from residue.backends._card import CardBackend
from residue.errors import CorruptResult
from residue_federated.errors import ProtocolError
from residue_federated.psi._dh import EXPONENT_BITS, DhBlinder, DhEvaluator, safe_prime
from residue_federated.psi._elements import from_integers, to_integers
from residue_federated.psi._hash import encode, new_domain, residues
from residue_federated.psi._rsa import RsaBlinder, RsaEvaluator, new_primes
from residue_sim.card_model import ModelBoard
from residue_sim.manifest import configurations

DOMAIN = new_domain("test")
IDS = [f"r{i}" for i in range(20)]


@dataclass
class Pair:
    """An evaluator and a blinder that has its public key."""

    evaluator: Any
    blinder: Any

    @property
    def limbs(self) -> int:
        return int(self.evaluator.public.shape[1])

    def hashes(self, ids: list[str] = IDS) -> Any:
        return residues(encode(ids), self.evaluator.modulus, DOMAIN)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get_backend("cpu")


CASES = [(DhEvaluator, DhBlinder, 2048), (DhEvaluator, DhBlinder, 3072),
         (RsaEvaluator, RsaBlinder, 2048), (RsaEvaluator, RsaBlinder, 3072)]  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].__name__[:3]}{case[2]}")
def pair(request: pytest.FixtureRequest, backend: Backend) -> Pair:
    evaluator, blinder, bits = request.param
    party = evaluator(backend, bits)
    return Pair(party, blinder(backend, bits, party.public, "host"))


@pytest.mark.parametrize(("evaluator", "blinder", "bits"), CASES[::2])
def test_a_card_works_with_a_cpu(backend: Backend, evaluator: Any, blinder: Any, bits: int) -> None:
    card = CardBackend(ModelBoard(configurations()["r21"]))
    for host, guest in ((card, backend), (backend, card)):
        party = evaluator(host, bits)
        pair = Pair(party, blinder(guest, bits, party.public, "host"))
        blinded, secret = pair.blinder.blind(pair.hashes())
        found = pair.blinder.unblind(pair.evaluator.evaluate(blinded), secret)
        assert np.array_equal(found, pair.evaluator.evaluate_own(pair.hashes()))
    assert card.stats()["pow"].elements > 0


@pytest.fixture(scope="module")
def dh(backend: Backend) -> Pair:
    party = DhEvaluator(backend, 2048)
    return Pair(party, DhBlinder(backend, 2048, party.public, "host"))


@pytest.fixture(scope="module")
def rsa(backend: Backend) -> Pair:
    party = RsaEvaluator(backend, 2048)
    return Pair(party, RsaBlinder(backend, 2048, party.public, "host"))


@pytest.mark.parametrize("bits", [2048, 3072])
def test_moduli_are_safe_primes_of_the_rfc(bits: int) -> None:
    p = safe_prime(bits)
    assert p.bit_length() == bits
    assert gmpy2.is_prime(p)
    assert gmpy2.is_prime(p // 2)
    # RFC 7919: the digits of e after 64 ones; 64 ones at the end; 2 generates the residues
    assert hex(p).startswith("0xffffffffffffffffadf85458a2bb4a9aafdc5620273d3cf1")
    assert p % 2**64 == 2**64 - 1
    assert gmpy2.jacobi(2, p) == 1


def test_blind_evaluation_is_evaluation(pair: Pair) -> None:
    blinded, secret = pair.blinder.blind(pair.hashes())
    found = pair.blinder.unblind(pair.evaluator.evaluate(blinded), secret)
    assert np.array_equal(found, pair.evaluator.evaluate_own(pair.hashes()))
    assert len(set(to_integers(found))) == len(IDS)


def test_what_is_sent_is_never_the_same_and_not_the_hash(pair: Pair) -> None:
    hashes = pair.hashes()
    sent = [set(to_integers(pair.blinder.blind(hashes)[0])) for _ in range(2)]
    h, n = to_integers(hashes), pair.evaluator.modulus
    assert not sent[0] & sent[1]
    assert not (sent[0] | sent[1]) & (set(h) | set(h * h % n))


def test_evaluators_have_keys_of_their_own(backend: Backend, dh: Pair) -> None:
    other = DhEvaluator(backend, 2048)
    assert (other.public != dh.evaluator.public).any()
    assert (other.evaluate_own(dh.hashes()) != dh.evaluator.evaluate_own(dh.hashes())).any()


def test_dh_function_is_the_square_of_the_hash_to_the_key(dh: Pair) -> None:
    k, p = int(to_integers(dh.evaluator._exponent)[0]), dh.evaluator.modulus
    assert to_integers(dh.evaluator.public).tolist() == [pow(2, k, p)]
    own = to_integers(dh.evaluator.evaluate_own(dh.hashes()))
    assert own.tolist() == [pow(h, 2 * k, p) for h in to_integers(dh.hashes())]


def test_dh_blinded_elements_are_residues(dh: Pair) -> None:
    blinded, _ = dh.blinder.blind(dh.hashes())
    p = dh.evaluator.modulus
    assert all(gmpy2.jacobi(int(v), p) == 1 for v in to_integers(blinded))
    assert {gmpy2.jacobi(int(h), p) for h in to_integers(dh.hashes())} == {1, -1}


def test_dh_answers_do_not_tell_the_parity_of_the_key(backend: Backend) -> None:
    p = safe_prime(2048)
    outside = next(v for v in range(3, 100) if gmpy2.jacobi(v, p) == -1)
    for _ in range(8):
        answer = DhEvaluator(backend, 2048).evaluate(from_integers([outside], 32))
        assert gmpy2.jacobi(int(to_integers(answer)[0]), p) == 1


def test_dh_exponents_have_the_bits_they_should(backend: Backend) -> None:
    keys = [int(to_integers(DhEvaluator(backend, 2048)._exponent)[0]) for _ in range(16)]
    assert all(k % 2 == 0 and 0 < k < 2 ** (EXPONENT_BITS[2048] + 1) for k in keys)
    assert max(keys).bit_length() > EXPONENT_BITS[2048] - 16


@pytest.mark.parametrize("bits", [2048, 3072])
def test_dh_public_key_outside_the_subgroup_is_refused(backend: Backend, bits: int) -> None:
    p = safe_prime(bits)
    outside = next(v for v in range(3, 100) if gmpy2.jacobi(v, p) == -1)
    with pytest.raises(ProtocolError, match="host sent a public key outside the subgroup"):
        DhBlinder(backend, bits, from_integers([outside], bits // 64), "host")


@pytest.mark.parametrize(
    "value", [0, 1, safe_prime(2048) - 1, safe_prime(2048)], ids=["0", "1", "p-1", "p"]
)
def test_dh_public_key_of_small_order_is_refused(backend: Backend, value: int) -> None:
    with pytest.raises(ProtocolError, match="host sent 1 public keys"):
        DhBlinder(backend, 2048, from_integers([value], 32), "host")


def test_answers_outside_the_group_are_refused(pair: Pair) -> None:
    blinded, secret = pair.blinder.blind(pair.hashes())
    answers = pair.evaluator.evaluate(blinded)
    n = pair.evaluator.modulus
    for value in (0, 1, n - 1, n):
        wrong = np.concatenate([answers[:-1], from_integers([value], pair.limbs)])
        with pytest.raises(ProtocolError, match="host sent 1 "):
            pair.blinder.unblind(wrong, secret)


def test_rsa_wrong_signatures_are_noticed(rsa: Pair) -> None:
    blinded, secret = rsa.blinder.blind(rsa.hashes())
    answers = rsa.evaluator.evaluate(blinded)
    for wrong in (blinded, answers[::-1].copy(), rsa.hashes()):
        with pytest.raises(ProtocolError, match="host sent wrong signatures"):
            rsa.blinder.unblind(wrong, secret)


def test_rsa_function_is_a_signature_that_anybody_can_check(rsa: Pair) -> None:
    n, own = rsa.evaluator.modulus, to_integers(rsa.evaluator.evaluate_own(rsa.hashes()))
    assert [pow(s, 65537, n) for s in own] == to_integers(rsa.hashes()).tolist()


def test_rsa_key_is_fresh_and_of_the_length_asked_for(backend: Backend, rsa: Pair) -> None:
    other = RsaEvaluator(backend, 2048)
    assert other.modulus != rsa.evaluator.modulus
    assert other.modulus.bit_length() == 2048


@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa_modulus_has_three_primes_of_a_third_of_its_bits(bits: int) -> None:
    primes = new_primes(bits)
    assert [p.bit_length() for p in primes] == [bits // 3, -(-bits // 3), -(-bits // 3)]
    assert len(set(primes)) == 3
    assert all(gmpy2.is_prime(p) and p % 65537 != 1 for p in primes)
    assert math.prod(primes).bit_length() == bits
    assert not set(primes) & set(new_primes(bits))


def test_rsa_primes_that_repeat_or_have_a_short_product_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low, high = 2**681, 2**682  # of 682 and 683 bits; none of these need be a prime here
    right = [2 * low - 1, 2 * high - 1, 2 * high - 3]
    drawn = [2 * low - 1, 2 * high - 1, 2 * high - 1, low + 1, high + 1, high + 3, *right]

    def key(_: int, bits: int) -> Any:
        assert drawn[0].bit_length() == bits // 2
        return SimpleNamespace(private_numbers=lambda: SimpleNamespace(p=drawn.pop(0)))

    monkeypatch.setattr(openssl, "generate_private_key", key)
    assert new_primes(2048) == right
    assert not drawn


def test_rsa_parts_of_a_signature_are_powers_modulo_the_primes(rsa: Pair) -> None:
    """Each part is 0 modulo the other primes and the signature modulo its own."""
    factors, n = rsa.evaluator._factors, rsa.evaluator.modulus
    values = to_integers(rsa.hashes())
    for factor in factors:
        p = n // factor.cofactor
        signed = factor.signed_var(values) * factor.cofactor % p
        assert [pow(s, 65537, p) for s in signed] == (values % p).tolist()


@pytest.mark.parametrize("prime", range(3))
@pytest.mark.parametrize("what", ["power", "coefficient", "cofactor"])
def test_rsa_fault_in_one_part_releases_nothing(
    backend: Backend, rsa: Pair, monkeypatch: pytest.MonkeyPatch, prime: int, what: str
) -> None:
    factor, hashes = rsa.evaluator._factors[prime], rsa.hashes()
    right = factor.signed_var

    def wrong(values: Any) -> Any:
        parts = right(values)
        parts[3] += 1
        return parts

    flaws: dict[str, tuple[str, Any]] = {
        "power": ("signed_var", wrong),
        "coefficient": ("_coefficient", backend.mul(*[factor._coefficient] * 2)),
        "cofactor": ("cofactor", factor.cofactor + 1),
    }
    monkeypatch.setattr(factor, *flaws[what])
    with pytest.raises(CorruptResult):
        rsa.evaluator.evaluate(hashes)


@pytest.mark.parametrize("flaw", ["short", "even", "long"])
def test_rsa_modulus_of_another_form_is_refused(backend: Backend, flaw: str) -> None:
    n = secrets.randbits(2048) | 1 | 1 << 2047
    wrong = {"short": n >> 1 | 1, "even": n - 1, "long": n}[flaw]
    bits = 3072 if flaw == "long" else 2048
    with pytest.raises(ProtocolError, match=f"odd number of {bits} bits"):
        RsaBlinder(backend, bits, from_integers([wrong], bits // 64), "host")
