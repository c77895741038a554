"""`residue compare`: prices, arithmetic, checks of results, and the rows that come of them."""

from __future__ import annotations

import json
import math
import re
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residue.backends._cpu import CpuArray, CpuBackend
from residue.compare import WORKLOADS, _extensions, _job, _report, _run
from residue.compare import _figures as figures
from residue.compare._measure import Measurement, Measurer, Plan
from residue.compare._prices import UNITS, load
from residue.compare._run import Settings
from residue.compare._workloads import BEST, OPERATIONS, SAME
from residue.errors import BackendError, CompareError, CorruptResult, InvalidKey
from residue.profile import Device, Operation, Process, Profile

ROOT = Path(__file__).resolve().parents[2]
TOY = Plan(rounds=1, turn=0.0, most=200, seconds=1000)

# --- the file of prices ---------------------------------------------------------------------------


def test_every_quantity_has_a_source_and_a_date() -> None:
    prices = load()
    quantities = [q for device in prices.devices for q in device.quantities.values()]
    assert len(quantities) > 30
    for q in quantities:
        assert q.source
        assert q.date
        assert q.sourced
        assert "recalled" not in q.source
        assert not q.own


def test_boards_are_in_the_file() -> None:
    """Each is listed, with what is known of it."""
    boards = {path.name for path in (ROOT / "hw" / "boards").iterdir()} - {"virtual"}
    assert boards <= {device.id for device in load().devices}


def test_the_list_of_prices_shows_what_was_not_found() -> None:
    """Each device has a source and a date for power, price and rent, or is said to have none."""
    listed, missing = _report._price_list(load()), _report._not_found(load())
    shown = {(row["device"], row["quantity"]) for row in listed}
    shown |= {(row["device"], name) for row in missing for name in row["quantities"]}
    assert shown >= {(d.name, q) for d in load().devices for q in _report.COST_OF.values()}
    assert all(row["source"] and row["date"] for row in listed)
    assert {"device": "Avnet Ultra96-V2", "quantities": ["power", "price", "cloud"]} in missing
    assert any(row["retrieved"] for row in listed)


def test_reference_set_reproduces_the_published_ratios() -> None:
    published = [  # x CPU, per price, x CPU: the vendor's own table
        (1.00, 6.15, 1.00),
        (2.25, 10.41, 1.69),
        (5.69, 9.55, 1.55),
        (4.18, 21.44, 3.48),
    ]
    rows = _reference()
    assert [row["kops"] for row in rows] == [9.23, 20.81, 52.5, 38.6]
    for row, right in zip(rows, published, strict=True):
        found = (row["x_cpu"], row["per_price"], row["per_price_x_cpu"])
        assert found == pytest.approx(right, abs=0.006)


def _reference() -> list[dict[str, Any]]:
    from residue.compare._report import _reference as reference

    return reference(load())


def test_a_cpu_counts_with_its_share_of_cores() -> None:
    epyc = load().find("cpu", "AMD EPYC 7R13")
    assert epyc is not None
    assert epyc.quantities["power"].of(2) == pytest.approx(280 * 2 / 64)
    assert epyc.quantities["power"].of(None) is None


def test_ranges_count_with_their_high_end_and_the_longest_match_wins(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[device]]\nid = "h100-nvl"\nname = "NVL"\nmatch = ["NVIDIA H100 NVL"]\n'
        'power = { watts = [350, 400], source = "label", date = "2026" }\n'
    )
    prices = load(own)
    assert prices.find("gpu", "NVIDIA H100 80GB HBM3").id == "h100"  # type: ignore[union-attr]
    nvl = prices.find("gpu", "nvidia h100 nvl")
    assert nvl is not None
    assert nvl.id == "h100-nvl"
    assert nvl.quantities["power"].of(None) == 400
    assert prices.find("gpu", "abacus") is None


