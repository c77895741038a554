"""`bench.peers`: protocol, rounds, ratios, page. No figure is asserted and nothing is installed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.peers import __main__ as program
from bench.peers import _environments, _measure, _report, worker
from bench.peers._client import PeerError, Together, Worker
from bench.peers._measure import Cell, Library, Machine, Run, Settings, Spec, measure
from bench.peers._operations import OPERATIONS, Inputs
from bench.peers._page import markdown, page, rate, where
from residue.backends import _registry
from residue.errors import BackendError

INPUTS = Inputs.make()
SETTINGS = Settings(bits=(1024,), rounds=3, turn_seconds=0.1, core=0, second_core=None)


# --- inputs -------------------------------------------------------------------------------------


def test_expected_plaintexts() -> None:
    assert INPUTS.expected("encrypt", 3) == INPUTS.x[:3]
    assert INPUTS.expected("add", 2) == [INPUTS.x[i] + INPUTS.y[i] for i in range(2)]
    assert INPUTS.expected("ct_x_pt", 1) == [INPUTS.x[0] * INPUTS.factors[0]]
    second = sum(INPUTS.matrix[0][k] * INPUTS.weights[k][1] for k in range(100))
    assert INPUTS.expected("matmul", 2)[1] == second
    assert len(INPUTS.expected("matmul", 100)) == 40


def test_inputs_are_of_the_sizes_they_are_said_to_have() -> None:
    assert {f.bit_length() for f in INPUTS.factors} == {63}
    assert max(w for row in INPUTS.weights for w in row) < 1 << 62
    assert min(INPUTS.x) < 0 < max(INPUTS.x) < 1 << 48
    assert INPUTS.x[: INPUTS.distinct] == INPUTS.x[INPUTS.distinct : 2 * INPUTS.distinct]
    assert len(INPUTS.x) >= max(n for name, n in OPERATIONS.items() if name != "matmul")


# --- the protocol -------------------------------------------------------------------------------

ADAPTER = """
import os
class Adapter:
    operations = ("encrypt",)
    def __init__(self, variant):
        print("a banner on standard output")
        if variant == "broken":
            raise RuntimeError("\\nFile: x.cpp\\nError: no such scheme\\n")
        self.facts = {"cores": sorted(os.sched_getaffinity(0)), "variant": variant}
    def key(self, bits, inputs):
        self.x = inputs["x"]
    def prepare(self, operation, count):
        print("more of it")
        self.prepared = getattr(self, "prepared", 0) + 1
        def turn():
            self.turns = getattr(self, "turns", 0) + 1
            if self.x == "panic":
                raise BaseException("a panic of Rust")
            if self.x == "die":
                os.kill(os.getpid(), 4)
            if self.x == "leave":
                os.write(2, b"cannot go on\\n")
                os._exit(3)
            if self.x == "sleep":
                import time
                time.sleep(60)
            return self.x[:count]
        return turn
    def answers(self, operation, result, limit):
        return [*result[:limit], self.prepared, self.turns]
