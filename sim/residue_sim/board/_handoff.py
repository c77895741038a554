"""What Vivado would hand over for the virtual board: the `.hwh` and a bitstream container.

The `.hwh` has Vivado's format: a Zynq UltraScale+ processing system, two SmartConnects, a reset
block and the card, with the card's registers from `hw/regs/residue.rdl`. The interrupt goes
straight to the processing system: PYNQ's interrupts need an AXI interrupt controller on a local
board and do not exist on a remote one, so drivers poll here. The `.bit` has the header of a real
one; its payload names the configuration instead of configuring anything.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from peakrdl_regblock.udps import ALL_UDPS
from systemrdl.compiler import RDLCompiler
from systemrdl.node import FieldNode, RegNode

from residue_sim._verilator import cached_build
from residue_sim.board._build import card_parameters
from residue_sim.board._platform import CARD_VLNV, platform
from residue_sim.manifest import Configuration, configurations, hw_root

__all__ = ["bitstream_identity", "board_files", "read_bitstream"]

_SYNC = bytes.fromhex("ffffffff" * 8 + "000000bb11220044" + "ffffffff" * 2 + "aa995566")
_VIVADO = "2023.2"
_TIME = "Mon Jan  1 00:00:00 2024"
_PS, _CARD, _RESET = "zynq_ultra_ps_e_0", "residue_card_0", "rst_pl_clk0"
_CONTROL, _DATA = "axi_smc_control", "axi_smc_memory"

# Signals of the interfaces; the slave drives those with `>`.
_AXI_LITE = """
    awaddr awprot awvalid >awready wdata wstrb wvalid >wready >bresp >bvalid bready
    araddr arprot arvalid >arready >rdata >rresp >rvalid rready
"""
_AXI = """
    awid awaddr awlen awsize awburst awcache awprot awvalid >awready
    wdata wstrb wlast wvalid >wready >bid >bresp >bvalid bready
    arid araddr arlen arsize arburst arcache arprot arvalid >arready
    >rid >rdata >rresp >rlast >rvalid rready
