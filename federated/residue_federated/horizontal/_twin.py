"""The plaintext twin: the same model trained on the rows of all parties joined.

It takes as many steps as each client does, of the same rate, each along the rows that all clients
see in one of theirs: ``batch_size`` times as many as there are clients. Without a batch size the
two are the same algorithm.

With privacy of records the twin cuts every row's gradient as they do, takes all rows, and adds no
noise. With privacy of clients it knows no clients: it cuts nothing.
"""

from __future__ import annotations

import numpy as np

from residue_federated._context import Twin
from residue_federated._data import Scaling, Table
from residue_federated._jobs import Job
from residue_federated.horizontal._config import HorizontalConfig
from residue_federated.horizontal._models import Network, class_labels, descend
from residue_federated.horizontal._private import cut_step, public_scaling

__all__ = ["twin"]


def twin(job: Job, config: HorizontalConfig, tables: dict[str, Table]) -> Twin:
    """Train on all parties' tables joined."""
    clients = [job.guest.name, *(host.name for host in job.hosts)]
    x = np.concatenate([tables[client].x for client in clients])
    y = np.concatenate([class_labels(c, tables[c].y, config.classes) for c in clients])
    if config.privacy is not None:
        scaling = public_scaling(config.privacy, job.guest.name, tables[clients[0]].columns)
        x = x if scaling is None else scaling.apply(x)
    if config.standardise:
        x = Scaling.of_moments(x.mean(axis=0), x.var(axis=0)).apply(x)
    if config.batch_size is not None:
        config = config.model_copy(update={"batch_size": config.batch_size * len(clients)})
    network = Network.of(config, x.shape[1])
    parameters, losses = network.initial(config.seed), []
    for number in range(config.rounds):
        losses.append(network.evaluate(parameters, x, y, config.l2)[0])
        order = np.random.default_rng([config.seed, number, len(clients)])
        if config.privacy is not None and config.privacy.unit == "record":
            parameters = cut_step(network, config, parameters, x, y)
        else:
            parameters = descend(network, parameters, x, y, config, order)
    loss, right = network.evaluate(parameters, x, y, config.l2)
    return Twin(losses, {"accuracy": right / len(x), "loss": loss})
