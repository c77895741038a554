"""Horizontal jobs with differential privacy: noise, budget, and both after a death."""

from __future__ import annotations

import json
import math
import os
import random
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated import Job
from residue_federated._data import load_table
from residue_federated._trial import Event, run_trial
from residue_federated.errors import DataError, JobError, PeerFailed, PeerLost, ProtocolError
from residue_federated.horizontal import _private
from residue_federated.horizontal._config import HorizontalConfig
from residue_federated.horizontal._models import Network, class_labels
from residue_federated.horizontal._private import Plan, clipped, public_scaling, report
from residue_federated.privacy._noise import discrete_gaussian
from tests.integration.parties import Run, Staged, run_all
from tests.integration.test_horizontal import (
    DIGITS,
    LOGISTIC,
    Recorded,
    deaths,
    die,
    findings,
    make_job,
    model_of,
    recorded,
    stage,
    tampered,
    twin_of,
    went_on,
)

__all__ = ["recorded"]  # a fixture

PRIVACY = {"epsilon": 2.0, "delta": 1e-5, "clip": 1.0, "range": [0, 16]}


def private(hosts: int = 2, privacy: dict[str, Any] | None = None, **train: Any) -> Job:
    settings = {"classes": 10, "rounds": 4, "standardise": False, "learning_rate": 1.0}
    privacy = PRIVACY | (privacy or {})
    return make_job(DIGITS, hosts, **LOGISTIC | settings | {"privacy": privacy} | train)


def config_of(job: Job) -> HorizontalConfig:
    config = job.components["train"]
    assert isinstance(config, HorizontalConfig)
    return config


def plan_of(job: Job) -> Plan:
    size = Network.of(config_of(job), 64).count
    return Plan.of(config_of(job), 1 + len(job.hosts), size)


