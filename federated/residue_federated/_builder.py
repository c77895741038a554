"""Jobs from Python: the same as job files, with components that refer to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from residue_federated._checkpoint import write_atomically
from residue_federated._jobs import (
    FileData,
    GeneratedData,
    Job,
    Key,
    SklearnData,
    Transport,
    validated,
)
from residue_federated._schema import ComponentConfig
from residue_federated.errors import JobError

if TYPE_CHECKING:
    from residue_federated._trial import Event

__all__ = ["Component", "JobBuilder"]

Data = SklearnData | GeneratedData | FileData


@dataclass(frozen=True, eq=False)
class Component:
    """A component of a `JobBuilder`, for others to refer to."""

    name: str


@dataclass(eq=False)
class JobBuilder:
    """Puts a job together. `build` checks it as `load_job` checks a file, with the same errors;
    a setting of `residue_federated.components` that cannot be is a `pydantic.ValidationError`.

    >>> from residue_federated import JobBuilder, Key, SklearnData
    >>> from residue_federated.components import LinearConfig, StandardiseConfig
    >>> cancer = SklearnData(sklearn="breast_cancer")
    >>> builder = JobBuilder("breast-lr", key=Key(bits=2048))
    >>> builder.guest(data=cancer)
    >>> builder.host(data=cancer)
    >>> builder.arbiter()
    >>> scaled = builder.add("scale", StandardiseConfig(type="standardise"))
    >>> trained = builder.add(
    ...     "train", LinearConfig(type="logistic_regression", epochs=8), input=scaled
    ... )
    >>> job = builder.build()
    >>> list(job.components), job.input_of("train")
    (['scale', 'train'], 'scale')

    Args:
        name: of the job.
        key: its width, by default 2048 bits.
        transport: bounds and patience.
    """

    name: str
    key: Key = field(default_factory=Key)
    transport: Transport = field(default_factory=Transport)
    _guest: dict[str, Any] | None = field(default=None, init=False)
    _hosts: list[dict[str, Any]] = field(default_factory=list, init=False)
    _arbiter: dict[str, Any] | None = field(default=None, init=False)
    _components: dict[Component, dict[str, Any]] = field(default_factory=dict, init=False)

    def guest(
        self,
        name: str = "guest",
        *,
        data: Data,
        device: str = "auto",
        address: str | None = None,
    ) -> None:
        """The party with the label. Its file is relative to the working directory."""
        self._guest = _party(name, device, address, data)

    def host(
        self,
        name: str = "host",
        *,
        data: Data,
        device: str = "auto",
        address: str | None = None,
    ) -> None:
        """One more party with further columns, or rows."""
        self._hosts.append(_party(name, device, address, data))

    def arbiter(
        self, name: str = "arbiter", *, device: str = "auto", address: str | None = None
    ) -> None:
        """The party that holds the private key where a component needs one."""
        self._arbiter = _party(name, device, address, None)

    def add(
        self, name: str, config: ComponentConfig | Mapping[str, Any], **references: Component
    ) -> Component:
        """One more component, which runs after those before it.

        Args:
            name: of its tables, models and messages.
            config: its settings, of `residue_federated.components`, or a mapping as in a file.
            references: fields of `config` that name another component, as that component: ``input``
                for the one whose table it takes, by default the nearest that gives one.

        Raises:
            JobError: the name is taken, or a component is another job's.
        """
        if any(component.name == name for component in self._components):
            raise JobError(f"components.{name}: there is one of this name already")
        for field_name, other in references.items():
            if other not in self._components:
                raise JobError(f"components.{name}.{field_name}: '{other.name}' is of another job")
        settings = config.model_dump() if isinstance(config, ComponentConfig) else dict(config)
        settings |= {field_name: other.name for field_name, other in references.items()}
        component = Component(name)
        self._components[component] = settings
        return component

    def build(self) -> Job:
        """The job. Raises `JobError` with every fault found, as `load_job` does."""
        return validated(self._content(), "job")

    def to_yaml(self, path: Path) -> None:
        """Write a job file from which `load_job` makes the same job, without what is default."""
        job = self.build()
        content = job.model_dump(mode="json", exclude_defaults=True)
        for party, held in zip(
            (content["guest"], *content["hosts"]), (job.guest, *job.hosts), strict=True
        ):
            if isinstance(held.data, FileData):
                party["data"]["file"] = os.path.relpath(held.data.file, path.parent.resolve())
        text = yaml.safe_dump(content, sort_keys=False)
        write_atomically(path, lambda file: file.write(text.encode()))

    def run(
        self, out: Path | None = None, *, watch: Callable[[Event], None] = lambda event: None
    ) -> dict[str, Any]:
        """Run all parties on this machine; returns the content of ``result.json``.

        out: the run directory to make, by default ``runs/NAME-TIME``. See `run_job`.
        """
        from residue_federated._runs import run_job
        from residue_federated._trial import default_run_directory

        job = self.build()
        return run_job(job, out or default_run_directory(job), watch=watch)

    def _content(self) -> dict[str, Any]:
        parties = {"guest": self._guest, "hosts": self._hosts or None, "arbiter": self._arbiter}
        return {
            "name": self.name,
            **{role: held for role, held in parties.items() if held is not None},
            "key": self.key.model_dump(),
            "components": {c.name: settings for c, settings in self._components.items()},
            "transport": self.transport.model_dump(),
        }


def _party(name: str, device: str, address: str | None, data: Data | None) -> dict[str, Any]:
    """As in a job file, with the path of a data file from the root."""
    held = None if data is None else data.model_dump()
    if isinstance(data, FileData) and held is not None:
        held["file"] = data.file.resolve()
    return {"name": name, "device": device, "address": address, "data": held}