"""

Fake = Callable[..., Worker]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    """Starts workers.py with the adapter above, or another script in its place."""
    script = tmp_path / "worker.py"
    shutil.copy(Path(str(worker.__file__)), script)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "fake.py").write_text(ADAPTER)
    started: list[Worker] = []

    def start(variant: str = "", text: str | None = None) -> Worker:
        if text is not None:
            script.write_text(text)
        core = min(os.sched_getaffinity(0))
        started.append(Worker(Path(sys.executable), "fake", variant, [core], {}, script=script))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_worker_takes_turns_on_one_core(fake: Fake) -> None:
    w = fake("v")
    assert w.facts == {"cores": [min(os.sched_getaffinity(0))], "variant": "v"}
    assert w.operations == ["encrypt"]
    w.ask({"do": "key", "bits": 1024, "inputs": {"x": [5, 6, 7]}}, seconds=10)
    turn = {"do": "turn", "operation": "encrypt", "count": 2, "repeat": 3}
    times = w.ask(turn, seconds=10)
    assert times["seconds"] > 0
    assert times["cpu_seconds"] > 0
    w.ask(turn, seconds=10)
    asked = {"do": "answers", "operation": "encrypt", "limit": 9}
    assert w.ask(asked, seconds=10) == {"answers": [5, 6, 1, 6]}  # prepared once, six turns


def test_workers_together_are_one_of_all_their_rates(fake: Fake) -> None:
    workers = [fake("a"), fake("b")]
    both = Together(workers)
    assert both.facts == workers[0].facts
    assert both.operations == ["encrypt"]
    assert both.ask({"do": "key", "bits": 1024, "inputs": {"x": [5]}}, seconds=10) == {}
    turn = {"do": "turn", "operation": "encrypt", "count": 1, "repeat": 1}
    times = both.ask(turn, seconds=10)
    assert times.keys() == {"seconds", "cpu_seconds"}
    asked = {"do": "answers", "operation": "encrypt", "limit": 1}
    assert [w.ask(asked, seconds=10) for w in workers] == [{"answers": [5, 1, 1]}] * 2
    workers[1].close()
    with pytest.raises(PeerError, match="ended by SIGKILL"):
        both.ask(turn, seconds=10)
    both.close()


def test_rates_of_workers_together_add_up() -> None:
    def one(seconds: float) -> Any:
        answer = {"seconds": seconds, "cpu_seconds": 2 * seconds}
        return SimpleNamespace(facts={}, operations=[], ask=lambda _, seconds: answer)

    assert Together([one(3.0), one(6.0)]).ask({}, seconds=1) == {"seconds": 2.0, "cpu_seconds": 4.0}


def test_a_library_that_raises_goes_on(fake: Fake) -> None:
    w = fake()
    w.ask({"do": "key", "bits": 1024, "inputs": {"x": "panic"}}, seconds=10)
    turn = {"do": "turn", "operation": "encrypt", "count": 1, "repeat": 1}
    with pytest.raises(PeerError, match=r"^a panic of Rust$"):
        w.ask(turn, seconds=10)
    with pytest.raises(PeerError, match="unknown request 'dance'"):
        w.ask({"do": "dance", "operation": "encrypt"}, seconds=10)
    w.ask({"do": "key", "bits": 1024, "inputs": {"x": [1]}}, seconds=10)
    assert w.ask(turn, seconds=10)["seconds"] > 0


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("die", "^ended by SIGILL$"),
        ("leave", "^ended with status 3: cannot go on$"),
        ("sleep", "^no answer within 0 s$"),
    ],
)
def test_a_library_that_ends(fake: Fake, how: str, why: str) -> None:
    w = fake()
    w.ask({"do": "key", "bits": 1024, "inputs": {"x": how}}, seconds=10)
    turn = {"do": "turn", "operation": "encrypt", "count": 1, "repeat": 1}
    with pytest.raises(PeerError, match=why):
        w.ask(turn, seconds=0.2 if how == "sleep" else 10)
    with pytest.raises(PeerError, match=r"^ended "):
        w.ask(turn, seconds=10)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print('hello')", "answered b'hello', which is no JSON"),
        ("print('[1]')", "answered [1], which is no object"),
        ("print('{\"facts\": 1}')", "answered {'facts': 1} instead of its facts"),
        ("import sys; sys.exit('no library')", "ended with status 1: no library"),
        ("print('[' + '9' * 500)", "..., which is no JSON"),
    ],
)
def test_a_worker_that_does_not_start(fake: Fake, text: str, why: str) -> None:
    with pytest.raises(PeerError) as raised:
        fake(text=text)
    assert why in str(raised.value)
    assert len(str(raised.value)) < 200


def test_reasons_of_a_start(fake: Fake) -> None:
    with pytest.raises(PeerError, match=r"^no such scheme$"):
        fake("broken")
    with pytest.raises(PeerError, match="cannot be started: No such file"):
        Worker(Path("/nowhere/python"), "fake", "", [0], {})


def test_a_reason_without_words_has_its_type() -> None:
    assert worker.reason(KeyError("x")) == "KeyError: 'x'"
    assert worker.reason(ValueError()) == "ValueError: "


# --- environments -------------------------------------------------------------------------------


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in uv's place; returns the file that it may write to."""

    def install(script: str) -> Path:
        program, log = tmp_path / "uv", tmp_path / "log"
        program.write_text(f"#!/bin/sh\nLOG={log}\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(
            _environments, "shutil", SimpleNamespace(which=lambda *_, **__: str(program))
        )
        return log

    return install