def told(run: Run, party: str = "guest") -> dict[str, Any]:
    privacy: dict[str, Any] = run.reports[party].component("train").facts["privacy"]
    return privacy


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test hook: noise from a seed that is printed."""
    seed = secrets.randbits(32)
    print("seed", seed)
    source = random.Random(seed).randbytes
    monkeypatch.setattr(_private, "discrete_gaussian", lambda v, n: discrete_gaussian(v, n, source))


@pytest.mark.parametrize("aggregation", ["masks", pytest.param("paillier", marks=pytest.mark.full)])
def test_much_budget_gives_the_twins_model(tmp_path: Path, aggregation: str) -> None:
    job = private(privacy={"epsilon": 10_000.0}, aggregation=aggregation)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    assert findings(job, tmp_path) == []
    assert told(run)["epsilon"] == pytest.approx(10_000, rel=1e-6)
    models = [model_of(tmp_path, party) for party in ("guest", "h0", "h1")]
    assert all(model["parameters"] == models[0]["parameters"] for model in models)
    # The twin's accuracy is that of all rows; the parties' own ones add up to theirs.
    right = [run.reports[p].component("train").metrics["accuracy"] for p in ("guest", "h0", "h1")]
    assert np.mean(right) == pytest.approx(twin.metrics["accuracy"], abs=2e-3)
    assert twin.losses[-1] < twin.losses[0] * 0.9


def test_clients_with_much_budget_learn_as_without_privacy(tmp_path: Path) -> None:
    unit = {"unit": "client", "epsilon": None, "noise_multiplier": 1e-4, "clip": 50.0}
    job = private(privacy=unit, local_epochs=2, batch_size=16, learning_rate=0.1)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    found = run.reports["guest"].component("train")
    assert found.facts["clipped"] == 0
    assert found.metrics["accuracy"] > 0.93
    sent = {m.tag for m in run.messages}
    assert not {tag for tag in sent if "mean" in tag or "final" in tag}  # no rows, no loss


def sums_without_noise(job: Job, directory: Path, rounds: int) -> list[NDArray[np.int64]]:
    """What the clients' integers of each round add up to before noise, from the model's path."""
    config, plan = config_of(job), plan_of(job)
    assert config.privacy is not None
    found = []
    for number in range(rounds):
        total = np.zeros(0, dtype=np.int64)
        state = np.load(directory / "guest" / "states" / "train" / "given" / f"{number + 1}.npz")
        for party in ("guest", "h0", "h1"):
            table = load_table(job, party)
            network = Network.of(config, table.x.shape[1])
            scaling = public_scaling(config.privacy, party, table.columns)
            assert scaling is not None
            y = class_labels(party, table.y, config.classes)
            rows = network.gradients(state["a:start"], scaling.apply(table.x), y)
            q = clipped(plan, rows)[0].sum(axis=0)
            total = q if not total.size else total + q
        found.append(total)
    return found


@pytest.mark.parametrize(
    ("aggregation", "silent"),
    [
        pytest.param("masks", None, marks=pytest.mark.full),
        pytest.param("paillier", None, marks=pytest.mark.full),
        ("masks", "h0"),
    ],
)
def test_the_noise_of_the_sum_is_what_was_promised(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed_noise: None,
    aggregation: str,
    silent: str | None,
) -> None:
    """One of the colluding may leave out its share: what is left is still the promised noise."""
    job = private(
        aggregation=aggregation, rounds=3, min_clients=3 if aggregation == "masks" else None
    )
    plan = plan_of(job)
    if silent is not None:
        rows = len(load_table(job, silent).ids)
        marked = float(load_table(job, silent).x[0].sum())
        real = _private.contribution

        def contribution(
            plan: Plan, network: Network, config: Any, start: Any, x: Any, *rest: Any
        ) -> Any:
            vector, cut = real(plan, network, config, start, x, *rest)
            mine = len(x) == rows and math.isclose(float((x[0] * 8 + 8).sum()), marked)
            if mine:
                vector = clipped(plan, network.gradients(start, x, rest[0]))[0].sum(axis=0)
            return vector, cut

        monkeypatch.setattr("residue_federated.horizontal._train.contribution", contribution)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    trace = run.reports["guest"].gradients
    assert trace is not None
    sums = [np.array(total[: Network.of(config_of(job), 64).count]) for total in trace[-3:]]
    noise = np.concatenate(sums) - np.concatenate(sums_without_noise(job, tmp_path, 3))
    shares = 3 if silent is None else 2
    expected, count = shares * plan.variance, noise.size
    assert plan.shares == 2  # of three, one may collude
    statistic = float(np.sum(noise.astype(float) ** 2)) / expected
    assert abs(statistic - count) < 5 * math.sqrt(2 * count)
    assert abs(float(noise.mean())) < 5 * math.sqrt(expected / count)
    promised = told(run)["noise_multiplier"] ** 2 * plan.square
    assert expected >= promised * (1 - 1e-9)


def test_what_a_row_gives_never_exceeds_the_clip() -> None:
    plan, rng = plan_of(private()), np.random.default_rng(0)
    rows = rng.normal(size=(500, 650)) * 10.0 ** rng.integers(-300, 300, size=(500, 1))
    rows[0], rows[1], rows[2, 3], rows[3] = np.inf, np.nan, -np.inf, 1.0
    rows[4] = np.sqrt(1 / 650)  # of the length of the clip, all coordinates alike
    q, cut = clipped(plan, rows)
    squares = (q.astype(object) ** 2).sum(axis=1)
    assert max(squares) <= plan.square
    assert not q[:3].any()
    assert q[3].any()
    assert q[4].any()
    lengths = np.sqrt(squares[4:].astype(float))
    assert lengths.max() == pytest.approx(plan.limit, rel=1e-5)
    assert cut >= 200
    small = rows[4:5] * 1e-3
    assert clipped(plan, small)[0] * plan.unit == pytest.approx(small, abs=plan.unit)


@pytest.mark.parametrize("bits", [8, 24, 32])
@pytest.mark.parametrize("noise", [1e-4, 1.0, 500.0])
@pytest.mark.parametrize("unit", ["record", "client"])
def test_no_sum_leaves_its_range(bits: int, noise: float, unit: str) -> None:
    privacy = {"unit": unit, "epsilon": None, "noise_multiplier": noise}
    plan = plan_of(private(privacy=privacy, bits=bits))
    plan.check(clients=3)
    units = _private.MOST_ROWS if unit == "record" else 1
    worst = units * (math.isqrt(plan.square) + 1) + 16 * math.sqrt(plan.variance)
    assert worst < 2 ** (plan.bits - 1)
    assert 3 * 2 ** (plan.bits - 1) < 2**62


@pytest.mark.full
def test_noise_beyond_the_range_of_sums_is_refused(tmp_path: Path) -> None:
    job = private(privacy={"epsilon": None, "noise_multiplier": 1e6}, bits=32)
    run = run_all(job, tmp_path)
    assert any("too large to add up" in str(error) for error in run.errors.values())
    assert any(isinstance(error, JobError) for error in run.errors.values())


def test_training_stops_before_the_budget_would_be_passed(tmp_path: Path) -> None:
    job = private(privacy={"noise_multiplier": 3.0, "epsilon": 2.5}, rounds=50)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert findings(job, tmp_path) == []
    privacy = told(run)
    done = run.reports["guest"].component("train").rounds
    assert 1 <= done < 50
    assert privacy["stopped"]
    assert privacy["epsilon_by_round"] == sorted(privacy["epsilon_by_round"])
    assert len(privacy["epsilon_by_round"]) == done
    assert privacy["epsilon"] == privacy["epsilon_by_round"][-1] <= 2.5
    assert plan_of(job).epsilon(done + 1) > 2.5
    assert model_of(tmp_path, "h1")["privacy"] == told(run, "h1")


@pytest.mark.full
def test_rows_are_drawn_for_themselves_in_every_round(tmp_path: Path, recorded: Recorded) -> None:
    job = private(privacy={"sample": 0.1, "epsilon": 1.0}, rounds=3)
    whole = private(privacy={"epsilon": 1.0}, rounds=3)
    assert plan_of(job).variance < plan_of(whole).variance / 4
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert told(run)["epsilon"] <= 1.0
    assert told(run)["sample"] == 0.1


def test_a_delta_that_protects_nobody_is_warned_of() -> None:
    plan = plan_of(private(privacy={"delta": 1e-3}))
    warned = report(plan, 1, [1.0], 1797.0, stopped=False)["warnings"]
    assert "delta 0.001 is not below 1 / 1797 rows" in warned[0]
    assert report(plan, 1, [1.0], 500.0, stopped=False)["warnings"] == []


@pytest.mark.parametrize("changes", [{"epsilon": 3.0}, {"colluding": 0}])
def test_parties_that_disagree_on_privacy_do_not_start(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = private()
    run = run_all(job, tmp_path, changed={"h0": private(privacy=changes)})
    assert run.reports == {}
    assert run.errors


@pytest.mark.full
def test_a_lost_host_costs_no_privacy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    job = private(hosts=3)
    plan = plan_of(job)
    assert plan.shares == 2  # of three that must remain, one may collude
    stage(monkeypatch, "h1", "round/2/vector", die)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert run.reports["guest"].component("train").facts["clients"] == ["guest", "h0", "h2"]
    assert told(run)["epsilon"] <= 2.0
    assert len(told(run)["epsilon_by_round"]) == 4


def interrupted(party: str, rounds: int) -> Callable[[str, int], None]:
    def progress(name: str, done: int) -> None:
        if (name, done) == (party, rounds):
            raise Staged

    return progress


@pytest.mark.parametrize("aggregation", [pytest.param("masks", marks=pytest.mark.full), "paillier"])
def test_where_no_host_may_be_lost_a_vector_is_given_again(
    tmp_path: Path, recorded: Recorded, aggregation: str
) -> None:
    """The guest dies after round 2; what others gave to round 3 by then is not paid twice."""
    job = private(aggregation=aggregation, min_clients=3 if aggregation == "masks" else None)
    run_all(job, tmp_path, progress=interrupted("guest", 2))
    before = {name: dict(given) for name, given in recorded.given.items()}
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert findings(job, tmp_path) == []
    assert run.reports["guest"].component("train").rounds == 4
    assert told(run)["epsilon"] == pytest.approx(2.0, rel=1e-6)
    for name, given in before.items():
        for party, vector in given.items():
            if name.startswith("round"):
                assert np.array_equal(vector, recorded.given[name][party])


def test_where_hosts_may_be_lost_a_round_done_again_is_paid_for(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = private(hosts=3)
    with monkeypatch.context() as deaths:
        stage(deaths, "guest", "round/2/shares", die)
        assert run_all(job, tmp_path).reports == {}
    first = recorded.given["round/2"]["h0"]
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert findings(job, tmp_path) == []
    assert not np.array_equal(first, recorded.given["round/2"]["h0"])
    assert run.reports["guest"].component("train").rounds == 3  # one of four went to the first try
    privacy = told(run)
    assert privacy["stopped"]
    assert privacy["epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert privacy["epsilon_by_round"] == [plan_of(job).epsilon(n) for n in (1, 2, 4)]


def test_a_lost_host_that_returns_costs_no_more_than_what_is_done_again(tmp_path: Path) -> None:
    """Others have gone on without it: it gets their state, but nobody's own losses."""
    job = private(rounds=8)
    assert run_all(job, tmp_path, progress=deaths({"h1": 1, "guest": 5})).reports == {}
    run, done = went_on(job, tmp_path)
    assert done in (4, 5)
    assert set(run.reports) == {"guest", "h0", "h1", "arbiter"}
    rounds = run.reports["guest"].component("train").rounds
    assert rounds >= done + 2  # of eight sums, at most six were given to when the guest died
    for party in ("guest", "h0", "h1"):
        assert told(run, party) == told(run)
        parameters = model_of(tmp_path, party)["parameters"]
        assert parameters == model_of(tmp_path, "guest")["parameters"]
    assert told(run)["epsilon"] <= 2.0
    assert len(told(run)["epsilon_by_round"]) == rounds
    (handed,) = (m for m in run.messages if m.tag == "train/state")
    assert (handed.sender, handed.receiver) == ("guest", "h1")
    assert list(handed.payload.record.arrays["losses"].shape) == [0]
    assert len(run.reports["h1"].component("train").losses) == 1 + rounds - done


