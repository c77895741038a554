"""Generates the protobuf stubs beside this file; run it as a script.

Needs grpcio-tools. `generate` returns what the committed files must contain.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

__all__ = ["STUBS", "generate"]

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[2]
STUBS = ("owner_v1_pb2.py", "owner_v1_pb2.pyi")
_HEADER = "# fmt: off\n# ruff: noqa\n# mypy: ignore-errors\n"


def generate() -> dict[str, str]:
    """File name -> text of every stub, from ``owner_v1.proto``."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    source = (PACKAGE / "owner_v1.proto").relative_to(ROOT)
    with tempfile.TemporaryDirectory() as out:
        code = protoc.main(
            ["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", str(source)]
        )
        if code != 0:
            raise RuntimeError(f"protoc failed on {source} with code {code}")
        made = Path(out) / source.parent
        return {name: _HEADER + (made / name).read_text() for name in STUBS}


if __name__ == "__main__":
    for name, text in generate().items():
        (PACKAGE / name).write_text(text)
