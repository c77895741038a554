"""Ciphertext arithmetic through an owner process, beside direct use of the same backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residue.backends import Backend
from residue.backends._cpu import CpuBackend
from residue.owner import OwnerBackend
from residue.paillier import keygen


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Backend]]:
    """One core each; the owner is another process."""
    path: Path = tmp_path_factory.mktemp("owner") / "socket"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDUE_CPU_WORKERS", "1")
        owner = subprocess.Popen(
            [sys.executable, "-m", "residue", "card", "serve", "--device", "cpu",
             "--socket", str(path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("serving")
    session = OwnerBackend(path)
    yield {"direct": CpuBackend(workers=1), "owner": session}
    session.close()
    owner.terminate()
    owner.wait()
    owner.stdout.close()


@pytest.mark.parametrize("way", ["direct", "owner"])
@pytest.mark.parametrize("count", [1, 100, 1000])
@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_owner(
    benchmark: Any, backends: dict[str, Backend], operation: str, count: int, way: str
) -> None:
    """2048-bit keys; factors of 63 bits."""
    pk, _ = keygen(2048, device=backends[way])
    rng = np.random.default_rng(1)
    c = pk.encrypt(rng.normal(size=count))
    factors = rng.integers(-(2**63) + 1, 2**63 - 1, size=count)
    benchmark.group = f"{operation} {count}"
    call = {"add": lambda: c + c, "multiply": lambda: c * factors}[operation]
    benchmark.pedantic(call, rounds=7, warmup_rounds=1)