"""


def board_files(configuration: str) -> Path:
    """Path of the `.bit` for a configuration; its `.hwh` lies beside it. Cached.

    Raises:
        KeyError: no such configuration.
    """
    entry = configurations()[configuration]
    handoff, bitstream = _handoff(entry), _bitstream(entry)
    name = f"residue_{configuration}"

    def write(folder: Path) -> None:
        (folder / f"{name}.hwh").write_text(handoff, encoding="utf-8")
        (folder / f"{name}.bit").write_bytes(bitstream)

    return cached_build("board", [handoff, bitstream], write) / f"{name}.bit"


def bitstream_identity(configuration: Configuration) -> dict[str, object]:
    """What the payload of a bitstream for this configuration says."""
    return {"design": "residue_card", **asdict(configuration)}


def read_bitstream(binary: bytes) -> dict[str, object]:
    """Identity in what PYNQ makes of a `.bit`: its payload, every 32-bit word byte-swapped.

    Raises:
        ValueError: it is not a bitstream of `board_files`.
    """
    problem = "firmware is not a bitstream for the virtual board: expected one of board_files()"
    if len(binary) % 4:
        raise ValueError(problem)
    payload = np.frombuffer(binary, "<u4").byteswap().tobytes()
    if not payload.startswith(_SYNC):
        raise ValueError(problem)
    try:
        identity = json.loads(payload[len(_SYNC) :])
    except ValueError as error:
        raise ValueError(problem) from error
    if not isinstance(identity, dict):
        raise ValueError(problem)
    return identity


def _bitstream(configuration: Configuration) -> bytes:
    identity = json.dumps(bitstream_identity(configuration)).encode()
    payload = _SYNC + identity + b" " * (-len(identity) % 4)
    header = struct.pack(">H9sH", 9, bytes.fromhex("0ff00ff00ff00ff000"), 1)
    facts = platform()
    for tag, text in (
        (b"a", f"residue_{configuration.name};UserID=0XFFFFFFFF;Version={_VIVADO}"),
        (b"b", f"{facts.part}-{facts.package}{facts.speed_grade}-e"),
        (b"c", "2024/01/01"),
        (b"d", "00:00:00"),
    ):
        data = text.encode() + b"\0"
        header += tag + struct.pack(">H", len(data)) + data
    return header + b"e" + struct.pack(">I", len(payload)) + payload


# ------------------------------------------------------------------------------------- the design


class _Design:
    """Modules of a block design and their nets, as a `.hwh` lists them."""

    def __init__(self, modules: list[tuple[str, str, str]]) -> None:
        self.root = ElementTree.Element("MODULES")
        self._modules: dict[str, ElementTree.Element] = {}
        self._ports: dict[tuple[str, str], ElementTree.Element] = {}
        for instance, vlnv, revision in modules:
            name, version = vlnv.split(":")[2:]
            module = ElementTree.SubElement(
                self.root,
                "MODULE",
                COREREVISION=revision,
                FULLNAME=f"/{instance}",
                HWVERSION=version,
                INSTANCE=instance,
                IPTYPE="PERIPHERAL",
                IS_ENABLE="1",
                MODCLASS="PERIPHERAL",
                MODTYPE=name,
                VLNV=vlnv,
            )
            for part in ("ADDRESSBLOCKS", "PARAMETERS", "PORTS", "BUSINTERFACES", "MEMORYMAP"):
                ElementTree.SubElement(module, part)
            self._modules[instance] = module

    def part(self, instance: str, name: str) -> ElementTree.Element:
        """A section of a module."""
        found = self._modules[instance].find(name)
        assert found is not None
        return found

    def parameters(self, instance: str, values: dict[str, object]) -> None:
        """Add parameters to a module."""
        for name, value in values.items():
            ElementTree.SubElement(
                self.part(instance, "PARAMETERS"), "PARAMETER", NAME=name, VALUE=str(value)
            )

    def net(self, name: str, driver: tuple[str, str], *loads: tuple[str, str], **more: str) -> None:
        """Connect one output with inputs; `more` are further attributes of all the ports."""
        for instance, port in (driver, *loads):
            element = self._ports.get((instance, port))
            if element is None:
                element = ElementTree.SubElement(
                    self.part(instance, "PORTS"),
                    "PORT",
                    {
                        **more,
                        "DIR": "O" if (instance, port) == driver else "I",
                        "NAME": port,
                        "SIGNAME": name,
                    },
                )
                ElementTree.SubElement(element, "CONNECTIONS")
                self._ports[instance, port] = element
            for other, pin in loads if (instance, port) == driver else (driver,):
                ElementTree.SubElement(element[0], "CONNECTION", INSTANCE=other, PORT=pin)

    def bus(
        self,
        master: tuple[str, str, str],
        slave: tuple[str, str, str],
        signals: str,
        data_bits: int,
        protocol: str,
    ) -> None:
        """Connect two AXI interfaces, each given as instance, interface and prefix of its ports."""
        name = f"{master[0]}_{master[1]}"
        for signal in signals.split():
            pin = signal.lstrip(">")
            ends = (master[0], master[2] + pin), (slave[0], slave[2] + pin)
            driver, load = reversed(ends) if signal.startswith(">") else ends
            self.net(f"{name}_{pin}", driver, load, SIGIS="undef")
        for (instance, interface, prefix), kind in ((master, "MASTER"), (slave, "SLAVE")):
            element = ElementTree.SubElement(
                self.part(instance, "BUSINTERFACES"),
                "BUSINTERFACE",
                BUSNAME=name,
                DATAWIDTH=str(data_bits),
                NAME=interface,
                TYPE=kind,
                VLNV="xilinx.com:interface:aximm:1.0",
            )
            for key, value in (("DATA_WIDTH", str(data_bits)), ("PROTOCOL", protocol)):
                ElementTree.SubElement(element, "PARAMETER", NAME=key, VALUE=value)
            maps = ElementTree.SubElement(element, "PORTMAPS")
            for signal in signals.split():
                pin = signal.lstrip(">")
                ElementTree.SubElement(maps, "PORTMAP", LOGICAL=pin.upper(), PHYSICAL=prefix + pin)

    def memory_range(
        self,
        master: tuple[str, str],
        slave: tuple[str, str],
        block: str,
        kind: str,
        base: int,
        size: int,
    ) -> None:
        """Say that `master` sees `slave` (instance, interface) at ``[base, base + size)``."""
        ElementTree.SubElement(
            self.part(master[0], "MEMORYMAP"),
            "MEMRANGE",
            ADDRESSBLOCK=block,
            BASENAME="C_BASEADDR",
            BASEVALUE=f"0x{base:08X}",
            HIGHNAME="C_HIGHADDR",
            HIGHVALUE=f"0x{base + size - 1:08X}",
            INSTANCE=slave[0],
            IS_DATA="TRUE",
            IS_INSTRUCTION="TRUE",
            MASTERBUSINTERFACE=master[1],
            MEMTYPE=kind,
            SLAVEBUSINTERFACE=slave[1],
        )


def _handoff(configuration: Configuration) -> str:
    facts = platform()
    smartconnect = "xilinx.com:ip:smartconnect:1.0"
    design = _Design(
        [
            (_PS, "xilinx.com:ip:zynq_ultra_ps_e:3.5", "1"),
            (_RESET, "xilinx.com:ip:proc_sys_reset:5.0", "14"),
            (_CONTROL, smartconnect, "20"),
            (_DATA, smartconnect, "20"),
            (_CARD, CARD_VLNV, "1"),
        ]
    )
    design.parameters(_PS, _processing_system(facts.clock_mhz))
    design.parameters(_CARD, {**card_parameters(configuration), "EDK_IPTYPE": "PERIPHERAL"})
    _registers(design.part(_CARD, "ADDRESSBLOCKS"), facts.card_bytes)

    frequency = str(round(facts.clock_mhz * 1e6))
    clocked = [(_PS, "maxihpm0_fpd_aclk"), (_PS, "saxihp0_fpd_aclk"), (_RESET, "slowest_sync_clk")]
    clocked += [(_CONTROL, "aclk"), (_DATA, "aclk"), (_CARD, "clk")]
    design.net(f"{_PS}_pl_clk0", (_PS, "pl_clk0"), *clocked, SIGIS="clk", CLKFREQUENCY=frequency)
    reset = {"SIGIS": "rst", "POLARITY": "ACTIVE_LOW"}
    design.net(f"{_PS}_pl_resetn0", (_PS, "pl_resetn0"), (_RESET, "ext_reset_in"), **reset)
    cleared = [(_CONTROL, "aresetn"), (_DATA, "aresetn"), (_CARD, "rst_n")]
    design.net(f"{_RESET}_peripheral_aresetn", (_RESET, "peripheral_aresetn"), *cleared, **reset)
    design.net(
        f"{_CARD}_interrupt_o", (_CARD, "interrupt_o"), (_PS, "pl_ps_irq0"), SIGIS="INTERRUPT"
    )
    wide = configuration.axi_data_bits
    entry, exit_ = ("S00_AXI", "S00_AXI_"), ("M00_AXI", "M00_AXI_")
    design.bus((_PS, "M_AXI_HPM0_FPD", "maxigp0_"), (_CONTROL, *entry), _AXI, 32, "AXI4")
    design.bus((_CONTROL, *exit_), (_CARD, "s_axil", "s_axil_"), _AXI_LITE, 32, "AXI4LITE")
    design.bus((_CARD, "m_axi", "m_axi_"), (_DATA, *entry), _AXI, wide, "AXI4")
    design.bus((_DATA, *exit_), (_PS, "S_AXI_HP0_FPD", "saxigp2_"), _AXI, 128, "AXI4")
    design.memory_range(
        (_PS, "M_AXI_HPM0_FPD"),
        (_CARD, "s_axil"),
        "registers",
        "REGISTER",
        facts.card_base,
        facts.card_bytes,
    )
    design.memory_range(
        (_CARD, "m_axi"), (_PS, "S_AXI_HP0_FPD"), "HP0_DDR_LOW", "MEMORY", 0, 0x8000_0000
    )

    system = ElementTree.Element(
        "EDKSYSTEM", EDWVERSION="1.2", TIMESTAMP=_TIME, VIVADOVERSION=_VIVADO
    )
    ElementTree.SubElement(
        system,
        "SYSTEMINFO",
        ARCH="zynquplus",
        DEVICE=facts.part,
        NAME=f"residue_{configuration.name}",
        PACKAGE=facts.package,
        SPEEDGRADE=facts.speed_grade,
    )
    ElementTree.SubElement(system, "EXTERNALPORTS")
    ElementTree.SubElement(system, "EXTERNALINTERFACES")
    system.append(design.root)
    ElementTree.indent(system)
    text = ElementTree.tostring(system, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n{text}\n'


def _processing_system(clock_mhz: float) -> dict[str, object]:
    values: dict[str, object] = {
        "C_MAXIGP0_DATA_WIDTH": 32,
        "C_SAXIGP2_DATA_WIDTH": 128,
        "PSU__PSS_REF_CLK__FREQMHZ": 33.333,
        "PSU__USE__M_AXI_GP0": 1,
        "PSU__USE__S_AXI_GP2": 1,
        "PSU__USE__IRQ0": 1,
    }
    for clock in range(4):
        register = f"PSU__CRL_APB__PL{clock}_REF_CTRL__"
        values[f"PSU__FPGA_PL{clock}_ENABLE"] = int(clock == 0)
        values[f"{register}SRCSEL"] = "IOPLL"
        values[f"{register}DIVISOR0"] = 8 if clock == 0 else 15
        values[f"{register}DIVISOR1"] = 1
        values[f"{register}ACT_FREQMHZ"] = clock_mhz if clock == 0 else 99.999
    return values


@functools.cache
def _register_nodes() -> list[RegNode]:
    compiler = RDLCompiler()
    for definition in ALL_UDPS:
        compiler.register_udp(definition)
    compiler.compile_file(str(hw_root() / "regs" / "residue.rdl"))
    top = compiler.elaborate("residue_regs").top
    return [node for node in top.descendants() if isinstance(node, RegNode)]


def _registers(parent: ElementTree.Element, nbytes: int) -> None:
    block = ElementTree.SubElement(
        parent,
        "ADDRESSBLOCK",
        ACCESS="read-write",
        INTERFACE="s_axil",
        NAME="registers",
        RANGE=str(nbytes),
        USAGE="register",
    )
    registers = ElementTree.SubElement(block, "REGISTERS")
    for node in _register_nodes():
        register = ElementTree.SubElement(registers, "REGISTER", NAME=node.inst_name)
        fields = node.fields()
        _properties(
            register,
            DESCRIPTION=" ".join((node.get_property("desc") or "").split()),
            ADDRESS_OFFSET=f"0x{node.absolute_address:X}",
            SIZE=str(node.get_property("regwidth")),
            ACCESS=_access(fields),
            IS_ENABLED="true",
        )
        listed = ElementTree.SubElement(register, "FIELDS")
        for field in fields:
            _properties(
                ElementTree.SubElement(listed, "FIELD", NAME=field.inst_name),
                DESCRIPTION=" ".join((field.get_property("desc") or "").split()),
                ACCESS=_access([field]),
                BIT_OFFSET=str(field.low),
                BIT_WIDTH=str(field.width),
            )


def _access(fields: Sequence[FieldNode]) -> str:
    readable = any(field.is_sw_readable for field in fields)
    writable = any(field.is_sw_writable for field in fields)
    if readable and writable:
        return "read-write"
    return "read-only" if readable else "write-only"


def _properties(element: ElementTree.Element, **values: str) -> None:
    for name, value in values.items():
        ElementTree.SubElement(element, "PROPERTY", NAME=name, VALUE=value)
