"""The generated register files are those of their source, and the hand-written page agrees."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from residue.card import _abi as abi
from residue_sim import regs_gen

ROOT = Path(__file__).resolve().parents[2]
GENERATED = [
    Path("docs/registers.md"),
    Path("host/residue/card/_abi.py"),
    Path("hw/regs/generated/residue_regs_block.sv"),
    Path("hw/regs/generated/residue_regs_block_pkg.sv"),
    Path("hw/rtl/card/residue_abi_pkg.sv"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout that holds the source and what is generated from it."""
    for path in [regs_gen.SOURCE, *GENERATED]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    return tmp_path


def test_committed_files_are_generated() -> None:
    assert regs_gen.check(ROOT) == []


def test_generates_each_file() -> None:
    assert sorted(regs_gen.generate(ROOT)) == GENERATED


def test_edited_files_are_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert regs_gen.main(["--check", "--root", str(copy)]) == 0
    for path in GENERATED:
        text = (copy / path).read_text()
        digit = re.search(r"\b[0-9]\b", text)
        assert digit is not None
        edited = str((int(digit[0]) + 1) % 10)
        (copy / path).write_text(text[: digit.start()] + edited + text[digit.end() :])
    assert regs_gen.main(["--check", "--root", str(copy)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in errors] == [str(path) for path in GENERATED]
    assert regs_gen.main(["--root", str(copy)]) == 0
    for path in GENERATED:
        assert (copy / path).read_text() == (ROOT / path).read_text()


def test_edited_source_makes_files_stale(copy: Path) -> None:
    source = copy / regs_gen.SOURCE
    source.write_text(source.read_text().replace("SQR       = 8'd8", "SQR       = 8'd18"))
    stale = regs_gen.check(copy)
    assert Path("host/residue/card/_abi.py") in stale
    assert Path("hw/rtl/card/residue_abi_pkg.sv") in stale
    assert Path("docs/registers.md") in stale


def test_missing_and_surplus_files_are_found(copy: Path) -> None:
    (copy / GENERATED[0]).unlink()
    surplus = regs_gen.BLOCK_DIR / "old_block.sv"
    (copy / surplus).write_text("")
    assert regs_gen.check(copy) == [GENERATED[0], surplus]
    regs_gen.write(copy)
    assert regs_gen.check(copy) == []
    assert not (copy / surplus).exists()


def _rows(title: str) -> list[list[str]]:
    """Cells of the tables under a heading of docs/card-abi.md that begins with `title`."""
    page = (ROOT / "docs/card-abi.md").read_text()
    section = re.split(r"^## ", page.split(f"## {title}", 1)[1], flags=re.MULTILINE)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if re.match(r"\| [0-9]", line)
    ]


def test_page_lists_the_opcodes_and_status_codes() -> None:
    opcodes = {row[1]: int(row[0]) for row in _rows("Opcodes")}
    assert opcodes == {member.name: member.value for member in abi.Opcode}
    status = {row[1]: int(row[0]) for row in _rows("Status codes")}
    assert status == {member.name: member.value for member in abi.Status}


def test_page_lists_the_registers() -> None:
    offsets = {
        row[1]: int(row[0], 16) for row in _rows("Registers") if re.fullmatch(r"0x\w\w", row[0])
    }
    assert offsets
    for name, offset in offsets.items():
        assert abi.Register[name] == offset
    page = (ROOT / "docs/card-abi.md").read_text()
    counters = dict(re.findall(r"([A-Z_]+) \((0x[0-9A-F]{2})[,)]", page))
    assert len(counters) == 8
    for name, offset in counters.items():
        assert abi.Register[f"{name}_LO"] == int(offset, 16)
        assert abi.Register[f"{name}_HI"] == int(offset, 16) + 4


def test_page_describes_the_command() -> None:
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    rows = [row for row in _rows("Command queue") if row[1] in sizes]
    names = [re.split(r"[:, ]", row[2])[0] for row in rows]
    assert names == list(abi.COMMAND_DTYPE.names or ())
    for row, name in zip(rows, names, strict=True):
        dtype, offset = (abi.COMMAND_DTYPE.fields or {})[name][:2]
        assert (offset, dtype.itemsize) == (int(row[0]), sizes[row[1]])


def test_layouts_fill_a_descriptor() -> None:
    assert abi.COMMAND_DTYPE.itemsize == abi.COMPLETION_OFFSET - abi.COMMAND_OFFSET
    assert abi.COMPLETION_DTYPE.itemsize == abi.DESCRIPTOR_BYTES - abi.COMPLETION_OFFSET


def test_every_status_has_its_text() -> None:
    assert set(abi.STATUS_TEXT) == set(abi.Status)


def test_fields_place_and_find_values() -> None:
    field = abi.Field(lsb=8, width=4)
    assert field.mask == 0xF00
    assert field.put(0xA) == 0xA00
    assert field.get(0x1A34) == 0xA
    with pytest.raises(ValueError, match="does not fit"):
        field.put(16)
