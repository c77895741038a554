"""What the console shows of a store: the list of runs, and one run."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from residue._html import environment
from residue_federated._report import loss_chart, page, progress_chart, quality, shares_chart, size
from residue_federated._results import utilisation
from residue_federated.console._graph import draw_graph, inputs_of
from residue_federated.errors import StoreError, UnknownRun
from residue_federated.store import FILE, Component, Details, Party, Round, Run, Store

__all__ = ["NotThere", "Page", "Pages"]

_LISTED = 50
"""Runs on one page of the list."""
_SETTLING = 60.0
"""Seconds after its end in which a run may still be moved to where it belongs."""
_POINTS = 1000
"""Of a curve, at most; more are not seen."""
_SHOWN = ("auc", "accuracy", "r2", "rmse")
"""Metrics for the list, the first that is there."""


class NotThere(StoreError):
    """There is no such run, or nothing of the kind that was asked for."""


@dataclass(frozen=True)
class Page:
    """A page, and what of it changes.

    html: of its main part. charts: by the id of the element that holds each. going: whether
    something shown still runs. status: for screen readers, when it changes.
    """

    title: str
    html: str
    charts: dict[str, Any] = field(default_factory=dict)
    going: bool = False
    status: str = ""


@dataclass(frozen=True)
class _Row:
    """A run in the list; fraction: of its rounds, each component the same share."""

    run: Run
    fraction: float
    parties: list[str]
    quality: str
    seconds: float


class Pages:
    """The pages of the store of `directory`; root: of their addresses, ends with a slash."""

    def __init__(self, directory: Path, root: str) -> None:
        self._directory = directory.absolute()
        self._root = root
        self._settled: dict[tuple[Any, ...], _Row] = {}

    def runs(self, text: str = "", state: str = "", before: int | None = None) -> Page:
        """The list of runs, the last begun first.

        text: only those with it in their name, a party's or the folder's. state: only those.
        before: only earlier ones than this.
        """
        store = self._store
        found = [] if store is None else store.runs()
        wanted = [run for run in found if _fits(run, text.strip().lower(), state)]
        rest = [run for run in wanted if before is None or run.id < before]
        rows = [] if store is None else [self._row(store, run) for run in rest[:_LISTED]]
        going = [row.run for row in rows if row.run.state == "running"]
        html = self._render(
            "runs",
            directory=self._directory,
            any=bool(found),
            count=len(wanted),
            rows=rows,
            older=rest[_LISTED - 1].id if len(rest) > _LISTED else None,
            newer=before is not None,
            text=text,
            state=state,
        )
        status = f"{len(wanted)} runs, {len(going)} of them going on"
        return Page("Runs", html, going=bool(going), status=status)

    def run(self, number: int) -> Page:
        """One run. Raises `NotThere` if there is none of that number."""
        details = self._details(number)
        run, folder = details.run, self._folder(details.run)
        result, fault = _result(run, folder)
        states = [_state_of(component, run) for component in details.components]
        inputs = inputs_of(run.job, [component.name for component in details.components])
        shares = {party.party: _shares(party) for party in details.parties}
        charts = dict(_charts(details, result))
        if any(sum(share.values()) for share in shares.values()):
            charts["shares"] = shares_chart(shares)
        components = list(zip(details.components, states, strict=True))
        now = next((f", {c.name}" for c, state in components if state == "running"), "")
        html = self._render(
            "run",
            run=run,
            folder=folder,
            fraction=_fraction(details),
            seconds=_seconds(run),
            key_bits=_key_bits(run.job),
            components=components,
            graph=draw_graph(details.components, inputs, states),
            charts=charts,
            quality=[] if result is None else list(quality(result)),
            parties=[(party, shares[party.party], *_use(party)) for party in details.parties],
            operations=list(_operations(details.parties)),
            audit=None if result is None else result.get("audit"),
            artefacts=details.artefacts,
            fault=fault,
            report=run.party is None and result is not None,
            there=folder.is_dir(),
            resumable=run.party is None and (folder / "job.json").is_file(),
        )
        status = f"{run.name}: {run.state}{now}"
        return Page(f"{run.name}, run {number}", html, charts, run.state == "running", status)

    def report(self, number: int) -> str:
        """The self-contained page of a run. Raises `NotThere` where there is no result yet."""
        run = self._details(number).run
        result, fault = _result(run, self._folder(run))
        if result is None or run.party is not None:
            raise NotThere(
                f"run {number} has no report: {fault or 'it is of runs that ended well'}"
            )
        return page(result)

    @property
    def _store(self) -> Store | None:
        """The store; None while there is none."""
        return Store.open(self._directory) if (self._directory / FILE).exists() else None

    def _details(self, number: int) -> Details:
        store = self._store
        try:
            if store is not None:
                return store.run(number)
        except UnknownRun:
            pass
        raise NotThere(f"there is no run {number}")

    def _folder(self, run: Run) -> Path:
        return Store(self._directory).folder_of(run)

    def _row(self, store: Store, run: Run) -> _Row:
        """A run as one line; those that ended a while ago are looked at once."""
        key = (run.id, run.state, run.ended, run.pid)
        if key in self._settled:
            return self._settled[key]
        details = store.run(run.id)
        result, _ = _result(run, self._folder(run))
        parties = [party.party for party in details.parties] or run.parties
        row = _Row(run, _fraction(details), parties, _quality(details, result), _seconds(run))
        if run.ended is not None and time.time() - run.ended > _SETTLING:
            self._settled[key] = row
        return row

    def _render(self, template: str, **values: Any) -> str:
        content = environment("residue_federated").get_template(f"console/{template}.html.j2")
        words = {"root": self._root, "size": size, "moment": _moment, "lasting": _lasting}
        return content.render(words, **values)


def _fits(run: Run, text: str, state: str) -> bool:
    words = (run.name, run.party or "", run.folder, *run.parties)
    return state in ("", run.state) and any(text in word.lower() for word in words)


# --- numbers and words ----------------------------------------------------------------------------


def _moment(at: float) -> str:
    """A time of this machine's clock and zone."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