@pytest.mark.full
def test_a_vector_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    job = private(aggregation="paillier")
    run_all(job, tmp_path, progress=interrupted("guest", 2))
    for party in ("guest", "h0", "h1", "arbiter"):
        for path in (tmp_path / party / "states" / "train").glob("[0-9]*.npz"):
            path.unlink()
        (tmp_path / party / "states" / "train" / "given" / "1.npz").unlink(missing_ok=True)
    run = run_all(job, tmp_path)
    assert run.reports == {}
    assert any("what it gave to round 1 is gone" in str(e) for e in run.errors.values())


def test_an_impossible_count_of_releases_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(monkeypatch, "h0", "given", lambda a: {"count": a["count"] - 1})
    run = run_all(private(hosts=3), tmp_path)
    assert isinstance(run.errors["guest"], ProtocolError)
    assert "h0 has given -1 vectors" in str(run.errors["guest"])


@pytest.mark.full
def test_a_range_of_no_column_is_refused(tmp_path: Path) -> None:
    run = run_all(private(privacy={"ranges": {"nowhere": [0, 1]}}), tmp_path)
    assert any(
        isinstance(error, DataError) and "no column 'nowhere'" in str(error)
        for error in run.errors.values()
    )


@pytest.mark.full
def test_noise_is_in_no_record_and_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[NDArray[np.int64]] = []

    def noted(variance: int, count: int) -> NDArray[np.int64]:
        drawn.append(discrete_gaussian(variance, count))
        return drawn[-1]

    monkeypatch.setattr(_private, "discrete_gaussian", noted)
    run = run_all(private(rounds=1), tmp_path)
    assert run.errors == {}
    texts = [p.read_text() for p in tmp_path.rglob("*.json*")] + [
        json.dumps([m.tag, str(m.data)]) for m in run.messages
    ]
    assert texts
    large = [str(n) for noise in drawn for n in noise.tolist() if abs(n) > 10**6]
    assert large
    assert not [n for n in large for text in texts if f" {n}," in text]


