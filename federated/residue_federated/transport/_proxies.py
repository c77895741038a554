"""Which HTTP proxy a connection to a peer goes through, and how to open one through it.

A party's own `proxy` comes first: ``http://host:port``, or ``direct`` for none. Without it the
environment decides, as it does for gRPC itself: ``grpc_proxy``, ``https_proxy`` or ``http_proxy``,
except for hosts that ``no_grpc_proxy`` or ``no_proxy`` names. Nothing on this machine is ever asked
for through the environment's proxy.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
from base64 import b64encode
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from residue_federated.errors import TransportError

__all__ = ["DIRECT", "connect", "proxy_for"]

DIRECT = "direct"
_NAMING = ("grpc_proxy", "https_proxy", "http_proxy")
_SPARING = ("no_grpc_proxy", "no_proxy")


def proxy_for(address: str, chosen: str | None) -> str | None:
    """The proxy to ``host:port``, as a URL; None for none.

    Raises `TransportError` if what was chosen, or the environment names, is no HTTP proxy.
    """
    if chosen is not None:
        if chosen != DIRECT and not _is_proxy(chosen):
            raise TransportError(f"the proxy '{chosen}' is no http://host:port")
        return None if chosen == DIRECT else chosen
    host = address.rpartition(":")[0].strip("[]")
    name = next((name for name in _NAMING if os.environ.get(name)), None)
    spared = next((os.environ[name] for name in _SPARING if os.environ.get(name)), "")
    if name is None or _is_local(host) or proxy_bypass_environment(host, {"no": spared}):
        return None
    if not _is_proxy(os.environ[name]):
        raise TransportError(f"the environment's {name} is no http://host:port")
    return os.environ[name]


def connect(address: str, proxy: str | None, timeout: float) -> socket.socket:
    """A TCP connection to ``host:port``, through a proxy or directly. Raises `OSError`."""
    try:
        return _connected(address, proxy, timeout)
    except UnicodeError as error:  # of a name with empty or too long parts
        raise OSError(f"{address} is no host:port") from error


def _connected(address: str, proxy: str | None, timeout: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    if proxy is None:
        return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
    at = urlsplit(proxy)
    assert at.hostname is not None
    connection = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=timeout)
    headers = {}
    if at.username is not None:
        login = f"{unquote(at.username)}:{unquote(at.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    connection.set_tunnel(host.strip("[]"), int(port), headers)
    try:
        connection.connect()
    except http.client.HTTPException as error:
        raise OSError("the proxy gave no sensible answer") from error
    plain: socket.socket = connection.sock
    return plain


def _is_proxy(url: str) -> bool:
    try:
        found = urlsplit(url)
        return found.scheme == "http" and bool(found.hostname) and found.port != 0
    except ValueError:  # the port is no number, or too large
        return False


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
