"""Sending to topics that somebody may delete meanwhile."""

from collections.abc import Sequence

from pipeline_processing.errors import KafkaUnavailable, PipelineError, TopicMissing
from pipeline_processing.messaging.port import Events, Outgoing, Topics


class LastingEvents:
    """
    `Events` of a long-running process. A topic that is missing is an outage: it is created if this service may create
    topics, and until it is there, `send` raises KafkaUnavailable.
    """

    def __init__(self, events: Events, *, topics: Topics) -> None:
        self._events = events
        self._topics = topics

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Events`."""
        try:
            await self._events.send(messages)
        except TopicMissing as missing:
            try:
                await self._topics.ensure()
            except PipelineError as error:  # it may not be created, or not so
                raise KafkaUnavailable(str(error)) from error
            raise KafkaUnavailable(str(missing)) from missing