@pytest.mark.full
@pytest.mark.parametrize("victim", ["guest", "h0", "arbiter"])
def test_a_killed_party_leaves_bits_and_budget_as_they_were(tmp_path: Path, victim: str) -> None:
    """Real processes, SIGKILL in the middle; the vectors that were given decide the model."""
    job = private(aggregation="paillier", rounds=6)
    pids: dict[str, int] = {}

    def watch(event: Event) -> None:
        if event.kind == "listening":
            pids[event.party] = event.content["pid"]
        if (event.kind, event.party) == ("round", "guest") and event.content["done"] == 3:
            os.kill(pids[victim], signal.SIGKILL)

    with pytest.raises((PeerLost, PeerFailed)):
        run_trial(job, tmp_path, watch=watch)
    given = {
        path: path.read_bytes()
        for party in ("guest", "h0", "h1")
        for path in (tmp_path / party / "states" / "train" / "given").glob("*.npz")
    }
    reports = run_trial(job, tmp_path)
    privacy = reports["guest"].component("train").facts["privacy"]
    assert privacy["epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert len(privacy["epsilon_by_round"]) == 6
    kept = [path for path in given if path.exists()]
    assert kept
    assert all(path.read_bytes() == given[path] for path in kept)
    models = [model_of(tmp_path, party)["parameters"] for party in ("guest", "h0", "h1")]
    assert models[0] == models[1] == models[2]
