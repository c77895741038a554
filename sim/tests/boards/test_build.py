"""What `residue board build` writes, as far as open tools can check it, and how it runs a tool."""

from __future__ import annotations

import configparser
import json
import os
import re
import stat
from pathlib import Path
from xml.etree import ElementTree

import pytest

from residue.card._abi import Register
from residue_sim._verilator import lint
from residue_sim.boards import Board, BoardError, board_names, find_board
from residue_sim.boards import _build as module
from residue_sim.boards._build import build, bundle, find_tool, write_bundle
from residue_sim.boards._wrapper import TOP, kernel_xml
from residue_sim.manifest import hw_root, sources_for

BOARDS = [find_board(name) for name in board_names() if name != "virtual"]
ZYNQ = [board for board in BOARDS if board.family.startswith("zynq")]
ALVEO = [board for board in BOARDS if board.family == "alveo"]


def names(boards: list[Board]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("board", boards, ids=lambda board: board.name)


class Interpreter:
    """Runs a script in Tcl with every command of the vendor's tools standing in for itself."""

    def __init__(self, slack: str = "0.1") -> None:
        tkinter = pytest.importorskip("tkinter")
        self._slack = slack
        self.calls: list[tuple[str, ...]] = []
        self._tcl = tkinter.Tcl()
        for command in ("glob", "file"):
            self._tcl.call("rename", command, f"real_{command}")
        self._tcl.createcommand("unknown", self._call)
        self._tcl.createcommand("file", lambda *words: self._call("file", *words))
        self._tcl.createcommand("glob", lambda *words: self._call("glob", *words))

    def _call(self, *words: str) -> str:
        self.calls.append(tuple(" ".join(word.split()) for word in words))
        if words[:2] == ("get_property", "PROGRESS"):
            return "100%"
        if words[:2] == ("get_property", "SLACK"):
            return self._slack
        return words[-1]

    def run(self, script: str) -> list[tuple[str, ...]]:
        self._tcl.eval(script)
        return self.calls

    def of(self, command: str) -> list[tuple[str, ...]]:
        return [call for call in self.calls if call[0] == command]


@names(BOARDS)
def test_the_bundle_holds_the_whole_card(board: Board) -> None:
    made = bundle(board)
    sources = {f"rtl/{path.name}" for path in sources_for("residue_card")}
    assert sources < made.files.keys()
    assert f"`define {board.dsp_macro}\n" in made.files["rtl/residue_dsp.sv"]
    assert f"{1000 / board.clock_mhz:.3f}" in made.files["residue_card_ooc.xdc"]
    text = "\n".join(text for name, text in made.files.items() if not name.startswith("rtl/"))
    assert str(hw_root().parent) not in text  # scripts name no path of this machine


@names(BOARDS)
def test_the_wrapper_fits_the_cards_ports(board: Board, tmp_path: Path) -> None:
    """Linted around the card's declaration; test_lint lints the card in every configuration."""
    (card,) = (path for path in sources_for("residue_card") if path.stem == "residue_card")
    declaration = re.match(r".*?\n\) ?\(.*?\n\);", card.read_text(), re.DOTALL)
    assert declaration is not None
    (tmp_path / "residue_card.sv").write_text(
        "/* verilator lint_off UNDRIVEN */\n/* verilator lint_off UNUSED */\n"
        f"{declaration[0]}\nendmodule\n"
    )
    (tmp_path / f"{TOP}.v").write_text(bundle(board).files[f"rtl/{TOP}.v"])
    packages = [path for path in sources_for("residue_card") if path.stem.endswith("_pkg")]
    waivers = [str(path) for path in sorted((hw_root() / "lint").glob("*.vlt"))]
    files = [*packages, tmp_path / "residue_card.sv", tmp_path / f"{TOP}.v"]
    lint(TOP, files, arguments=waivers)


@pytest.mark.full
@names(BOARDS)
def test_the_whole_bundle_is_lint_clean(board: Board, tmp_path: Path) -> None:
    (tmp_path / f"{TOP}.v").write_text(bundle(board).files[f"rtl/{TOP}.v"])
    waivers = [str(path) for path in sorted((hw_root() / "lint").glob("*.vlt"))]
    lint(TOP, [*sources_for("residue_card"), tmp_path / f"{TOP}.v"], arguments=waivers)


@names(BOARDS)
def test_the_ip_is_packed_from_all_files_in_order(board: Board) -> None:
    made = bundle(board)
    script = "package_kernel.tcl" if board.family == "alveo" else "package_ip.tcl"
    tcl = Interpreter()
    tcl.run(made.files[script])
    assert ("-part", board.part) == tcl.of("create_project")[0][-2:]
    (added, limits) = tcl.of("add_files")
    order = [path.name for path in sources_for("residue_card")]
    assert [Path(name).name for name in added[-1].split()] == [*order, f"{TOP}.v"]
    assert all(name in made.files for name in (*added[-1].split(), *limits[-1].split()))
    buses = {call[2] for call in tcl.of("ipx::associate_bus_interfaces")}
    masters = {f"m{index:02}_axi" for index in range(board.config.masters)}
    assert buses == {"s_axi_control", *masters}
    packed = tcl.of("package_xo")
    assert len(packed) == (board.family == "alveo")
    if packed:
        assert packed[0][packed[0].index("-kernel_xml") + 1] in made.files


@names(ZYNQ)
def test_the_block_design_connects_every_port_once(board: Board) -> None:
    tcl = Interpreter()
    tcl.run(bundle(board).files["block_design.tcl"])
    assert board.board_part in {call[2] for call in tcl.of("set_property")}
    cells = {call[-1] for call in tcl.of("create_bd_cell")}
    assert {"ps", "reset", "residue_card_0", "control"} < cells
    ends = [end for call in tcl.of("connect_bd_intf_net") for end in call[1:]]
    assert len(ends) == len(set(ends))
    assert {end.partition("/")[0] for end in ends} <= cells
    masters = [f"residue_card_0/m{index:02}_axi" for index in range(board.config.masters)]
    for master, port in zip(masters, board.cards[0].memory, strict=True):
        assert master in ends
        assert f"ps/{port}" in ends
    assert "residue_card_0/s_axi_control" in ends
    # Every cell of ours has its clock and its reset; every master and the registers an address.
    pins = [pin for call in tcl.of("connect_bd_net") for pin in call[1:]]
    for cell in cells - {"ps", "reset"}:
        clock, reset = ("ap_clk", "ap_rst_n") if cell == "residue_card_0" else ("aclk", "aresetn")
        assert f"{cell}/{clock}" in pins
        assert f"{cell}/{reset}" in pins
    assert "residue_card_0/interrupt" in pins
    spaces = [call[call.index("-target_address_space") + 1] for call in tcl.of("assign_bd_address")]
    assert sorted(spaces) == sorted([*masters, "ps/Data"])
    copies = [call[-1] for call in tcl.of("file") if call[1] == "copy"]
    assert copies == [f"{board.name}.bit", f"{board.name}.hwh"]


@names(ZYNQ)
def test_a_clock_that_is_not_closed_makes_no_bitstream(board: Board) -> None:
    tcl = Interpreter(slack="-0.2")
    with pytest.raises(Exception, match=r"is not closed: slack -0\.2 ns"):
        tcl.run(bundle(board).files["block_design.tcl"])
    assert not [call for call in tcl.of("file") if call[1] == "copy"]


@names(ALVEO)
def test_the_link_configuration_says_what_the_board_says(board: Board) -> None:
    made = bundle(board)
    text = made.files["link.cfg"]
    nk = re.findall(r"^nk=(\w+):(\d+):(\S+)$", text, re.MULTILINE)
    assert [(name, int(count)) for name, count, _ in nk] == [(TOP, len(board.cards))]
    instances = nk[0][2].split(".")
    slrs = dict(re.findall(r"^slr=(\w+):(\w+)$", text, re.MULTILINE))
    assert slrs == {n: place.slr for n, place in zip(instances, board.cards, strict=True)}
    banks = re.findall(r"^sp=(\w+)\.(m\d\d_axi):(\S+)$", text, re.MULTILINE)
    assert banks == [
        (name, f"m{index:02}_axi", bank)
        for name, place in zip(instances, board.cards, strict=True)
        for index, bank in enumerate(place.memory)
    ]
    assert f"kernel_frequency={board.clock_mhz:g}\n" in text
    assert f"platform={board.platform}\n" in text
    parser = configparser.ConfigParser(strict=False)
    parser.read_string("[top]\n" + text)
    assert parser.sections() == ["top", "connectivity", "vivado"]


@names(ALVEO)
def test_the_kernel_description_is_that_of_the_registers(board: Board) -> None:
    root = ElementTree.fromstring(bundle(board).files["kernel.xml"])
    kernel = root.find("kernel")
    assert kernel is not None
    assert kernel.get("hwControlProtocol") == "user_managed"
    assert str(kernel.get("vlnv")).startswith("residue:residue:residue_card")  # the driver's mark
    ports = {port.get("name"): port for port in root.iter("port")}
    assert len(ports) == 1 + board.config.masters
    for index in range(board.config.masters):
        assert ports[f"m{index:02}_axi"].get("dataWidth") == str(board.config.axi_data_bits)
    pointers = [arg for arg in root.iter("arg") if arg.get("addressQualifier") == "1"]
    assert [arg.get("port") for arg in pointers] == [n for n in ports if n != "s_axi_control"]
    for arg in root.iter("arg"):
        low = str(arg.get("name")).upper()
        register = Register[low] if low in Register.__members__ else Register[f"{low}_LO"]
        assert int(str(arg.get("offset")), 16) == register


def test_more_masters_than_addresses_are_refused() -> None:
    from dataclasses import replace

    with pytest.raises(BoardError, match="4 masters, but Vitis can connect 3"):
        kernel_xml(replace(find_board("u250").config, masters=4, rings=12))


def test_the_virtual_board_is_not_built() -> None:
    with pytest.raises(BoardError, match="residue board serve"):
        bundle(find_board("virtual"))


# --- the tool's run -------------------------------------------------------------------------------


def tool(folder: Path, name: str, version: str, body: str = "") -> None:
    """A stand-in for a vendor's tool that says its version and runs `body`."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in -version|--version) echo "{name} v{version} (64-bit)"; exit;;\n'
        "--list) exit;; esac\n"
        'case "$2" in tcl) echo "$BOARD_PARTS"; exit;; esac\n'
        'echo "$@" >> calls\n' + body
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder before the system's on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


VIVADO = """
case "$6" in
  package_ip.tcl) mkdir -p work/ip; touch work/ip/component.xml;;
  *) if [ -e "$FAIL" ]; then echo "no licence"; exit 1; fi; touch kv260.bit kv260.hwh;;