def test_an_environment_is_made_once(tmp_path: Path, uv: Callable[[str], Path]) -> None:
    log = uv('echo "$@" >> $LOG; [ $1 = venv ] && mkdir -p "$6"; exit 0')
    cache = tmp_path / "cache"
    python = _environments.python_of("heu", cache)
    assert python == cache / "heu" / "bin" / "python"
    venv, install = log.read_text().splitlines()
    assert venv.startswith("venv --clear")
    assert install.endswith("requirements-heu.txt")
    assert _environments.python_of("heu", cache, install=False) == python
    assert len(log.read_text().splitlines()) == 2
    (cache / "heu" / "made-from.txt").write_text("sf-heu==0\n")
    _environments.python_of("heu", cache)
    assert len(log.read_text().splitlines()) == 4


def test_an_environment_that_cannot_be_made(
    tmp_path: Path, uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uv('printf "  \\342 No solution found:\\n no wheels for this platform\\n" >&2; exit 1')
    with pytest.raises(PeerError, match=r"^uv venv failed: No solution found: no wheels for"):
        _environments.python_of("heu", tmp_path)
    uv("sleep 5")
    monkeypatch.setattr(_environments, "_INSTALL_SECONDS", 0.1)
    with pytest.raises(PeerError, match="uv took longer than 0 s"):
        _environments.python_of("heu", tmp_path)
    with pytest.raises(PeerError, match="not installed: run without --no-install"):
        _environments.python_of("heu", tmp_path, install=False)
    monkeypatch.setattr(_environments, "shutil", SimpleNamespace(which=lambda *_, **__: None))
    with pytest.raises(PeerError, match="uv is not installed"):
        _environments.python_of("heu", tmp_path)


def test_requirements_are_pinned() -> None:
    files = sorted(Path(str(_environments.__file__)).parent.glob("requirements-*.txt"))
    named = {spec.environment for spec in _measure.LIBRARIES} - {None}
    assert {f"requirements-{name}.txt" for name in named} == {path.name for path in files}
    for path in files:
        for line in path.read_text().splitlines():
            assert line.startswith("#") or "==" in line


# --- rounds -------------------------------------------------------------------------------------


class FakeWorker:
    """Answers at once what a library would; `fails` maps a request to an error."""

    def __init__(self, name: str, log: list[str], rate: float = 1000.0, **fails: str) -> None:
        self.name, self.log, self.rate, self.fails = name, log, rate, fails
        self.facts: dict[str, Any] = {"version": "1", "algorithm": "none"}
        self.operations = ["encrypt", "add"]
        self.closed = False

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        do = request["do"]
        if do in self.fails:
            raise PeerError(self.fails[do])
        if do == "turn":
            count, repeat = request["count"], request["repeat"]
            self.log.append(f"{self.name} {request['operation']} {count} {repeat}")
            return {"seconds": count * repeat / self.rate, "cpu_seconds": count / self.rate}
        if do == "answers":
            expected = INPUTS.expected(request["operation"], request["limit"])
            bits = self.facts.get("answer_bits", 512)
            half = 1 << (bits - 1)
            return {"answers": [(m + half) % (2 * half) - half for m in expected]}
        return {}

    def close(self) -> None:
        self.closed = True


def run_of(*workers: FakeWorker, settings: Settings = SETTINGS) -> Run:
    by_name = {w.name: w for w in workers}

    def start(spec: Spec, cores: Sequence[int]) -> FakeWorker:
        if spec.name not in by_name:
            raise PeerError("no wheel for this Python")
        return by_name[spec.name]

    specs = [Spec(w.name, "x") for w in workers] + [Spec("gone", "x"), Spec("two", "x", cores=2)]
    return measure(settings, start, command="test", libraries=specs)


def test_rounds_are_interleaved_and_reversed() -> None:
    log: list[str] = []
    a, b = FakeWorker("a", log), FakeWorker("b", log, 50.0)
    steps: list[str] = []
    run = measure(
        SETTINGS,
        lambda spec, cores: {"a": a, "b": b}[spec.name],
        command="test",
        libraries=[Spec("a", "x"), Spec("b", "x")],
        progress=lambda text, done, total: steps.append(f"{done}/{total} {text}"),
    )
    # a: 16 elements in 16 ms, then the batch that fills a turn; b: 16 take longer than a turn
    encrypt = [entry for entry in log if "encrypt" in entry]
    assert encrypt[:4] == ["a encrypt 16 1", "a encrypt 96 1", "a encrypt 96 1", "b encrypt 16 1"]
    assert [entry[0] for entry in encrypt[-6:]] == list("abbaab")
    assert a.closed
    assert b.closed
    first = run.cells[0]
    assert (first.library, first.operation, first.count, first.repeat) == ("a", "encrypt", 96, 1)
    assert len(first.seconds) == 3
    assert first.rates(wall=True) == pytest.approx([1000.0] * 3)
    assert first.checked == 8
    assert steps[0] == "0/9 starting the libraries"
    assert steps[-1] == "8/9 rsa, 1024 bits"
    assert len(run.machine.load) == 2


def test_batches_grow_to_their_limit_and_then_repeat() -> None:
    log: list[str] = []
    run = run_of(FakeWorker("a", log, 1e6))
    add = next(cell for cell in run.cells if cell.operation == "add")
    assert (add.count, add.repeat) == (OPERATIONS["add"], round(0.1 / (1024 / 1e6)))


def test_long_batches_are_so_many_times_as_large() -> None:
    log: list[str] = []
    run = measure(
        SETTINGS,
        lambda spec, cores: FakeWorker("a", log, 1e6),
        command="test",
        libraries=[Spec("a", "x", longer=3)],
    )
    add = next(cell for cell in run.cells if cell.operation == "add")
    assert add.count == 3 * OPERATIONS["add"]


def test_what_fails_says_why_and_the_rest_goes_on() -> None:
    log: list[str] = []
    wrong = FakeWorker("wrong", log)
    wrong.ask = lambda request, *, seconds: (  # type: ignore[method-assign]
        {"answers": [1]}
        if request["do"] == "answers"
        else FakeWorker.ask(wrong, request, seconds=1)
    )
    odd = FakeWorker("odd", log)
    odd.ask = lambda request, *, seconds: {}  # type: ignore[method-assign]
    still = FakeWorker("still", log, float("inf"))
    short = FakeWorker("short", log)
    short.facts["answer_bits"] = 32
    run = run_of(
        FakeWorker("good", log),
        FakeWorker("keyless", log, key="no such size"),
        FakeWorker("dies", log, turn="ended by SIGILL"),
        wrong, odd, still, short,
    )  # fmt: skip
    missing = {cell.library: cell.missing for cell in run.cells if cell.operation == "encrypt"}
    assert missing == {
        "good": None,
        "keyless": "no such size",
        "dies": "ended by SIGILL",
        "wrong": "wrong result: its plaintexts are not those of the inputs",
        "odd": "answered a turn with {}",
        "still": "answered a turn with 0.0 and 0.0 seconds",
        "short": None,
    }
    assert {each.name: each.missing for each in run.libraries if each.missing} == {
        "gone": "no wheel for this Python",
        "two": "one core only",
    }
    told = _report.failures(run)
    assert "gone: no wheel for this Python" in told
    assert "keyless, 1024 bits (encrypt, add): no such size" in told


def test_the_starter_hides_our_paths_from_other_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def worker_of(*arguments: Any) -> SimpleNamespace:
        seen.append(arguments)
        return SimpleNamespace()

    monkeypatch.setenv("PYTHONPATH", "ours")
    monkeypatch.setenv("RESIDUE_CPU_KERNEL", "avx2")
    monkeypatch.setattr(_measure, "Worker", worker_of)
    monkeypatch.setattr(_measure, "python_of", lambda name, cache, install: Path("their/python"))
    start = _measure.start(tmp_path, install=False)
    start(_measure.BEST, [0, 1])
    start(Spec("HEU", "heu_paillier", "OU", "heu"), [0])
    (python, adapter, variant, cores, ours), (their_python, *_, theirs) = seen
    assert (python, adapter, variant, cores) == (Path(sys.executable), "residue_cpu", "", [0, 1])
    assert ours["RESIDUE_CPU_WORKERS"] == "2"
    assert ours["PYTHONPATH"] == "ours"
    assert "RESIDUE_CPU_KERNEL" not in ours
    assert their_python == Path("their/python")
    assert "PYTHONPATH" not in theirs


def test_machine_names_what_kernels_ask_for() -> None:
    found = _measure.machine()
    assert found.processor
    assert found.cores >= 1
    assert set(found.flags) <= {"bmi2", "adx", "avx2", "avx512f", "avx512ifma"}


# --- ratios -------------------------------------------------------------------------------------


def made(
    rates: dict[str, dict[str, list[float]]],
    *,
    flags: tuple[str, ...] = ("avx2",),
    missing: dict[str, str] | None = None,
    failed: Sequence[Cell] = (),
) -> Run:
    """A run of 1024 bits: library -> operation -> rate of each round, wall half of it."""
    libraries = [
        Library(name, 2 if "two cores" in name else 1, {"version": "1", "algorithm": "none"})
        for name in rates
    ]
    libraries += [Library(name, 1, missing=why) for name, why in (missing or {}).items()]
    cells = [
        Cell(
            library=name,
            bits=1024,
            operation=operation,
            count=10,
            repeat=2,
            seconds=[40 / r for r in values],
            cpu_seconds=[20 / r for r in values],
            checked=8,
        )
        for name, operations in rates.items()
        for operation, values in operations.items()
    ]
    where = Machine("A <fast> CPU", flags, 2, "Linux", (0.5, 1.5))
    return Run("2026-01-01T00:00:00+00:00", "test", where, SETTINGS, libraries, [*cells, *failed])


def rows_of(run: Run, title: str) -> dict[str, _report.Comparison]:
    (section,) = (each for each in _report.sections(run) if title in each.title)
    return {row.operation: row for row in section.rows}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    run = made({"Residue": {"add": [10, 40, 90]}, "phe": {"add": [1, 8, 30]}})
    row = rows_of(run, "phe")["add"]
    assert row.ratio == _report.Spread(5.0, 3.0, 10.0)
    assert row.ours_rate == _report.Spread(40.0, 10.0, 90.0)
    assert (row.target, row.verdict) == (None, "")


def test_the_faster_of_heu_is_chosen_for_each_operation() -> None:
    run = made(
        {
            "Residue": {"encrypt": [40.0], "decrypt": [40.0], "matmul": [40.0]},
            "HEU ZPaillier": {"encrypt": [10.0], "decrypt": [5.0]},
            "HEU IPCL": {"encrypt": [5.0], "decrypt": [20.0], "matmul": [20.0]},
        },
        flags=("avx512ifma",),
    )
    rows = rows_of(run, "HEU's Paillier")
    assert {name: row.theirs for name, row in rows.items()} == {
        "encrypt": "HEU ZPaillier",
        "decrypt": "HEU IPCL",
        "matmul": "HEU IPCL",
    }
    assert {name: row.verdict for name, row in rows.items()} == {
        "encrypt": "met",
        "decrypt": "met",
        "matmul": "not met",
    }


def test_targets_of_avx512_apply_there_only() -> None:
    run = made({"Residue": {"encrypt": [40.0]}, "HEU ZPaillier": {"encrypt": [1.0]}})
    assert rows_of(run, "HEU's Paillier")["encrypt"].verdict == "not applicable"
    section = _report.sections(run)[0]
    assert "which this one has not" in section.notes[0]


def test_gmpy2_and_kernels_have_targets_anywhere() -> None:
    run = made(
        {
            "Residue": {"encrypt": [9.0]},
            "Residue, gmpy2 kernel": {"encrypt": [7.0], "rsa": [1.0]},
            "Residue, avx2 kernel": {"encrypt": [9.0], "rsa": [0.9]},
            "HEU ZPaillier": {"encrypt": [10.0]},
        },
        missing={"Residue, portable kernel": "no portable kernel here"},
    )
    assert rows_of(run, "Without the native")["encrypt"].verdict == "not met"
    kernels = rows_of(run, "The avx2 kernel")
    assert (kernels["encrypt"].verdict, kernels["rsa"].verdict) == ("met", "not met")
    (portable,) = (each for each in _report.sections(run) if "portable" in each.title)
    assert portable.rows == []
    assert portable.notes == ["not measured: Residue, portable kernel: no portable kernel here"]


def test_two_cores_are_compared_by_wall_time() -> None:
    run = made({"Residue": {"add": [10.0]}, "Residue, two cores": {"add": [19.0]}})
    run.cells[1].cpu_seconds = [1e-9]
    row = rows_of(run, "Two cores")["add"]
    assert row.ratio is not None
    assert row.ratio.median == pytest.approx(1.9)
    assert row.verdict == "met"
    assert row.ours_rate is not None
    assert row.ours_rate.median == pytest.approx(9.5)


def test_two_threads_are_compared_to_two_processes() -> None:
    long, both = "Residue, two cores, long batches", "Residue, two processes, long batches"
    rates = {"Residue, long batches": [10.0], long: [18.0], both: [15.0]}
    run = made({name: {"add": values} for name, values in rates.items()})
    for library in run.libraries[1:]:
        library.cores = 2
    for title, ratio in (
        ("up to 16 times as large: two cores", 1.8),
        ("two processes on a core each", 1.5),
        ("two threads against those", 1.2),
    ):
        row = rows_of(run, title)["add"]
        assert row.ratio is not None
        assert row.ratio.median == pytest.approx(ratio)


def test_classic_encryption_meets_their_only_one() -> None:
    run = made(
        {
            "Residue": {"encrypt": [90.0], "encrypt_classic": [6.0]},
            "phe": {"encrypt": [3.0]},
            "HEU ZPaillier": {"encrypt": [45.0]},
        }
    )
    row = rows_of(run, "phe")["encrypt_classic"]
    assert row.ratio is not None
    assert row.ratio.median == pytest.approx(2.0)
    assert "encrypt_classic" not in rows_of(run, "HEU's Paillier")


def test_what_is_missing_beside_what_is_there() -> None:
    failed = Cell("phe", 1024, "encrypt", missing="ended by SIGILL")
    run = made(
        {"Residue": {"encrypt": [9.0], "add": [1.0]}, "phe": {"add": [1.0]}}, failed=[failed]
    )
    (section,) = (each for each in _report.sections(run) if each.title.endswith("phe"))
    assert [row.operation for row in section.rows] == ["add"]
    assert section.notes == ["not measured: phe: ended by SIGILL (encrypt 1024)"]


def test_share_of_the_core() -> None:
    assert _report.core_share(made({"Residue": {"add": [1.0, 2.0]}})) == pytest.approx(0.5)
    assert _report.core_share(made({})) is None


# --- page, file, command line ---------------------------------------------------------------------


@pytest.fixture
def example() -> Run:
    return made(
        {
            "Residue": {"encrypt": [4000.0, 5000.0], "add": [10.0, 12.0]},
            "Residue, gmpy2 kernel": {"encrypt": [4000.0, 5000.0], "add": [10.0, 12.0]},
            "HEU ZPaillier": {"encrypt": [1000.0, 1100.0], "add": [9.0, 30.0]},
        },
        missing={"phe": "<b>not</b> installed"},
    )


def test_page_is_one_file_and_escapes(example: Run) -> None:
    text = page(example)
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text
    assert "A &lt;fast&gt; CPU" in text
    assert "&lt;b&gt;not&lt;/b&gt; installed" in text
    assert '<td class="left met">met</td>' in text
    assert text.count("<svg") == sum(len(each.rows) for each in _report.sections(example))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_a_run_comes_back_from_its_file(example: Run) -> None:
    assert Run.load(json.loads(json.dumps(asdict(example)))) == example
    broken: Any
    for broken in ({}, [], {"format": 1}, asdict(example) | {"cells": [{"library": "x"}]}):
        with pytest.raises(PeerError, match=r"not a run of bench\.peers"):
            Run.load(broken)
    with pytest.raises(PeerError, match="a run of format 9, expected 1"):
        Run.load(asdict(example) | {"format": 9})


def test_markdown_has_a_column_for_each_size(example: Run) -> None:
    lines = markdown(example).splitlines()
    assert lines[0] == f"`test`, 2026-01-01, 3 rounds: {where(example)}."
    assert "| Without the native extension: gmpy2 alone against ZPaillier | 1024 |" in lines
    assert "| encrypt | 4.27 (4.00 to 4.55), 0.8: met |" in lines
    assert "| encrypt | 4.27 (4.00 to 4.55) |" in lines  # against HEU: not applicable
    assert any(line.startswith("The avx2 kernel against gmpy2: not measured") for line in lines)


def test_where_names_the_kernel_chosen(example: Run) -> None:
    example.libraries[0].facts["kernel"] = "avx2"
    example.libraries[1].facts["kernel"] = "gmpy2"
    assert where(example).endswith("Residue on its avx2 kernel")


def test_rate() -> None:
    assert rate(None) == "-"
    assert rate(_report.Spread(1234.5, 0, 0)) == "1,234"
    assert rate(_report.Spread(0.012345, 0, 0)) == "0.01235"


def test_show_prints_and_renders(example: Run, tmp_path: Path) -> None:
    saved = tmp_path / "peers.json"
    saved.write_text(json.dumps(asdict(example)))
    result = CliRunner().invoke(program.app, ["--show", str(saved), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "not measured: phe: <b>not</b> installed" in result.output
    assert (
        where(example)
        == "A <fast> CPU (avx2), 2 cores, load 0.5 to 1.5, turns got 50% of their core"
    )
    assert where(example) in result.output
    assert (tmp_path / "out" / "peers.html").read_text() == page(example)
    result = CliRunner().invoke(
        program.app, ["--show", str(saved), "--out", str(tmp_path), "--markdown"]
    )
    assert result.output == markdown(example) + "\n"


def test_run_writes_both_files_and_fails_with_residue(
    example: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Settings] = []

    def fake(settings: Settings, starter: Any, **rest: Any) -> Run:
        asked.append(settings)
        rest["progress"]("adding", 1, 2)
        return example

    monkeypatch.setattr(program, "measure", fake)
    monkeypatch.setenv("RESIDUE_CACHE", str(tmp_path))
    arguments = ["--bits", "2048", "--rounds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(program.app, arguments)
    assert result.exit_code == 0, result.output
    assert (asked[0].bits, asked[0].rounds) == ((2048,), 2)
    assert Run.load(json.loads((tmp_path / "peers.json").read_text())) == example
    assert (tmp_path / "peers.html").exists()
    example.cells[0].missing = "wrong result"
    result = CliRunner().invoke(program.app, arguments)
    assert result.exit_code == 1
    assert "Residue, encrypt 1024: wrong result" in result.output
    example.libraries[0].missing = "broken"
    assert CliRunner().invoke(program.app, arguments).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--bits", "1000"], "key size 1000 is not a multiple of 128"),
        (["--core", "99999"], "CPU 99999 is not one of"),
        (["--show", "nowhere.json"], "nowhere.json cannot be read"),
        (["--only", "Nobody"], "no library is named 'Nobody'; there are 'Residue', "),
    ],
)
def test_bad_arguments(arguments: list[str], why: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(program.app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())


# --- adapters of libraries that tests have ------------------------------------------------------


@pytest.mark.parametrize("name", ["residue_cpu", "phe_paillier", "openssl_rsa", "gmp"])
def test_adapter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUE_CPU_WORKERS", "1")
    monkeypatch.setattr(_registry, "_opened", {})
    adapter = importlib.import_module(f"bench.peers.adapters.{name}").Adapter("")
    assert {"version", "algorithm"} <= set(adapter.facts)
    adapter.key(1024, asdict(INPUTS))
    assert adapter.operations
    for operation in adapter.operations:
        count = OPERATIONS[operation] if operation == "matmul" else 5
        if name == "residue_cpu" and operation in ("matmul", "rsa"):
            count = OPERATIONS[operation] * 2  # inputs repeat in long batches
        result = adapter.prepare(operation, count)()
        assert adapter.answers(operation, result, 5) == INPUTS.expected(operation, 5), operation


@pytest.mark.parametrize("kernel", ["gmpy2", "nonsense"])
def test_adapter_takes_the_kernel_it_is_told(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUE_CPU_KERNEL", "")
    monkeypatch.setattr(_registry, "_opened", {})
    module = importlib.import_module("bench.peers.adapters.residue_cpu")
    if kernel == "gmpy2":
        assert module.Adapter(kernel).facts["kernel"] == kernel
    else:
        with pytest.raises((LookupError, BackendError), match=kernel):
            module.Adapter(kernel)
