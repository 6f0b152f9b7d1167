"""Members of the consumer group: each says which worker it is, and all can be listed."""

from collections.abc import Iterable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import for_code

from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.errors import Where, answered
from pipeline_processing.messaging.kafka.lifecycle import running
from pipeline_processing.messaging.port import Member


def assignor_of(worker: str | None) -> type[RoundRobinPartitionAssignor]:
    """
    Return aiokafka's default assignor. It also tells the group the worker's name, as the user data of its subscription,
    which members of other versions ignore. A client id per worker would defeat the brokers' quotas.
    """

    class Named(RoundRobinPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
        @classmethod
        def metadata(cls, topics: Iterable[str]) -> Any:
            return ConsumerProtocolMemberMetadata(cls.version, list(topics), (worker or "").encode())

    return Named


async def members_of(group: str, topic: str, *, connection: Connection, seconds: float) -> list[Member]:
    """Return the group's members that read the topic. Raises KafkaUnavailable, AccessDenied or SettingsError."""
    client = AIOKafkaAdminClient(**connection.options(), request_timeout_ms=round(seconds * 1000))
    async with running(client, connection=connection):
        where = Where(connection.where.brokers, group=group)
        return await answered(_members(client, group, topic), where=where, seconds=seconds)


async def _members(client: Any, group: str, topic: str) -> list[Member]:
    (response,) = await client.describe_consumer_groups([group])
    (described,) = response.to_object()["groups"]
    if described["error_code"]:
        raise for_code(described["error_code"])
    if described["protocol_type"] not in ("", "consumer"):
        return []
    members = []
    for each in described["members"]:
        # Both are empty while the group rebalances.
        metadata, assignment = each["member_metadata"], each["member_assignment"]
        subscription = ConsumerProtocolMemberMetadata.decode(metadata) if metadata else None
        if subscription is not None and topic not in subscription.subscription:
            continue
        assigned = ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else []
        name = subscription.user_data if subscription is not None else None
        members.append(
            Member(
                worker=(name or b"").decode(errors="replace") or None,
                host=each["client_host"].removeprefix("/"),
                partitions=tuple(sorted(at.partition for at in assigned if at.topic == topic)),
            )
        )
    return members