esac
"""


def test_what_is_missing_is_said(path: Path, tmp_path: Path) -> None:
    board, folder = find_board("kv260"), tmp_path / "out"
    with pytest.raises(BoardError) as caught:
        build(bundle(board), folder)
    text = str(caught.value)
    assert "vivado is not on PATH: install Vivado 2022.1 to 2024.2" in text
    assert "vivado -mode batch -nojournal -notrace -source block_design.tcl" in text
    assert "licence" in text
    assert not folder.exists()
    tool(path, "vivado", "2019.2")
    assert find_tool(board).versions == {"vivado": "2019.2"}
    missing = "\n".join(find_tool(board).missing)
    assert "vivado is version 2019.2; the scripts were written for 2022.1 to 2024.2" in missing
    assert "board files xilinx.com:kv260_som:part0:1.4 are not installed" in missing
    missing = "\n".join(find_tool(find_board("u250")).missing)
    assert "v++ is not on PATH" in missing
    assert "xilinx_u250_gen3x16_xdma_4_1_202210_1 is needed" in missing
    tool(path, "platforminfo", "2022.1")
    missing = "\n".join(find_tool(find_board("u250")).missing)
    assert "xilinx_u250_gen3x16_xdma_4_1_202210_1 is not installed" in missing


def test_a_build_goes_on_where_it_stopped(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, folder, fail = find_board("kv260"), tmp_path / "out", tmp_path / "fail"
    monkeypatch.setenv("FAIL", str(fail))
    monkeypatch.setenv("BOARD_PARTS", str(board.board_part))
    tool(path, "vivado", "2023.2", VIVADO)
    fail.touch()
    said: list[str] = []
    with pytest.raises(BoardError, match=r"failed to implement .*: see .*02-implement") as caught:
        build(bundle(board), folder, progress=lambda text, done, total: said.append(text))
    log = Path(str(caught.value).rpartition("see ")[2])
    assert log.read_text() == "no licence\n"
    fail.unlink()
    results = build(bundle(board), folder, progress=lambda text, done, total: said.append(text))
    assert results == [folder / "kv260.bit", folder / "kv260.hwh"]
    assert said == ["pack the IP", "implement the block design", "implement the block design"]
    assert (folder / "calls").read_text().count("package_ip.tcl") == 1
    assert build(bundle(board), folder) == results
    assert len((folder / "calls").read_text().splitlines()) == 3


def test_other_contents_replace_a_build_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(find_board("kv260"))
    folder = write_bundle(made, tmp_path / "out")
    (folder / "kv260.bit").touch()
    assert write_bundle(made, folder) == folder
    assert (folder / "kv260.bit").exists()
    changed = module.Bundle(made.board, {**made.files, "link.cfg": ""}, made.steps)
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise OSError("disk full")

        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="disk full"):
            write_bundle(changed, folder)
    assert (folder / "kv260.bit").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    write_bundle(changed, folder)
    assert not (folder / "kv260.bit").exists()
    assert json.loads((folder / "inputs.json").read_text())["done"] == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(BoardError, match="is not a board's build"):
        write_bundle(bundle(find_board("kv260")), tmp_path)