def test_own_prices_replace_quantity_by_quantity(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[device]]\nid = "u250"\nprice = { usd = 7200, source = "order", date = "2026-03-01" }\n'
        '[[reference]]\ndevice = "mine"\nkops = 1\nprice = 2\nsource = "s"\ndate = "2026"\n'
    )
    before, after = load().find("u250"), load(own).find("u250")
    assert before is not None
    assert after is not None
    assert (after.quantities["price"].high, after.quantities["price"].own) == (7200, True)
    assert after.quantities["power"] == before.quantities["power"]
    assert after.name == before.name
    assert [r.device for r in load(own).reference][-1] == "mine"


def test_the_example_of_the_documentation_is_right(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "own.toml").write_text(example)
    prices = load(tmp_path / "own.toml")
    cpu = prices.find("cpu", "AMD EPYC 9654 96-Core Processor")
    assert cpu is not None
    assert cpu.quantities["cloud"].of(96) == pytest.approx(3.84)


POWER = 'power = { watts = 1, source = "s", date = "2026" }'
DEVICE = f'[[device]]\nid = "x"\nname = "x"\n{POWER}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device = 3", r"expected \[\[device\]\] tables"),
        ("[[device]", "not TOML"),
        ("[[devices]]", "unknown devices"),
        ("[[device]]", "id must be a text"),
        (DEVICE + DEVICE, "two devices with the id x"),
        (DEVICE.replace('name = "x"\n', ""), "needs a name"),
        (DEVICE.replace("watts = 1", "watts = 0"), "watts must be a positive number, not 0"),
        (DEVICE.replace("watts = 1", "watts = nan"), "positive number"),
        (DEVICE.replace("watts = 1", "watts = true"), "positive number"),
        (DEVICE.replace("watts = 1", 'watts = "9 W"'), "positive number"),
        (DEVICE.replace("watts = 1", "watts = [2, 1]"), "from 2 down to 1"),
        (DEVICE.replace("watts = 1", "watts = [1, 2, 3]"), "positive number"),
        (DEVICE.replace("watts", "kilowatts"), "unknown kilowatts"),
        (DEVICE.replace('date = "2026"', 'date = "May"'), "date must be YYYY"),
        (DEVICE.replace('date = "2026"', "date = 2026-05-01"), "date must be a text"),
        (DEVICE.replace('source = "s", ', ""), "source must be a text"),
        (DEVICE.replace('source = "s"', 'source = " "'), "source must be a text"),
        (DEVICE.replace("watts = 1", "watts = 1, cores = 0"), "cores must be a whole number"),
        (DEVICE.replace("watts = 1", "watts = 1, sourced = 1"), "sourced must be true or false"),
        (DEVICE.replace("watts = 1", "watts = 1, retrieved = 1"), "retrieved must be true or"),
        (DEVICE.replace(POWER, "power = 9"), "expected { watts = "),
        (DEVICE.replace('name = "x"\n', 'name = "x"\nmatch = "x"\n'), "match must be a list"),
        ('[[published]]\ndevice = "x"\nkey_bits = 1024\n', "ops must name"),
        (
            '[[published]]\ndevice = "x"\nkey_bits = 1024\nops = { divide = 1 }\n',
            "unknown divide",
        ),
        (
            '[[published]]\ndevice = "x"\nkey_bits = 1024\npriced = "y"\nsource = "s"\n'
            'date = "2026"\nops = { add = 1 }\n',
            "no device has the id 'y'",
        ),
        ('[[reference]]\ndevice = "x"\nkops = -1\n', "kops must be a positive number"),
        ('[[claim]]\ndevice = "x"\nsource = "s"\ndate = "2026"\n', "text must be a text"),
    ],
)
def test_wrong_prices_are_refused(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(CompareError, match=message):
        load(own)


def test_unreadable_prices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="cannot read prices"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CompareError, match="cannot read prices"):
        load(tmp_path / "bytes.toml")


# --- arithmetic -----------------------------------------------------------------------------------


