from __future__ import annotations

from residue_federated.proto._generate import PACKAGE, STUBS, generate


def test_committed_stubs_are_what_the_schema_gives() -> None:
    expected = generate()
    assert set(expected) == set(STUBS)
    for name, text in expected.items():
        assert (PACKAGE / name).read_text() == text, f"{name} is stale: run proto/_generate.py"
