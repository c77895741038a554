"""What a job will cost, from rehearsals of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from residue_federated._jobs import Job
from residue_federated.planning._costs import SETUP, Cost, Costs, Sending
from residue_federated.planning._rehearse import Rehearsal, Watch, rehearse
from residue_federated.planning._scale import grown, in_parts, timed
from residue_federated.planning._stage import Size, Stage, rounds_of
from residue_federated.planning._steps import declared

__all__ = ["ComponentPlan", "PartyPlan", "Plan", "SendPlan", "plan_job"]


@dataclass
class SendPlan:
    """Messages of one kind: who sends what to whom, how many, and how large together.

    step: as the component's protocol names it, rounds in braces.
    """

    sender: str
    receiver: str
    step: str
    kind: str
    messages: int
    bytes: int


@dataclass
class ComponentPlan:
    """One component, or what is around them all.

    inputs: components whose results it uses; none where it takes the parties' data. rounds: epochs
    or trees at most. The figures are for so many; `each_*` is what one of them adds.
    """

    name: str
    type: str
    inputs: list[str]
    rounds: int
    seconds: float
    messages: int
    bytes: int
    each_seconds: float
    each_messages: float
    each_bytes: float
    sends: list[SendPlan]


@dataclass
class PartyPlan:
    """One party. messages, bytes: that it sends.

    rehearsed_peak_rss_bytes: most memory in the largest rehearsal, which is no estimate for more
    rows. time_shares: as in ``result.json``, there.
    """

    role: str
    device: str
    rows: int | None
    columns: int | None
    made_up: bool
    messages: int
    bytes: int
    rehearsed_peak_rss_bytes: int
    time_shares: dict[str, float]


@dataclass
class Plan:
    """An estimate of what a job costs if all its parties run on this machine.

    seconds: of all: `start_seconds` until the first component, the components, and `end_seconds`
    after the last: the parties' end, the plaintext twin, the audit. around: the messages with which
    the parties begin and agree on what is finished. rehearsals: rows, rounds, seconds of each.
    notes: what the figures do not show.
    """

    job: str
    digest: str
    key_bits: int
    seconds: float
    messages: int
    bytes: int
    start_seconds: float
    end_seconds: float
    around: ComponentPlan
    components: list[ComponentPlan]
    parties: dict[str, PartyPlan]
    rehearsals: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    estimate: bool = True


def plan_job(
    job: Job,
    sizes: dict[str, Size] | None = None,
    *,
    within: float = 30.0,
    watch: Watch = lambda rows, job: lambda event: None,
) -> Plan:
    """Estimate what `job` costs, by rehearsals with fewer rows and rounds on this machine.

    Every party runs here, on the device that the job gives it, on rows that are here or made up.
    Nothing is sent to anybody, and nothing is left behind.

    Args:
        job: the job.
        sizes: of tables that are not here, by party.
        within: seconds that the rehearsals may take, about; at least two are run, or one with all
            rows.
        watch: told of the rehearsals and of their parties' events.

    Raises:
        JobError: a table is not here and its size is not given, or a rehearsal failed.
        DataError: a table that is here cannot be used.
    """
    stage = Stage(job, sizes or {})
    rehearsals = rehearse(job, stage, within=within, watch=watch)
    return _Planner(job, stage, rehearsals).plan()


class _Planner:
    def __init__(self, job: Job, stage: Stage, rehearsals: list[Rehearsal]) -> None:
        self._job, self._stage = job, stage
        self._rehearsals = rehearsals[-3:]
        self._costs = [rehearsal.costs for rehearsal in self._rehearsals]
        self._rows = [rehearsal.rows for rehearsal in self._rehearsals]
        self._all = rehearsals

    def plan(self) -> Plan:
        kinds = dict.fromkeys(sending for costs in self._costs for sending in costs.messages)
        sends = {sending: self._send(sending) for sending in kinds}
        around = self._component(SETUP, sends)
        components = [self._component(name, sends) for name in self._job.components]
        start = self._start() + around.seconds
        end = self._end()
        every = [around, *components]
        return Plan(
            job=self._job.name,
            digest=self._job.digest,
            key_bits=self._job.key.bits,
            seconds=start + sum(component.seconds for component in components) + end,
            messages=sum(component.messages for component in every),
            bytes=sum(component.bytes for component in every),
            start_seconds=start,
            end_seconds=end,
            around=around,
            components=components,
            parties={p.name: self._party(p.name, every) for p in self._job.parties},
            rehearsals=[
                {"rows": r.rows, "rounds": _most(r.job), "seconds": r.seconds} for r in self._all
            ],
            notes=self._notes(every),
        )

    def _component(self, name: str, sends: dict[Sending, SendPlan]) -> ComponentPlan:
        mine = {sending: send for sending, send in sends.items() if sending.component == name}
        config = self._job.components.get(name)
        return ComponentPlan(
            name=name,
            type="" if config is None else config.type,
            inputs=_inputs(self._job, name),
            rounds=1 if config is None else rounds_of(config.model_dump()),
            seconds=self._seconds(name),
            messages=sum(send.messages for send in mine.values()),
            bytes=sum(send.bytes for send in mine.values()),
            each_seconds=self._each(name, lambda costs: [costs.seconds[name]], timed),
            each_messages=self._each(name, lambda c: [c.messages[s] for s in mine], grown),
            each_bytes=self._each(name, lambda c: [c.bytes[s] for s in mine], grown),
            sends=list(mine.values()),
        )

    def _send(self, sending: Sending) -> SendPlan:
        name, step = sending.component, declared(self._job, sending)
        messages = self._scaled(name, lambda costs: costs.messages[sending], grown)
        volume = self._scaled(name, lambda costs: costs.bytes[sending], grown)
        if step.rows is not None:
            last = self._costs[-1]
            many = self._at_all_rounds(name, last, last.messages[sending])
            more = volume / max(1.0, self._at_all_rounds(name, last, last.bytes[sending]))
            messages = in_parts(many, self._rows[-1], step.rows, more)
        return SendPlan(
            sending.sender, sending.receiver, step.tag, sending.kind, round(messages), round(volume)
        )

    def _party(self, name: str, components: list[ComponentPlan]) -> PartyPlan:
        last = self._rehearsals[-1].result
        own = [send for c in components for send in c.sends if send.sender == name]
        return PartyPlan(
            role=self._job.role(name),
            device=last["parties"][name]["device_name"],
            rows=self._stage.rows.get(name),
            columns=self._stage.columns.get(name),
            made_up=name in self._stage.made_up,
            messages=sum(send.messages for send in own),
            bytes=sum(send.bytes for send in own),
            rehearsed_peak_rss_bytes=last["peak_rss_bytes"][name],
            time_shares=last["time_shares"][name],
        )

    def _start(self) -> float:
        """Seconds until the first party has started: its program, and the table it loads."""
        if self._rows[-1] == self._stage.most_rows:
            return self._rehearsals[-1].before
        return statistics.median(r.before for r in self._rehearsals) + self._stage.load_seconds

    def _end(self) -> float:
        """Seconds after the last party's end; the first time, libraries are loaded as well."""
        rest = self._rehearsals[1:] or self._rehearsals  # at least two, or one of all rows
        return timed([r.after for r in rest], [r.rows for r in rest], self._stage.most_rows)

    def _scaled(self, name: str, cost: Callable[[Costs], Cost], grow: Any) -> float:
        """A cost at all rounds and all rows."""
        amounts = [self._at_all_rounds(name, costs, cost(costs)) for costs in self._costs]
        return float(grow(amounts, self._rows, self._stage.most_rows))

    def _seconds(self, name: str) -> float:
        if name == SETUP and self._rows[-1] < self._stage.most_rows:
            return statistics.median(costs.seconds[SETUP].total for costs in self._costs)
        return self._scaled(name, lambda costs: costs.seconds[name], timed)

    def _each(self, name: str, costs_of: Callable[[Costs], Iterable[Cost]], grow: Any) -> float:
        """What a round adds, at all rows."""
        amounts = [sum((cost.each for cost in costs_of(costs)), 0.0) for costs in self._costs]
        return float(grow(amounts, self._rows, self._stage.most_rows))

    def _at_all_rounds(self, name: str, costs: Costs, cost: Cost) -> float:
        """In proportion where rounds cannot be told apart."""
        if name == SETUP:
            return cost.total
        wanted = rounds_of(self._job.components[name].model_dump())
        rehearsed = rounds_of(self._rehearsals[0].job.components[name].model_dump())
        if wanted <= rehearsed:
            return cost.total
        if name not in costs.rounds:
            return cost.total * wanted / rehearsed
        return cost.at(wanted - costs.rounds[name])

    def _notes(self, components: list[ComponentPlan]) -> list[str]:
        notes = [
            f"{name}'s table is made up: {self._stage.rows[name]:,} rows of "
            f"{self._stage.columns[name]} columns, with as many rows in common with the others as "
            "can be, and a label, if it has one, of two classes"
            for name in self._stage.made_up
        ]
        most = self._job.transport.max_message_mib * 2**20
        for component in components:
            for send in component.sends:
                size = send.bytes / max(1, send.messages)
                if size > most:
                    notes.append(
                        f"{component.name}: '{send.step}' from {send.sender} to {send.receiver} "
                        f"has about {size / 2**20:,.0f} MiB, more than the job's bound of "
                        f"{self._job.transport.max_message_mib:g}: raise transport.max_message_mib"
                    )
        return notes


def _most(job: Job) -> int:
    return max(rounds_of(component.model_dump()) for component in job.components.values())


def _inputs(job: Job, name: str) -> list[str]:
    """The component whose table it takes, and others that its configuration names."""
    if name not in job.components:
        return []
    values = job.components[name].model_dump(exclude={"type", "input"}).values()
    named = [value for value in values if isinstance(value, str) and value in job.components]
    before = job.input_of(name)
    return [*([] if before is None else [before]), *(n for n in named if n != before)]
