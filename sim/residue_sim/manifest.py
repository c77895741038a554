"""What `hw/` holds: RTL sources in dependency order and the named configurations, typed."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from residue_sim.golden import digit_count

__all__ = [
    "ELEMENTS",
    "Configuration",
    "bare_code",
    "configurations",
    "hw_root",
    "source_files",
    "sources_for",
]

ELEMENTS = {"schoolbook": 51, "karatsuba": 50}
"""Kinds of processing element and the widest digits each can have, in bits."""


def hw_root() -> Path:
    """The folder `hw/`: `$RESIDUE_HW`, else the one of this checkout.

    Raises:
        FileNotFoundError: neither holds a source manifest.
    """
    named = os.environ.get("RESIDUE_HW")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "hw"
    if not (root / "sources.yaml").is_file():
        raise FileNotFoundError(
            f"no sources.yaml in {root}: run from a checkout of residue or point RESIDUE_HW at "
            "its hw folder"
        )
    return root


def source_files(*areas: str, root: Path | None = None) -> list[Path]:
    """Files of the given areas (all areas if none is given), in dependency order."""
    root = root or hw_root()
    manifest: dict[str, list[str]] = yaml.safe_load((root / "sources.yaml").read_text())
    if unknown := set(areas) - manifest.keys():
        raise KeyError(f"no area {sorted(unknown)} in sources.yaml, only {sorted(manifest)}")
    chosen = [area for area in manifest if not areas or area in areas]
    return [root / name for area in chosen for name in manifest[area]]


def sources_for(top: str, *, root: Path | None = None) -> list[Path]:
    """The file of module `top` and all files it uses, in dependency order.

    A file uses another one when it mentions the other's module (or package) name.
    """
    files = {path.stem: path for path in source_files(root=root)}
    if top not in files:
        raise KeyError(f"no module {top} in sources.yaml")
    needed: set[str] = set()
    todo = [top]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            words = set(re.findall(r"\b[A-Za-z_]\w*", _without_comments(files[name].read_text())))
            todo += sorted(words & files.keys())
    return [path for name, path in files.items() if name in needed]


def _without_comments(text: str) -> str:
    return re.sub(r"//.*?$|/\*.*?\*/", "", text, flags=re.MULTILINE | re.DOTALL)


def bare_code(path: Path) -> str:
    """SystemVerilog or C++ of a file without its comments, white space as single blanks."""
    text = path.read_text(encoding="utf-8")
    bare = re.sub(r"//.*?$|/\*.*?\*/", "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(bare.split())


@dataclass(frozen=True)
class Configuration:
    """One named entry of `hw/configs.yaml`; the fields are explained there."""

    name: str
    element: str
    word_bits: int
    elements: int
    rings: int
    masters: int
    contexts: int
    max_modulus_bits: int
    max_exponent_bits: int
    axi_data_bits: int
    table_entries: int

    def __post_init__(self) -> None:
        widest = ELEMENTS.get(self.element)
        if widest is None:
            raise ValueError(
                f"configuration {self.name}: no element {self.element!r}, only {sorted(ELEMENTS)}"
            )
        if self.word_bits > widest:
            raise ValueError(
                f"configuration {self.name}: word_bits of a {self.element} element is at most "
                f"{widest}, not {self.word_bits}"
            )
        if self.rings % self.masters:
            raise ValueError(f"configuration {self.name}: rings must be a multiple of masters")

    @property
    def karatsuba(self) -> bool:
        """Whether its elements take a Karatsuba step."""
        return self.element == "karatsuba"

    @property
    def digits_per_word(self) -> int:
        """Digits that a ring takes in a cycle, g."""
        return 2 if self.karatsuba else 1

    @property
    def max_words(self) -> int:
        """Digits of a residue at the largest modulus, k."""
        return digit_count(self.max_modulus_bits, self.word_bits, self.digits_per_word)

    def room(self, digits: int) -> tuple[int, int]:
        """Contexts and table entries of a ring for residues of so many digits.

        The stores are cut finer for the smaller moduli.
        """
        half = 2 * ((self.max_words + 3) // 4)
        if digits > half:
            return self.contexts // 2, self.table_entries
        return self.contexts, self.table_entries * (self.max_words // 2) // (half // 2)


@functools.cache
def configurations() -> dict[str, Configuration]:
    """The entries of `hw/configs.yaml` by name."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load((hw_root() / "configs.yaml").read_text())
    wanted = {field.name for field in fields(Configuration)} - {"name"}
    for name, entry in entries.items():
        if entry.keys() != wanted:
            raise ValueError(
                f"configs.yaml, {name}: {sorted(entry.keys() ^ wanted)} missing or unknown"
            )
    return {name: Configuration(name=name, **entry) for name, entry in entries.items()}
