"""The images of the servers."""

from __future__ import annotations

from collections.abc import Mapping

IMAGES: Mapping[str, str] = {
    "POSTGRES_IMAGE": "postgres:18",
    "KAFKA_IMAGE": "apache/kafka:4.4.0",
    "SEAWEEDFS_IMAGE": "chrislusf/seaweedfs:4.48",
}
"""Environment variable → default image. The same variables as in docker-compose.yml."""


def image(variable: str, environment: Mapping[str, str]) -> str:
    return environment.get(variable) or IMAGES[variable]