def _lasting(seconds: float) -> str:
    """``12.3 s``, ``4 min 05 s``, ``3 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left:02} min" if hours else f"{minutes} min {rest:02} s"


def _seconds(run: Run) -> float:
    """How long it has run, or ran."""
    return max(0.0, (run.ended or time.time()) - run.started)


def _fraction(details: Details) -> float:
    """How much is done, 0 to 1: each component counts the same."""
    done = [
        1.0 if c.state == "done" else min(1.0, c.rounds / c.total) if c.total else 0.0
        for c in details.components
    ]
    return 1.0 if details.run.state == "done" else sum(done) / max(1, len(done))


def _state_of(component: Component, run: Run) -> str:
    """A component's state; what was running in a run that ended shares its fate."""
    over = component.state == "running" and run.state != "running"
    return run.state if over else component.state


def _key_bits(job: Mapping[str, Any]) -> int | None:
    key = job.get("key")
    bits = key.get("bits") if isinstance(key, dict) else None
    return bits if isinstance(bits, int) else None


def _shares(party: Party) -> dict[str, float]:
    seconds = {what: getattr(party, what) for what in ("encryption", "waiting", "other")}
    return {what: value / (sum(seconds.values()) or 1.0) for what, value in seconds.items()}


def _use(party: Party) -> tuple[float | None, str]:
    """How busy its device was, 0 to 1, and of what that is the share."""
    busy = sum(row.get("busy_slots", 0) for row in party.operations)
    slots = sum(row.get("ring_slots", 0) for row in party.operations)
    if slots:
        return busy / slots, "of the card's ring slots"
    seconds = party.encryption + party.waiting + party.other
    return (party.encryption / seconds if seconds else None), "of the time"


def _operations(parties: Sequence[Party]) -> Iterator[dict[str, Any]]:
    """Rows as those of a result."""
    for party in parties:
        for row in party.operations:
            own = {"party": party.party, "device": party.device}
            yield {**own, **row, "ring_utilisation": utilisation(row)}


def _quality(details: Details, result: Mapping[str, Any] | None) -> str:
    """The metric that says most, or the last loss."""
    if result is not None:
        found = {row["metric"]: row["value"] for row in quality(result)}
        for metric in (*_SHOWN, *found):
            if metric in found:
                return f"{metric} {found[metric]:.4f}"
    losses = [round.loss for round in details.rounds if round.loss is not None]
    return f"loss {losses[-1]:.4f}" if losses else ""


def _charts(
    details: Details, result: Mapping[str, Any] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """How far each component was when, and the loss of those that tell one."""
    start = details.run.started
    progress: dict[str, list[tuple[float, float]]] = {}
    for number, component in enumerate(details.components):
        rounds = [r for r in details.rounds if r.component == component.name]
        told = _thin([r for r in rounds if r.loss is not None])
        if told:
            twin = (result or {}).get("plaintext_losses")
            losses = [r.loss for r in told if r.loss is not None]
            trained = result is not None and losses == result.get("losses")
            own = twin if trained else None
            yield (
                f"losses-{number}",
                loss_chart(component.name, [r.done for r in told], losses, own),
            )
        first = next(iter(rounds), None)
        if first is not None and component.total > 1:
            steps = _thin([r for r in rounds if r.party == first.party])
            progress[component.name] = [(r.at - start, 100 * r.done / r.total) for r in steps]
    if progress:
        yield "progress", progress_chart(progress)


def _thin(rounds: Sequence[Round]) -> list[Round]:
    """As many as a curve needs, the last among them."""
    step = -(-len(rounds) // _POINTS) or 1
    return [*rounds[-1:0:-step], *rounds[:1]][::-1]


# --- results --------------------------------------------------------------------------------------


def _result(run: Run, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What a run ended with, or a party's report; None where there is none, and what is wrong."""
    path = folder / ("report.json" if run.party else "result.json")
    try:
        facts = path.stat()
    except OSError:
        return None, ""
    return _read_result(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=256)
def _read_result(path: Path, changed: int, length: int) -> tuple[dict[str, Any] | None, str]:
    """Read it once; changed and length tell another file of the same name."""
    try:
        result = json.loads(path.read_bytes())
        for row in quality(result):
            float(row["value"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return None, f"{path.name} cannot be read ({type(error).__name__})"
    return result, ""
