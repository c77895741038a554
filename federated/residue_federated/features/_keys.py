"""The key pair of a component whose guest decrypts."""

from __future__ import annotations

import warnings

import residue
from residue.errors import InsecureKeyWarning
from residue_federated._context import Context

__all__ = ["guest_key"]


def guest_key(context: Context) -> tuple[residue.PublicKey, residue.PrivateKey]:
    """A fresh pair of the job's width, the public half sent to every host."""
    key = context.job.key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)  # the command line has said so
        public, secret = residue.keygen(
            key.bits, insecure_allow_1024=key.insecure_allow_1024, device=context.backend
        )
    for host in context.hosts:
        context.line.send_key(host, public)
    return public, secret
