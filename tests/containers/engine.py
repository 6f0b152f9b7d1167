"""The Docker engine: is there one, and is it here?"""

from __future__ import annotations

from urllib.parse import urlsplit

from docker.errors import DockerException
from testcontainers.core.docker_client import DockerClient

_INSTEAD = "Or drop `--servers=containers` (`SERVERS=containers`): the embedded servers need no engine."


class ContainerError(RuntimeError):
    """There's no engine, or a server in a container doesn't start. The message says what can be done about it."""


def find_engine() -> str:
    """Its name and version. Raises ContainerError when it can't be used."""
    try:
        client = DockerClient().client
        version: str = client.version()["Version"]
        address: str = client.api.base_url
        client.close()
    except DockerException as error:
        raise ContainerError(
            f"No Docker engine answers: {error}\n"
            "Start one (`systemctl start docker`, Docker Desktop, …), or set DOCKER_HOST to the socket of the one that "
            f"runs.\n{_INSTEAD}"
        ) from None
    if urlsplit(address).hostname not in ("localhost", "127.0.0.1"):
        raise ContainerError(
            f"The Docker engine at {address} isn't on this machine, and tests meet their servers on 127.0.0.1.\n"
            f"Set DOCKER_HOST to the socket of one that is.\n{_INSTEAD}"
        )
    return f"Docker {version}"
