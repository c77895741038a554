"""The page allocator of the virtual board."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residue_sim.board._memory import PAGE, PageAllocator

BASE, PAGES = 0x1000_0000, 32


@given(st.lists(st.one_of(st.integers(1, 6 * PAGE), st.none()), max_size=60), st.randoms())
def test_pieces_never_overlap_and_freed_ones_join(
    steps: list[int | None], choice: random.Random
) -> None:
    allocator = PageAllocator(BASE, PAGES * PAGE)
    live: dict[int, int] = {}
    for size in steps:
        if size is None:
            if live:
                address = choice.choice(sorted(live))
                allocator.free(address)
                del live[address]
            continue
        try:
            address = allocator.allocate(size)
        except MemoryError:
            assert allocator.free_bytes < PAGES * PAGE
            continue
        end = address + size
        assert address % PAGE == 0
        assert address >= BASE
        assert end <= BASE + PAGES * PAGE
        assert all(end <= other or other + live[other] <= address for other in live)
        live[address] = size
    for address in live:
        allocator.free(address)
    assert allocator.allocate(PAGES * PAGE) == BASE


def test_freed_memory_is_reused() -> None:
    allocator = PageAllocator(BASE, PAGES * PAGE)
    first, second = allocator.allocate(PAGE), allocator.allocate(PAGE)
    allocator.free(first)
    assert allocator.allocate(1) == first
    assert second == first + PAGE


@pytest.mark.parametrize("nbytes", [0, -1])
def test_sizes_below_one_are_refused(nbytes: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        PageAllocator(BASE, PAGE).allocate(nbytes)


def test_exhaustion_says_what_is_left() -> None:
    allocator = PageAllocator(BASE, 2 * PAGE)
    allocator.allocate(PAGE)
    with pytest.raises(MemoryError, match=f"{PAGE} bytes free"):
        allocator.allocate(PAGE + 1)


def test_an_address_is_freed_once() -> None:
    allocator = PageAllocator(BASE, PAGE)
    address = allocator.allocate(PAGE)
    allocator.free(address)
    with pytest.raises(KeyError):
        allocator.free(address)
