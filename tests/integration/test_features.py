"""Feature components in whole jobs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import residue
from residue_federated import Job
from residue_federated._context import Line, Outcome
from residue_federated._data import Table, load_table
from residue_federated._generated import credit
from residue_federated.errors import DataError, JobError, ProtocolError
from residue_federated.features import _blocks
from residue_federated.features._bins import Bins, Evidence
from residue_federated.features._evaluation import evaluate_binary
from residue_federated.proto import v1
from tests.integration.parties import Run, run_all

ROWS, COLUMNS = 300, 20
HOSTS = ("h0", "h1")


@dataclass(kw_only=True)
class Done(Run):
    """What all parties of a job ended with, and what they wrote."""

    job: Job
    directory: Path

    def source(self, party: str) -> Table:
        return load_table(self.job, party)

    def table(self, party: str, component: str) -> Table:
        return Table.read(self.directory / party / "tables" / f"{component}.parquet")

    def model(self, party: str, component: str) -> dict[str, Any]:
        path = self.directory / party / "models" / f"{component}.json"
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def error(self, kind: type[Exception]) -> str:
        """The message of the only error of that kind."""
        (found,) = [str(error) for error in self.errors.values() if isinstance(error, kind)]
        return found


Runner = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Runs components on generated data of a guest and two hosts; a directory of its own a run."""
    numbers = itertools.count()

    def run_components(
        components: dict[str, dict[str, Any]], *, missing: float = 0.05, arbiter: bool = False
    ) -> Done:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        for party, host in (("guest", None), ("h0", 0), ("h1", 1)):
            part = credit(ROWS, COLUMNS, 0, missing, hosts=2, host=host)
            frame = pd.DataFrame(part.x, columns=part.names).assign(id=part.ids)
            if part.y is not None:
                frame["y"] = part.y.astype(int)
            frame.to_parquet(directory / f"{party}.parquet")
        job = Job.model_validate(
            {
                "name": "t",
                "guest": {
                    "name": "guest",
                    "data": {"file": directory / "guest.parquet", "label": "y"},
                },
                "hosts": [
                    {"name": name, "data": {"file": directory / f"{name}.parquet"}}
                    for name in HOSTS
                ],
                "key": {"bits": 1024, "insecure_allow_1024": True},
                "components": components,
                "transport": {"connect_timeout": 20, "peer_timeout": 2},
            }
            | ({"arbiter": {"name": "arbiter"}} if arbiter else {})
        )
        return Done(**vars(run_all(job, directory)), job=job, directory=directory)

    return run_components


# --- bins -----------------------------------------------------------------------------------------


def in_the_clear(run: Done, party: str, most: int) -> tuple[Bins, NDArray[np.int64], Evidence]:
    """Bins of a party's own data, its codes, and what the guest's label says about them."""
    x, y = run.source(party).x, run.source("guest").y
    assert y is not None
    bins = Bins.of(x, most)
    codes = bins.codes(x)
    counts = np.bincount(codes.ravel(), minlength=bins.starts[-1])
    positives = np.bincount(codes[y == 1].ravel(), minlength=bins.starts[-1])
    totals = int((y == 1).sum()), int((y == 0).sum())
    return bins, codes, Evidence.of(positives, counts, bins.sizes, totals)