def test_rates_over_costs() -> None:
    assert figures.per_watt(1000, 250) == 4
    assert figures.per_thousand_dollars(1000, 250) == 4000
    assert figures.per_cloud_dollar(1000, 3.6) == pytest.approx(1e6)
    assert figures.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3, 2, 4)
    assert figures.spread([7.0]) == (7, 7, 7)
    assert figures.transfer_share(1, 2, 6) == 0.5
    assert figures.transfer_share(3, 3, 4) == 1


def test_a_ratio_is_that_of_the_rounds() -> None:
    # A machine that halves its speed in one round slows both.
    assert figures.ratio_of_rounds([10, 5, 10], [2, 1, 2]) == 5


def test_amdahl() -> None:
    assert figures.amdahl(0.5, 2) == pytest.approx(4 / 3)
    assert figures.amdahl(0, 100) == 1
    assert figures.amdahl(1, 7) == 7
    assert figures.amdahl(0.9, math.inf) == pytest.approx(10)
    for share, speedup in ((-0.1, 2), (1.1, 2), (0.5, 0), (0.5, math.nan), (math.nan, 2)):
        with pytest.raises(CompareError):
            figures.amdahl(share, speedup)


def test_a_mix_is_as_fast_as_its_times_say() -> None:
    # 3 s become 0.3 s and 1 s becomes 0.5 s: 4 s in 0.8 s.
    weights, speedups = {"encrypt": 0.75, "add": 0.25}, {"encrypt": 10.0, "add": 2.0}
    assert figures.mixed_speedup(weights, speedups) == pytest.approx(5)
    assert figures.mixed_speedup(weights, {"encrypt": 10.0}) is None
    assert figures.mixed_speedup({}, speedups) is None


def test_break_even() -> None:
    cpu = [(1, 1.0), (4, 4.0), (16, 16.0), (64, 64.0)]
    assert figures.break_even(cpu, [(1, 8.0), (4, 8.0), (16, 8.0)]) == pytest.approx(8)
    assert figures.break_even(cpu, [(1, 0.5), (4, 2.0)]) == 1
    assert figures.break_even(cpu, [(1, 2.0), (4, 8.0)]) is None
    assert figures.break_even(cpu, [(2, 0.1)]) is None
    # Faster at 1, slower at 4, faster at 16: only from the last crossing on does it pay.
    found = figures.break_even(cpu, [(1, 0.5), (4, 8.0), (16, 8.0)])
    assert found is not None
    assert 4 < found < 16


@given(
    start=st.floats(1e-6, 1e3),
    each=st.floats(1e-6, 1e3),
    cpu_each=st.floats(1e-6, 1e3),
)
def test_break_even_lies_where_the_straight_times_cross(
    start: float, each: float, cpu_each: float
) -> None:
    batches = [4**i for i in range(7)]
    cpu = [(b, b * cpu_each) for b in batches]
    found = figures.break_even(cpu, [(b, start + b * each) for b in batches])
    true = start / (cpu_each - each) if cpu_each > each else math.inf
    if found is None:
        assert true >= batches[-1] * (1 - 1e-9)
    elif found == 1:
        assert true <= 1 + 1e-6
    else:
        assert true / 4 <= found <= true * 4  # within the two batches around it


# --- measuring and checking -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpu() -> CpuBackend:
    return CpuBackend(workers=1)


@pytest.fixture(scope="module")
def measurer(cpu: CpuBackend) -> Measurer:
    return Measurer(cpu, 1024)


def test_columns_name_workloads() -> None:
    assert list(SAME) == list(OPERATIONS)
    assert set(SAME.values()) | {w for names in BEST.values() for w in names} == set(WORKLOADS)
    assert set(_job.WORKLOAD_OF.values()) <= set(WORKLOADS)
    assert set(_run._CARD_UNITS) == set(WORKLOADS)
    assert all(w == WORKLOADS[w].name for w in WORKLOADS)


