"""Send to topics that may be deleted while the process runs."""

from collections.abc import Sequence

from pipeline_processing.errors import KafkaUnavailable, PipelineError, TopicMissing
from pipeline_processing.messaging.port import Events, Outgoing, Topics


class LastingEvents:
    """
    `Events` for a long-running process, to which a missing topic is an outage. It is created if this service may create
    topics; until it exists, `send` raises KafkaUnavailable.
    """

    def __init__(self, events: Events, *, topics: Topics) -> None:
        self._events = events
        self._topics = topics

    async def send(self, messages: Sequence[Outgoing]) -> None:
        try:
            await self._events.send(messages)
        except TopicMissing as missing:
            try:
                await self._topics.ensure()
            except PipelineError as error:  # this service may not create it, or the brokers refuse to
                raise KafkaUnavailable(str(error)) from error
            raise KafkaUnavailable(str(missing)) from missing
