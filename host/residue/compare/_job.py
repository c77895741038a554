"""A federated job, run as its users run it, and the share of its time that is encryption.

The job runs as ``residue fl run`` in processes of its own, profiled. The share is the part of its
training time in which at least one party is inside an operation on ciphertexts: only that part can
become shorter by a faster device, whatever the parties do at the same time.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from residue._child import ChildFailed, run_python
from residue._trace import PROFILE_VARIABLE
from residue.errors import CompareError, ResidueError
from residue.profile import Profile, covered, load

__all__ = ["OTHER", "WORKLOAD_OF", "JobRun", "run", "share_of"]

WORKLOAD_OF = {
    "pow_fixed": "encrypt-djn",
    "pow": "decrypt",
    "pow_moduli": "decrypt",
    "pow_var": "ct_x_pt-var",
    "multi_pow": "matmul",
    "multi_pow_var": "matmul",
    "mul": "add",
    "prod": "add",
    "inverse": "add",
}
"""Backend operation -> the workload whose speed-up it shares; others become no faster."""

OTHER = "other"
"""What stands in a job's mix for operations that become no faster."""


@dataclass(frozen=True)
class JobRun:
    """One run of the job.

    Attributes:
        device: of all parties.
        key_bits: size of n.
        epochs: trained.
        seconds_per_epoch: by the guest's clock.
        share: of the training time that is encryption.
        weights: workload -> its share of the parties' time in operations.
        losses: after each epoch; equal on all devices.
        parties: how many there were, all on this machine.
    """

    device: str
    key_bits: int
    epochs: int
    seconds_per_epoch: float
    share: float
    weights: dict[str, float]
    losses: list[float]
    parties: int


def run(device: str, key_bits: int, seconds: float) -> JobRun:
    """Run the job on a device.

    Raises:
        CompareError: it cannot be run here, failed, or took longer than `seconds`.
    """
    if not [entry for entry in entry_points(group="residue.cli") if entry.name == "fl"]:
        raise CompareError("no federated engine: pip install 'residue[federated]'")
    with tempfile.TemporaryDirectory(prefix="residue-compare-") as folder:
        events = Path(folder) / "events"
        events.mkdir()
        job = Path(folder) / "job.yaml"
        job.write_bytes(importlib.resources.files(__package__).joinpath("job.yaml").read_bytes())
        result = _call(
            ["fl", "run", str(job), "--json", "--plain", "--out", str(Path(folder) / "run"),
             "--device", device, "--key-bits", str(key_bits)],
            {**os.environ, PROFILE_VARIABLE: str(events)},
            seconds,
        )  # fmt: skip
        try:
            profile = load(events)
        except ResidueError as error:
            raise CompareError(f"the job left no profile: {error}") from error
        share, weights = share_of(profile)
    return JobRun(
        device=device,
        key_bits=key_bits,
        epochs=int(result["epochs"]),
        seconds_per_epoch=float(result["seconds_per_epoch"]),
        share=share,
        weights=weights,
        losses=[float(loss) for loss in result["losses"]],
        parties=len(result["parties"]),
    )


def share_of(profile: Profile) -> tuple[float, dict[str, float]]:
    """Share of the time from the first operation to the last in which one is running; its mix.

    Raises:
        CompareError: there are no operations.
    """
    operations = [o for device in profile.devices for o in device.operations]
    if not operations:
        raise CompareError("the job made no operation on ciphertexts")
    starts, ends = (np.array([getattr(o, e) for o in operations]) for e in ("start", "end"))
    span = float(ends.max() - starts.min())
    spent: defaultdict[str, float] = defaultdict(float)
    for o in operations:
        spent[WORKLOAD_OF.get(o.name, OTHER)] += o.end - o.start
    total = sum(spent.values())
    longest_first = sorted(spent, key=lambda name: -spent[name])
    return covered(starts, ends) / span, {name: spent[name] / total for name in longest_first}


def _call(arguments: list[str], environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """The JSON that a sub-command of residue prints."""
    try:
        output = run_python(["-m", "residue", *arguments], seconds, environment)
    except TimeoutError as error:
        raise CompareError(f"the job was not done in the {seconds:.0f} s left") from error
    except ChildFailed as error:
        raise CompareError(f"the job failed: {error}") from error
    found: dict[str, Any] = json.loads(output)
    return found