def test_all_workloads_are_measured_and_checked(cpu: CpuBackend, measurer: Measurer) -> None:
    heard: list[str] = []
    found = measurer.measure({"cpu": cpu}, TOY, lambda text, *_: heard.append(text))["cpu"]
    assert list(found) == list(WORKLOADS)
    assert len(heard) == len(WORKLOADS)
    for m in found.values():
        assert m.error is None
        assert m.checked >= 1
        assert len(m.rates) == 1
        assert m.rates[0] > 0
        assert m.points[-1].units == m.units
        assert all(p.seconds > 0 and p.up > 0 and p.down > 0 for p in m.points)


class Broken(CpuBackend):
    """Computes one operation wrongly, from the first result on or only in the last of many."""

    def __init__(self, operation: str, *, last: bool = False) -> None:
        super().__init__(workers=1)
        right = getattr(CpuBackend, operation)

        def wrong(*arguments: Any) -> CpuArray:
            values = list(right(self, *arguments)._values)
            at = -1 if last else 0
            if values and (not last or len(values) > 1):
                values[at] = values[at] ^ 1
            return CpuArray(right(self, *arguments).modulus, values)

        setattr(self, operation, wrong)


def test_a_wrong_result_is_noticed(measurer: Measurer, cpu: CpuBackend) -> None:
    affected = {
        "pow": ("power", "encrypt-classic", "decrypt", "ct_x_pt", "matmul-powers"),
        "pow_fixed": ("encrypt-djn",),
        "mul": ("encrypt-classic", "encrypt-djn", "add"),
        "multi_pow": ("matmul",),
        "prod": ("matmul-powers",),
        "inverse": ("ct_x_pt",),
    }
    devices = {"cpu": cpu, **{operation: Broken(operation) for operation in affected}}
    found = measurer.measure(devices, TOY, lambda *_: None)
    for operation, workloads in affected.items():
        wrong = {name for name, m in found[operation].items() if m.wrong}
        assert wrong >= set(workloads), operation
        assert not any(found[operation][name].rates for name in wrong)
    assert not any(m.error for m in found["cpu"].values())


def test_a_wrong_result_late_in_a_batch_is_noticed(measurer: Measurer, cpu: CpuBackend) -> None:
    plan = Plan(rounds=1, turn=10.0, most=8, seconds=1000)
    broken = Broken("mul", last=True)
    found = measurer.measure({"cpu": cpu, "broken": broken}, plan, lambda *_: None)
    assert not found["cpu"]["add"].wrong
    assert found["broken"]["add"].wrong


def test_a_device_that_fails_has_no_rate(measurer: Measurer) -> None:
    class Failing(CpuBackend):
        def pow(self, *_: Any) -> CpuArray:
            raise BackendError("the fan fell off")

    found = measurer.measure({"failing": Failing(workers=1)}, TOY, lambda *_: None)["failing"]
    assert found["power"].error == "the fan fell off"
    assert not found["power"].wrong
    assert found["add"].error is None


def test_a_batch_that_is_too_large_ends_the_growth(measurer: Measurer) -> None:
    class Small(CpuBackend):
        def mul(self, a: Any, b: Any) -> CpuArray:
            if len(a) > 4:
                raise BackendError("no room")
            return super().mul(a, b)

    plan = Plan(rounds=1, turn=10.0, most=256, seconds=1000)
    small = Measurement()
    add = WORKLOADS["add"]
    turn = measurer._grow(measurer.bench(Small(workers=1)), add, plan, math.inf, small)
    assert (small.units, [p.units for p in small.points]) == (4, [1, 4])
    assert len(turn().residues) == 4


def test_rounds_end_when_time_is_up(measurer: Measurer, cpu: CpuBackend) -> None:
    plan = Plan(rounds=50, turn=0.0, most=4, seconds=0.0)
    found = measurer.measure({"cpu": cpu}, plan, lambda *_: None)["cpu"]
    assert {len(m.rates) for m in found.values()} == {3}


