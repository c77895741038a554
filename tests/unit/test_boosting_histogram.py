"""Sums over bins, in the clear and encrypted, and what they are packed in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import residue
from residue_federated.boosting import _histogram
from residue_federated.boosting._bins import Cuts
from residue_federated.boosting._histogram import Members, count, encrypted, plain
from residue_federated.boosting._packing import MAX_SUM_BITS, Format, quantise

Keys = tuple[residue.PublicKey, residue.PrivateKey]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return residue.keygen(1024, insecure_allow_1024=True, device="cpu")


def make(rows: int, columns: int, nodes: int, bins: int) -> tuple[Cuts, Any, Members]:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(rows, columns))
    x[rng.random(x.shape) < 0.1] = np.nan
    chosen = np.sort(rng.permutation(rows)[: rows - rows // 5])
    return Cuts.of(x, bins), x, Members(chosen, rng.integers(0, nodes, len(chosen)), nodes)


@pytest.mark.parametrize("at_once", [1, 1 << 17])
def test_plain_sums(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_histogram, "_CACHED", at_once)
    cuts, x, members = make(60, 3, 4, 5)
    binned = cuts.apply(x)
    rng = np.random.default_rng(12)
    g, h = rng.integers(-1000, 1000, len(members.rows)), rng.integers(1, 9, len(members.rows))
    result = plain(members, binned, g, h)
    assert result.g.shape == (4, 3, 6)
    for node in range(4):
        for column in range(3):
            for b in range(6):
                inside = (members.node == node) & (binned.columns[column, members.rows] == b)
                cell = (node, column, b)
                assert result.n[cell] == inside.sum()
                assert result.g[cell] == g[inside].sum()
                assert result.h[cell] == h[inside].sum()
    assert (count(members, binned) == result.n).all()


def test_plain_sums_are_exact_at_their_limit() -> None:
    x = np.zeros((3, 1))
    g = np.array([(1 << MAX_SUM_BITS) - 3, 1, 1])
    members = Members(np.arange(3), np.zeros(3, np.int64), 1)
    assert plain(members, Cuts.of(x, 2).apply(x), g, g).g[0, 0, 0] == (1 << MAX_SUM_BITS) - 1


@pytest.mark.parametrize(
    ("rows", "columns", "nodes", "bins", "gathered"),
    [
        (40, 3, 4, 5, 1 << 22),  # by column
        (600, 4, 1, 5, 1 << 22),  # by pairs
        (600, 5, 2, 5, 1 << 22),  # by pairs, the last column alone
        (600, 1, 2, 5, 1 << 22),
        (600, 7, 2, 5, 1300),  # some columns at a time
        (50, 5, 30, 5, 120),
    ],
)
def test_encrypted_sums_are_the_plain_ones(
    keys: Keys,
    rows: int,
    columns: int,
    nodes: int,
    bins: int,
    gathered: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pk, sk = keys
    monkeypatch.setattr(_histogram, "_GATHERED", gathered)
    cuts, x, members = make(rows, columns, nodes, bins)
    binned = cuts.apply(x)
    rng = np.random.default_rng(12)
    q = quantise(rng.normal(size=(1, rows)), rng.random((1, rows)), 24)
    form = Format.plan(24, rows, pk)
    c = pk.encrypt(form.plaintexts(q.g, q.h)).ravel()
    expected = plain(members, binned, q.g[0, members.rows], q.h[0, members.rows])
    filled = expected.n.swapaxes(0, 1) > 0
    sums = encrypted(members, binned, c, members.rows)
    assert not sums.fresh
    packed = form.pack(sums)
    assert packed.shape == (form.groups(int(filled.sum())),)
    counts = expected.n.swapaxes(0, 1)[filled]
    g, h = form.unpack(sk.decrypt(packed, dtype=object), counts)
    assert g.tolist() == expected.g.swapaxes(0, 1)[filled].tolist()
    assert h.tolist() == expected.h.swapaxes(0, 1)[filled].tolist()


def test_pairs_of_columns_halve_the_products(keys: Keys) -> None:
    pk, _ = keys
    cuts, x, members = make(2000, 6, 1, 4)
    c = pk.encrypt(np.ones(2000, np.int64))
    pk.backend.reset_stats()
    encrypted(members, cuts.apply(x), c, members.rows)
    products = pk.backend.stats()["prod"].products
    assert products < 0.52 * 6 * len(members.rows)


# --- packing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_quantised_numbers_use_their_bits(bits: int) -> None:
    rng = np.random.default_rng(12)
    for scale in (1e-9, 0.3, 1.0, 1e12):
        g, h = scale * rng.normal(size=(2, 50)), scale * rng.random((2, 50))
        q = quantise(g, h, bits)
        for integers, shift, numbers in ((q.g, q.g_shift, g), (q.h, q.h_shift, h)):
            most = np.abs(integers).max()
            assert 1 << (bits - 1) <= most <= 1 << bits
            error = np.abs(np.ldexp(integers.astype(float), -shift) - numbers)
            assert error.max() <= 2.0**-shift
        assert q.h.min() >= 1


def test_gradients_that_are_all_zero() -> None:
    q = quantise(np.zeros((1, 3)), np.ones((1, 3)), 24)
    assert q.g.tolist() == [[0, 0, 0]]
    assert np.ldexp(float(q.h[0, 0]), -q.h_shift) == 1.0


@pytest.mark.parametrize(("bits", "rows"), [(8, 1), (24, 569), (24, 100_000), (32, 1 << 19)])
def test_extreme_sums_fit_their_slots(keys: Keys, bits: int, rows: int) -> None:
    pk, sk = keys
    form = Format.plan(bits, rows, pk)
    assert form.slots > 1
    g = np.array([1 << bits, -(1 << bits), 0, 5])
    h = np.array([1 << bits, 1 << bits, 1, 7])
    one = pk.encrypt(form.plaintexts(g, h))
    assert one.bound.bit_length() <= form.row_bits
    travelled = pk.ciphertexts_from_bytes(one.to_bytes())
    every = np.repeat(np.arange(4), rows if rows < 1000 else 100)
    sums = travelled.gather_sum(every, np.arange(5) * (len(every) // 4))
    counts = np.full(4, len(every) // 4)
    got_g, got_h = form.unpack(sk.decrypt(form.pack(sums), dtype=object), counts)
    assert got_g.tolist() == (g * counts).tolist()
    assert got_h.tolist() == (h * counts).tolist()
    # And the largest sums that could be, side by side.
    largest = int(form.plaintexts(np.array([1 << bits]), np.array([1 << bits]))[0]) * rows
    whole = sum(largest << (t * form.width) for t in range(form.slots))
    assert whole.bit_length() <= form.slots * form.width <= pk.max_mantissa.bit_length() - 12
    full = np.full(form.slots, rows)
    got_g, got_h = form.unpack(np.array([whole], dtype=object), full)
    assert set(got_g.tolist()) == set(got_h.tolist()) == {rows << bits}


@pytest.mark.parametrize("sums", [1, 2, 14, 15, 16, 29, 100])
def test_any_number_of_sums_is_packed(keys: Keys, sums: int) -> None:
    pk, sk = keys
    form, rng = Format.plan(24, 500, pk), np.random.default_rng(12)
    g, h = rng.integers(-(1 << 24), 1 << 24, sums), rng.integers(1, 1 << 24, sums)
    packed = form.pack(pk.encrypt(form.plaintexts(g, h)))
    assert len(packed) == form.groups(sums) == -(-sums // form.slots)
    got = form.unpack(sk.decrypt(packed, dtype=object), np.ones(sums, np.int64))
    assert got[0].tolist() == g.tolist()
    assert got[1].tolist() == h.tolist()


def test_what_is_no_packed_sum_is_refused(keys: Keys) -> None:
    form = Format.plan(24, 500, keys[0])
    one = int(form.plaintexts(np.array([3]), np.array([2]))[0])
    counts = np.array([1])
    g, h = form.unpack(np.array([one], dtype=object), counts)
    assert (g.tolist(), h.tolist()) == ([3], [2])
    most = 1 << 24
    for wrong in (
        -1,
        1 << form.width,
        one - 2,  # h = 0
        one - 2 + most + 1,  # h too large
        int(form.plaintexts(np.array([most + 1]), np.array([1]))[0]),
        int(form.plaintexts(np.array([-most]), np.array([1]))[0]) - (1 << form.h_width),
    ):
        with pytest.raises(ValueError, match="out of range"):
            form.unpack(np.array([wrong], dtype=object), counts)
