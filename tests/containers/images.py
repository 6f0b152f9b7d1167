"""Which images the servers are made of."""

from __future__ import annotations

from collections.abc import Mapping

IMAGES: Mapping[str, str] = {
    "POSTGRES_IMAGE": "postgres:18",
    "KAFKA_IMAGE": "apache/kafka:4.4.0",
    "SEAWEEDFS_IMAGE": "chrislusf/seaweedfs:4.48",
}
"""Variable of the environment → default: those of docker-compose.yml, so that one setting serves both."""


def image(variable: str, environment: Mapping[str, str]) -> str:
    return environment.get(variable) or IMAGES[variable]