def test_cycles_of_a_batch_are_checked(measurer: Measurer) -> None:
    from residue.backends._card import CardBackend
    from residue_sim.card_model import ModelBoard
    from residue_sim.manifest import configurations

    card = CardBackend(ModelBoard(configurations()["r21"]), check_rate=0.0)
    try:
        found = measurer.cycles(measurer.bench(card), WORKLOADS["add"], 16)
        assert (found.units, found.products_per_operation) == (16, 1)
        assert found.checked >= 8
    finally:
        card.close()
    broken = Broken("mul")
    with pytest.raises(CorruptResult, match="computed a wrong add"):
        measurer.cycles(measurer.bench(broken), WORKLOADS["add"], 16)


# --- settings, entry points, the job --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key_bits": ()}, CompareError),
        ({"key_bits": (512,)}, InvalidKey),
        ({"key_bits": (1030,)}, InvalidKey),
        ({"key_bits": (2048, 1024)}, CompareError),
        ({"budget": 0.0}, CompareError),
        ({"budget": math.nan}, CompareError),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Settings(**options)


def test_entry_points_of_this_project_load() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (_extensions._BOARDS, _extensions._CARD):
        for target in project["entry-points"][group].values():
            module, name = target.split(":")
            assert callable(getattr(import_module(module), name))


def test_without_extensions_there_are_no_such_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extensions, "entry_points", lambda group: ())
    install = re.escape("install residue[sim]")
    found, reason = _extensions.boards([1024], 1024, lambda *_: None)
    assert found == []
    assert re.search(install, str(reason))
    with pytest.raises(BackendError, match=install):
        _extensions.card(1.0)
    broken = EntryPoint("boards", "residue_sim.no_such_module:boards", "residue.compare.boards")
    monkeypatch.setattr(_extensions, "entry_points", lambda group: (broken,))
    found, reason = _extensions.boards([1024], 1024, lambda *_: None)
    assert found == []
    assert "no_such_module" in str(reason)
    with pytest.raises(BackendError, match="no_such_module"):
        _extensions.card(1.0)


def test_devices_that_are_not_there_have_a_reason() -> None:
    devices, backends = _run._find(Settings())
    assert devices[0].name == "cpu"
    assert "cpu" in backends
    assert {"gpu", "card"} <= {d.name for d in devices}
    for device in devices:
        assert (device.name in backends) != bool(device.reason)
    with pytest.raises(BackendError, match="abacus"):
        _run._find(Settings(devices=("abacus",)))


def _operation(name: str, start: float, end: float) -> Operation:
    return Operation(0, name, 2048, 1, start, end, 1)


def test_share_is_the_time_in_which_any_party_encrypts() -> None:
    guest = Device("cpu", {}, [_operation("pow_fixed", 0, 4), _operation("mul", 9, 10)])
    host = Device("cpu", {}, [_operation("multi_pow", 3, 6), _operation("take", 6, 7)])
    parties = [Process(1, "a", True, 0, [guest]), Process(2, "b", True, 0, [host])]
    share, weights = _job.share_of(Profile(parties))
    assert share == pytest.approx(0.8)
    expected = {"encrypt-djn": 4 / 9, "matmul": 3 / 9, "add": 1 / 9, _job.OTHER: 1 / 9}
    assert weights == pytest.approx(expected)
    assert next(iter(weights)) == "encrypt-djn"
    with pytest.raises(CompareError, match="no operation"):
        _job.share_of(Profile([]))


def test_a_job_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompareError, match="the job failed: no backend is named 'abacus'"):
        _job._call(["selftest", "--device", "abacus"], dict(_environment()), 60)
    with pytest.raises(CompareError, match="not done in the 0 s left"):
        _job._call(["devices"], dict(_environment()), 0.01)
    monkeypatch.setattr(_job, "entry_points", lambda group: ())
    with pytest.raises(CompareError, match="no federated engine"):
        _job.run("cpu", 1024, 1.0)


def _environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if k != "RESIDUE_PROFILE"}


def test_units_of_all_quantities_are_known() -> None:
    assert {name for d in load().devices for name in d.quantities} == set(UNITS)
    assert json.dumps(UNITS)
    assert np.isfinite([q.high for d in load().devices for q in d.quantities.values()]).all()
