"""Store unusable requests as dead letters: in a topic or, if Kafka refuses them, in the history's database."""

from collections.abc import Sequence

from pipeline_processing import errors
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import (
    MessageRefused,
    MessageTooLarge,
    PipelineError,
    RequestError,
    TopicMissing,
    TransientError,
)
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.dead_letters import KeepsLetters, dead_letter, without_value
from pipeline_processing.messaging.port import Events, Outgoing, Record
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics

log = get_logger(__name__)

Refused = tuple[Outgoing, PipelineError]
"""A letter that Kafka refuses for good, and the reason."""

_REASONS = sorted(
    {each.kind for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)}
)


class DeadLetters:
    """Builds dead letters, and stores them in `topic` or, if Kafka refuses them for good, in `store`."""

    def __init__(
        self,
        *,
        events: Events,
        topic: str,
        store: KeepsLetters,
        clock: Clock,
        mask: Mask,
        metrics: Metrics | None = None,
    ) -> None:
        self._events = events
        self._topic = topic
        self._store = store
        self._clock = clock
        self._mask = mask
        self._letters = (metrics or Metrics()).letters
        for reason in _REASONS:
            self._letters.add(0, reason)

    def letter(self, record: Record, error: RequestError) -> Outgoing:
        """Build the dead letter of a request: the whole request and the reason."""
        log.warning(
            "a request can't be used; it becomes a dead letter",
            reason=error.kind,
            error=str(error),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        return dead_letter(record, error, topic=self._topic, now=self._clock.now(), mask=self._mask)

    async def send(self, letters: Sequence[Outgoing]) -> list[Refused]:
        """Send letters to Kafka. Return those it refuses for good. Raises KafkaUnavailable or TopicMissing."""
        refused = await self._send(letters)
        for letter in letters:  # only now: at a stop in an outage, their messages come again elsewhere
            self._letters.add(1, _header(letter, "dlq_reason"))
        return refused

    async def _send(self, letters: Sequence[Outgoing]) -> list[Refused]:
        try:
            try:
                await self._events.send(letters)
            except MessageRefused:
                alone = [(letter, await self._refusal(letter)) for letter in letters]
                return [(letter, error) for letter, error in alone if error is not None]
        except (TransientError, TopicMissing):
            raise
        except PipelineError as error:  # such as AccessDenied, which applies to all of them
            return [(letter, error) for letter in letters]
        return []

    async def keep(self, refused: Sequence[Refused]) -> None:
        """Store refused letters in the history's database. Raises HistoryUnavailable."""
        await self._store.keep([letter for letter, _ in refused])
        for letter, error in refused:
            names = ("reason", "topic", "partition", "offset")
            log.error(
                "Kafka refuses a dead letter; it is stored in the history's database instead",
                error=str(error),
                **{name: _header(letter, f"dlq_{name}") for name in names},
            )

    async def _refusal(self, letter: Outgoing) -> MessageRefused | None:
        """Send one letter, without its value if it is too large. Return why Kafka refuses it, None if it is stored."""
        try:
            await self._events.send([letter])
        except MessageTooLarge:
            pass
        except MessageRefused as error:
            return error
        else:
            return None
        try:
            await self._events.send([without_value(letter)])
        except MessageRefused as error:
            return error
        return None


def _header(letter: Outgoing, name: str) -> str:
    """Return the last header of this name: the request may have had one, too."""
    return (dict(letter.headers)[name] or b"").decode()
