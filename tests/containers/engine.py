"""Checks that there is a Docker engine on this machine."""

from __future__ import annotations

from urllib.parse import urlsplit

from docker.errors import DockerException
from testcontainers.core.docker_client import DockerClient

_INSTEAD = "Or drop `--servers=containers` (`SERVERS=containers`): the embedded servers need no engine."


class ContainerError(RuntimeError):
    """There's no engine, or a server in a container doesn't start. The message has the remedy."""


def find_engine() -> str:
    """Return the engine's name and version. Raises ContainerError if it can't be used."""
    try:
        client = DockerClient().client
        version: str = client.version()["Version"]
        address: str = client.api.base_url
        client.close()
    except DockerException as error:
        raise ContainerError(
            f"No Docker engine answers: {error}\n"
            "Start one (`systemctl start docker`, Docker Desktop, …), or set DOCKER_HOST to the socket of a running "
            f"one.\n{_INSTEAD}"
        ) from None
    if urlsplit(address).hostname not in ("localhost", "127.0.0.1"):
        raise ContainerError(
            f"The Docker engine at {address} isn't on this machine, but tests use servers on 127.0.0.1.\n"
            f"Set DOCKER_HOST to the socket of a local one.\n{_INSTEAD}"
        )
    return f"Docker {version}"