def test_encrypted_bins_are_those_in_the_clear(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_ROWS", 128)  # several blocks, the last one short
    done = run({"woe": {"type": "bin", "bins": 6, "transform": "woe"}})
    assert done.errors == {}
    ivs = done.reports["guest"].component("woe").facts["iv"]
    for party in ("guest", *HOSTS):
        bins, codes, expected = in_the_clear(done, party, 6)
        columns = done.model(party, "woe")["columns"]
        assert [column["cuts"] for column in columns] == [cuts.tolist() for cuts in bins.cuts]
        assert [column["missing"] for column in columns] == bins.missing.tolist()
        woe = [value for column in columns for value in column["woe"]]
        assert woe == expected.woe.tolist()  # bit by bit, so counts are exact
        assert [column["iv"] for column in columns] == pytest.approx(expected.iv.tolist())
        table = done.table(party, "woe")
        np.testing.assert_array_equal(table.x, expected.woe[codes])
        shown = ivs[party] if party != "guest" else list(ivs[party].values())
        assert shown == [column["iv"] for column in columns]
    assert not np.isnan(done.table("h0", "woe").x).any()


def test_without_woe_a_host_learns_ivs_only(run: Runner) -> None:
    done = run({"iv": {"type": "bin", "bins": 4}})
    assert done.errors == {}
    columns = done.model("h0", "iv")["columns"]
    assert all(column["woe"] is None and column["iv"] > 0 for column in columns)
    np.testing.assert_array_equal(done.table("h0", "iv").x, done.source("h0").x)
    (weights,) = [m for m in done.messages if (m.receiver, m.tag) == ("h0", "iv/weights")]
    assert set(v1.Payload.FromString(weights.data).record.arrays) == {"iv"}


def test_what_a_host_sends_is_shuffled_and_what_it_keeps_is_not(run: Runner) -> None:
    components = {"iv": {"type": "bin", "bins": 64}}
    orders, models = [], []
    for _ in range(2):
        done = run(components)
        (sent,) = [m for m in done.messages if (m.sender, m.tag) == ("h0", "iv/bins")]
        array = v1.Payload.FromString(sent.data).record.arrays["counts"]
        orders.append(np.frombuffer(array.data, "<i8").tolist())
        models.append(done.model("h0", "iv"))
    sizes = [len(column["cuts"]) + 1 + column["missing"] for column in models[0]["columns"]]
    assert sum(sizes) == len(orders[0])
    assert orders[0] != orders[1]
    ends = np.cumsum([0, *sizes])
    for start, end in itertools.pairwise(ends):
        assert sorted(orders[0][start:end]) == sorted(orders[1][start:end])
    assert models[0] == models[1]


def test_every_ciphertext_of_features_is_fresh(run: Runner) -> None:
    done = run(
        {
            "fill": {"type": "impute"},
            "iv": {"type": "bin", "bins": 5},
            "pearson": {"type": "correlation"},
        }
    )
    assert done.errors == {}
    count = 0
    for component in ("iv", "pearson"):
        keys = [m for m in done.messages if m.tag == f"{component}/key"]
        assert {m.receiver for m in keys} == set(HOSTS)
        data = v1.Payload.FromString(keys[0].data).public_key.data
        key = residue.PublicKey.from_bytes(data, device="cpu")
        values: dict[str, list[bytes]] = {}
        for message in done.messages:
            if message.tag.startswith(f"{component}/"):
                for block in v1.Payload.FromString(message.data).ciphertexts.blocks:
                    limbs = key.ciphertexts_from_bytes(block).to_limbs()
                    numbers = [row.astype("<u8").tobytes() for row in limbs]
                    assert all((int.from_bytes(c, "little") - 1) % key.n for c in numbers)
                    values.setdefault(message.receiver, []).extend(numbers)
        assert set(values) == {"guest", *HOSTS}
        assert all(len(set(sent)) == len(sent) for sent in values.values())
        count += sum(map(len, values.values()))
    assert count > 4 * ROWS


def test_bins_need_a_label_of_two_kinds_and_a_value_in_every_column(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from residue_federated import _party

    def changed(job: Job, party: str, **options: Any) -> Table:
        table = load_table(job, party, **options)
        return replace(table, y=np.arange(len(table.ids)) % 3.0) if party == "guest" else table

    monkeypatch.setattr(_party, "load_table", changed)
    assert "two kinds" in run({"iv": {"type": "bin"}}).error(DataError)

    def emptied(job: Job, party: str, **options: Any) -> Table:
        table = load_table(job, party, **options)
        if party == "h1":
            table.x[:, 2] = np.nan
        return table

    monkeypatch.setattr(_party, "load_table", emptied)
    done = run({"iv": {"type": "bin"}})
    assert f"h1: column '{done.source('h1').columns[2]}' has no value" in done.error(DataError)


# --- columns --------------------------------------------------------------------------------------


def test_impute_fills_and_keeps_what_with(run: Runner) -> None:
    first = credit(ROWS, COLUMNS, 0, 0.0, hosts=2, host=0).names
    columns = {first[0]: "median", first[1]: -1.5}
    done = run({"fill": {"type": "impute", "columns": columns}})
    assert done.errors == {}
    for party in ("guest", *HOSTS):
        x, filled = done.source(party).x, done.table(party, "fill").x
        missing = np.isnan(x)
        assert missing.any()
        np.testing.assert_array_equal(filled[~missing], x[~missing])
        expected = np.nanmean(x, axis=0)
        if party == "h0":
            expected[:2] = np.nanmedian(x[:, 0]), -1.5
        model = done.model(party, "fill")
        fill = dict(zip(model["columns"], model["fill"], strict=True))
        assert list(fill.values()) == pytest.approx(expected.tolist())
        np.testing.assert_array_equal(
            filled[missing], np.broadcast_to([*fill.values()], x.shape)[missing]
        )
        assert done.reports[party].component("fill").facts == {"filled": int(missing.sum())}


def test_a_column_that_nobody_has_is_an_error(run: Runner) -> None:
    done = run({"fill": {"type": "impute", "columns": {"normal_00": 0, "nobody's": 1}}})
    assert set(done.errors) == {"guest", *HOSTS}
    assert all(str(e).endswith("no party has a column nobody's") for e in done.errors.values())
    assert done.reports == {}


def test_select_by_name_variance_and_iv(run: Runner) -> None:
    done = run(
        {
            "iv": {"type": "bin", "bins": 5},
            "named": {"type": "select", "drop": ["normal_00", "linked_19"]},
            "varied": {"type": "select", "min_variance": 1.0, "min_iv": 0.03},
        }
    )
    assert done.errors == {}
    dropped = 0
    for party in ("guest", *HOSTS):
        source, ivs = done.source(party), done.model(party, "iv")["columns"]
        variances = np.nanvar(source.x, axis=0)
        named = [name for name in source.columns if name not in ("normal_00", "linked_19")]
        assert done.table(party, "named").columns == named
        kept = [
            name
            for name, variance, column in zip(source.columns, variances, ivs, strict=True)
            if name in named and variance >= 1.0 and column["iv"] >= 0.03
        ]
        varied = done.table(party, "varied")
        assert varied.columns == kept == done.model(party, "varied")["columns"]
        index = [source.columns.index(name) for name in kept]
        np.testing.assert_array_equal(varied.x, source.x[:, index])
        dropped += len(named) - len(kept)
    assert dropped > 0


@pytest.mark.parametrize(
    ("select", "kind", "expected"),
    [
        ({"keep": ["normal_00", "normal_10"]}, DataError, "guest: no column meets"),
        ({"keep": ["x"]}, DataError, "no party has a column x"),
        ({"min_iv": 0.1}, JobError, "needs a component of type 'bin' before it"),
    ],
)
def test_what_cannot_be_selected(
    run: Runner, select: dict[str, Any], kind: type[Exception], expected: str
) -> None:
    done = run({"pick": {"type": "select", **select}})
    assert any(isinstance(e, kind) and expected in str(e) for e in done.errors.values())


def test_a_resumed_job_selects_by_the_ivs_that_it_had(run: Runner) -> None:
    components = {"iv": {"type": "bin", "bins": 5}, "pick": {"type": "select", "min_iv": 0.03}}
    done = run(components)
    before = {party: done.table(party, "pick") for party in HOSTS}
    for party in ("guest", *HOSTS):
        job = done.directory / party / "states" / "_job"
        (last,) = job.glob("*2.npz")
        last.unlink()
        (job / "ended").unlink()
    again = run_all(done.job, done.directory)
    assert again.errors == {}
    assert not any(message.tag.startswith("iv/") for message in again.messages)
    assert {message.tag for message in again.messages} >= {"pick/states", "pick/resume"}
    for party, table in before.items():
        assert done.table(party, "pick").columns == table.columns


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratify", [False, True])
def test_split_gives_every_party_the_same_disjoint_parts(run: Runner, stratify: bool) -> None:
    shares = {"train": 0.6, "validation": 0.15, "test": 0.25, "seed": 3, "stratify": stratify}
    parts = ("train", "validation", "test")
    first = {"type": "impute"}
    done = run(
        {"fill": first}
        | {f"{p}-rows": {"type": "split", "part": p, "input": "fill", **shares} for p in parts}
    )
    assert done.errors == {}
    ids = {p: done.table("guest", f"{p}-rows").ids for p in parts}
    assert sorted(itertools.chain(*ids.values())) == done.source("guest").ids
    assert [len(ids[p]) for p in parts] == [180, 45, 75]
    source = done.source("h1")
    for p in parts:
        assert ids[p] == sorted(ids[p])
        for host in HOSTS:
            assert done.table(host, f"{p}-rows").ids == ids[p]
        rows = [source.ids.index(i) for i in ids[p]]
        np.testing.assert_array_equal(
            done.table("h1", f"{p}-rows").x, done.table("h1", "fill").x[rows]
        )
        if stratify:
            y = done.table("guest", f"{p}-rows").y
            assert y is not None
            assert y.mean() == pytest.approx(0.2)  # 60 of 300 rows


def test_a_seed_gives_the_same_split_and_another_one_another(run: Runner) -> None:
    done = run(
        {
            name: {"type": "split", "part": "train", "seed": seed, "input": "fill"}
            if name != "fill"
            else {"type": "impute"}
            for name, seed in {"fill": 0, "one": 1, "again": 1, "two": 2}.items()
        }
    )
    ids = {name: done.table("h0", name).ids for name in ("one", "again", "two")}
    assert ids["one"] == ids["again"] != ids["two"]


def test_sampling_by_class_balances_the_label(run: Runner) -> None:
    done = run(
        {"balance": {"type": "sample", "classes": {0: 0.5, 1: 2.5}, "share": 1}},
        missing=0.01,
    )
    assert done.errors == {}
    table, source = done.table("guest", "balance"), done.source("guest")
    assert table.y is not None
    assert source.y is not None
    assert [(table.y == 0).sum(), (table.y == 1).sum()] == [120, 150]
    assert table.ids == sorted(set(table.ids))
    originals = [i.partition("#")[0] for i in table.ids]
    times = pd.Series(originals).value_counts()
    positive = {i for i, y in zip(source.ids, source.y, strict=True) if y == 1}
    assert {i: times[i] in (2, 3) for i in positive} == dict.fromkeys(positive, True)
    assert times[[i for i in times.index if i not in positive]].max() == 1
    for host in HOSTS:
        assert done.table(host, "balance").ids == table.ids
        rows = [source.ids.index(i) for i in originals]
        np.testing.assert_array_equal(done.table(host, "balance").x, done.source(host).x[rows])


@pytest.mark.parametrize(("stratify", "share", "rows"), [(False, 0.25, 75), (True, 1.5, 450)])
def test_sampling_by_share(run: Runner, stratify: bool, share: float, rows: int) -> None:
    done = run({"some": {"type": "sample", "share": share, "seed": 5, "stratify": stratify}})
    assert done.errors == {}
    tables = [done.table(party, "some") for party in ("guest", *HOSTS)]
    assert [len(table.ids) for table in tables] == [rows] * 3
    assert tables[0].ids == tables[1].ids == tables[2].ids
    if stratify:
        assert tables[0].y is not None
        assert tables[0].y.mean() == pytest.approx(0.2)
    told = [m for m in done.messages if m.tag == "some/chosen"]
    assert len(told) == 2 * stratify


def test_a_label_that_no_row_has_is_an_error(run: Runner) -> None:
    done = run({"some": {"type": "sample", "classes": {2: 0.5}}})
    assert done.error(DataError) == "no row has the label 2"


# --- correlation ----------------------------------------------------------------------------------


def test_correlations_are_those_in_the_clear(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_ROWS", 128)
    done = run({"fill": {"type": "impute"}, "pearson": {"type": "correlation"}})
    assert done.errors == {}
    facts = {p: done.reports[p].component("pearson").facts for p in ("guest", *HOSTS)}
    guest = done.table("guest", "fill").x
    for host in HOSTS:
        x = done.table(host, "fill").x
        together = np.corrcoef(np.hstack([x, guest]).T)
        split = x.shape[1]
        found = np.array(facts["guest"]["with"][host])
        assert found.shape == (split, guest.shape[1])
        np.testing.assert_allclose(found, together[:split, split:], atol=2e-4)
        assert facts[host]["with"] == {"guest": facts["guest"]["with"][host]}
        np.testing.assert_allclose(facts[host]["own"], together[:split, :split], atol=1e-4)
        assert facts[host]["columns"] == done.source(host).columns
    assert np.abs(facts["guest"]["with"]["h0"]).max() > 0.15


def test_the_guest_decrypts_masked_sums_only(run: Runner) -> None:
    done = run({"fill": {"type": "impute"}, "pearson": {"type": "correlation"}})
    (back,) = [m for m in done.messages if (m.receiver, m.tag) == ("h0", "pearson/sums")]
    array = v1.Payload.FromString(back.data).record.arrays["masked"]
    rows = np.frombuffer(array.data, np.uint8).reshape(*array.shape)
    values = [int.from_bytes(row.tobytes(), "little", signed=True) for row in rows]
    assert len(set(values)) == len(values) == 8
    assert all(abs(value) >> 980 for value in values)  # 1020 bits of mask


def test_correlation_takes_no_missing_values(run: Runner) -> None:
    done = run({"pearson": {"type": "correlation"}})
    assert done.reports == {}
    assert any("missing value" in str(error) for error in done.errors.values())


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_of_a_trained_model(run: Runner) -> None:
    done = run(
        {
            "fill": {"type": "impute"},
            "scale": {"type": "standardise"},
            "train": {"type": "logistic_regression", "epochs": 2},
            "judge": {"type": "evaluate", "threshold": 0.4},
        },
        arbiter=True,
    )
    assert done.errors == {}
    guest = done.reports["guest"]
    judged, train = guest.component("judge"), guest.component("train")
    assert judged.metrics["auc"] == train.metrics["auc"]
    assert (judged.facts["model"], judged.facts["threshold"]) == ("train", 0.4)
    assert sum(judged.facts["confusion"].values()) == ROWS
    assert len(judged.facts["curves"]["roc"]["fpr"]) > 20
    assert done.reports["h0"].component("judge").facts == {}


def test_evaluation_is_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    from residue_federated.features._config import EvaluateConfig
    from residue_federated.features._evaluate import run as evaluate

    rng = np.random.default_rng(0)
    y, u = (rng.random(50) < 0.4).astype(float), rng.normal(size=50)
    table = Table([f"{i:02d}" for i in range(50)], ["a"], np.zeros((50, 1)), y)

    class Stub:
        component, inputs = "judge", {"m": Outcome(scores=u)}

        class job:  # noqa: N801
            components = {"m": None, "judge": None}  # noqa: RUF012

            @staticmethod
            def input_of(name: str) -> str | None: ...

        def restored(self) -> None: ...

    config = EvaluateConfig(type="evaluate", model="m")
    found = evaluate(Stub(), config, table)  # type: ignore[arg-type]
    assert found.metrics == evaluate_binary(y, u).metrics
    assert found.facts["rows"] == 50
    with pytest.raises(DataError, match="scored 50 rows, but the table has 49"):
        evaluate(Stub(), config, replace(table, ids=table.ids[1:], x=table.x[1:], y=y[1:]))  # type: ignore[arg-type]
    regression = config.model_copy(update={"task": "regression"})
    scaled = table.standardised(target=True)
    found = evaluate(Stub(), regression, scaled)  # type: ignore[arg-type]
    assert found.metrics["mae"] == pytest.approx(np.abs(y - u).mean())


def test_evaluation_needs_a_model(run: Runner) -> None:
    done = run({"fill": {"type": "impute"}, "judge": {"type": "evaluate"}})
    assert all("no component before it trains" in str(e) for e in done.errors.values())
    assert any(isinstance(e, JobError) for e in done.errors.values())


# --- peers that lie -------------------------------------------------------------------------------


def _one_more(values: NDArray[Any]) -> NDArray[Any]:
    changed = np.array(values)
    changed.ravel()[0] += 1
    return changed


@pytest.mark.parametrize(
    ("component", "receiver", "tag", "name", "change", "expected"),
    [
        ("bin", "guest", "bins", "counts", _one_more, "bins that do not hold all rows"),
        ("bin", "guest", "bins", "counts", lambda v: v - v, "impossible numbers of rows"),
        ("bin", "guest", "bins", "sizes", lambda v: v + 99, "impossible numbers of bins"),
        ("bin", "guest", "bins", "sizes", lambda v: v.astype(np.int32), "int64"),
        ("bin", "h0", "weights", "iv", lambda v: -v, "impossible weights"),
        ("bin", "h0", "weights", "iv", lambda v: v[1:], "shape"),
        ("split", "h0", "chosen", "index", lambda v: v[::-1], "out of order or unknown"),
        ("split", "h0", "chosen", "index", lambda v: v + ROWS, "out of order or unknown"),
        ("split", "h0", "chosen", "index", lambda v: np.repeat(v, 9), "out of order or unknown"),
        ("impute", "guest", "columns", "known", lambda v: v[:1], "shape"),
        ("correlation", "guest", "columns", "count", lambda v: v - v, "number of columns"),
        ("correlation", "h0", "columns", "count", lambda v: -v, "number of columns"),
        ("correlation", "guest", "correlations", "r", lambda v: v + 3, "beyond 1"),
        ("correlation", "h0", "sums", "masked", lambda v: v[:, ::-1], "out of range"),
    ],
)
def test_lies_name_the_liar(
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    receiver: str,
    tag: str,
    name: str,
    change: Callable[[NDArray[Any]], NDArray[Any]],
    expected: str,
) -> None:
    send = Line.send_record

    def lying(line: Line, peer: str, sent: str, **arrays: NDArray[Any]) -> None:
        if (peer, sent) == (receiver, tag):
            arrays[name] = change(arrays[name])
        send(line, peer, sent, **arrays)

    monkeypatch.setattr(Line, "send_record", lying)
    options: dict[str, dict[str, Any]] = {
        "bin": {"bins": 5},
        "split": {"part": "train", "stratify": True},
        "impute": {"columns": {"normal_00": 0, "normal_10": 0}},
        "correlation": {},
    }
    done = run({"it": {"type": component, **options[component]}}, missing=0.0)
    faults = [str(e) for e in done.errors.values() if isinstance(e, ProtocolError)]
    liars = {"guest": HOSTS, "h0": ("guest",)}[receiver]
    assert any(f.startswith(liars) and expected in f for f in faults), done.errors


def test_positives_beyond_rows_name_the_host(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from residue_federated.features import _bin

    sums = _bin._sums

    def doubled(*arguments: Any) -> residue.CiphertextArray:
        return sums(*arguments) * 2

    monkeypatch.setattr(_bin, "_sums", doubled)
    done = run({"iv": {"type": "bin", "bins": 5}})
    assert "positives" in done.error(ProtocolError)
    assert done.error(ProtocolError).startswith("h0 sent bins")
