"""Faults of triggers that their schema can't tell: against the job config, the service's topics, and each other."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.request_values import described
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.model import JobRequest
from pipeline_processing.options.config_file import Fault
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.triggers.config import EventTrigger, FromEvent, Trigger
from pipeline_processing.triggers.values import check_name


def faults_between(triggers: Sequence[tuple[int, Trigger]]) -> Iterator[Fault]:
    """Yield faults of named triggers, with their places in the list: triggers that are equal, or have equal names."""
    by_name: dict[str, int] = {}
    unnamed: dict[str, int] = {}
    for at, trigger in triggers:
        content = trigger.model_dump_json(exclude={"name", "requested_by", "labels"})
        if content in unnamed:
            yield Fault(("triggers", at), f"is the same as triggers[{unnamed[content]}]: leave one of them out")
        elif trigger.name in by_name:
            yield Fault(
                ("triggers", at, "name"),
                f"has the same name as triggers[{by_name[trigger.name]}], {trigger.name!r}: give it another `name`",
            )
        unnamed.setdefault(content, at)
        by_name.setdefault(trigger.name, at)


def faults_of_trigger(trigger: Trigger, *, job_config: AgencyJobConfig | None, kafka: KafkaSettings) -> Iterator[Fault]:
    """Yield a named trigger's faults, with locations in the trigger."""
    try:
        check_name(trigger.name)
    except ValueError:
        yield Fault((), "needs a `name`: none can be made of its topic and types")
    if isinstance(trigger, EventTrigger):
        yield from _faults_of_topic(trigger.topic, kafka)
    elif isinstance(trigger.schedule.agencies, tuple):
        agency_key = AgencyKey.INTEGER if job_config is None else job_config.agency_key
        for at, agency in enumerate(trigger.schedule.agencies):
            if fault := agency_key.fault(agency):
                yield Fault(("schedule", "agencies", at), fault)
    yield from _faults_of_literals(trigger)
    if job_config is not None:
        yield from _faults_of_datasets(trigger, job_config)


def _faults_of_topic(topic: str, kafka: KafkaSettings) -> Iterator[Fault]:
    own = {
        kafka.requests_topic: "requests",
        kafka.completions_topic: "completions",
        kafka.progress_topic: "progress",
        kafka.dead_letters_topic: "dead letters",
    }
    content = own.get(topic) or ("windows" if topic.startswith(f"{kafka.group_id}-triggers-") else None)
    if content is not None:
        yield Fault(
            ("topic",),
            f"{topic!r} is this service's own topic of {content}: each run would trigger another, without end. "
            "Name a topic of an upstream service",
        )


def _literals(trigger: Trigger) -> Mapping[str, object]:
    return {name: value for name, value in trigger.params.items() if not isinstance(value, FromEvent)}


def _faults_of_literals(trigger: Trigger) -> Iterator[Fault]:
    for name, value in _literals(trigger).items():
        try:
            JobRequest.model_validate({"agency_id": 1, "params": {name: value}})
        except ValidationError as error:
            yield Fault(("params", name), error.errors()[0]["msg"].removeprefix("Value error, "))


def _faults_of_datasets(trigger: Trigger, config: AgencyJobConfig) -> Iterator[Fault]:
    available = {dataset.name: dataset for dataset in config.datasets}
    wanted = tuple(available) if trigger.datasets is None else trigger.datasets
    unknown = [name for name in wanted if name not in available]
    for at, name in enumerate(wanted):
        if name in unknown:
            yield Fault(("datasets", at), f"the job config has no dataset {name!r}; it has {', '.join(available)}")
    datasets = [available[name] for name in wanted if name in available]
    if not unknown:
        yield from _faults_of_values(trigger, datasets, config)


def _faults_of_values(trigger: Trigger, datasets: Sequence[DatasetConfig], config: AgencyJobConfig) -> Iterator[Fault]:
    def used(name: str) -> bool:
        return any(name in dataset.uses for dataset in datasets)

    unused = f"is not used by {', '.join(dataset.name for dataset in datasets)}"
    if isinstance(trigger, EventTrigger) and trigger.since == "event_time" and not used("since"):
        yield Fault(("since",), f"`since` {unused}: leave it out, or write null")
    for name, value in trigger.params.items():
        if config.params is not None and name not in config.params:
            yield Fault(
                ("params", name), f"isn't declared. The job config declares {described(config.params)}", at_key=True
            )
        elif not used(name):
            yield Fault(("params", name), unused, at_key=True)
        elif config.params is not None:
            literal = value.default if isinstance(value, FromEvent) else value
            try:
                config.params[name].value_of(literal)
            except ValueError as error:
                yield Fault(("params", name), str(error))
    for name, param in (config.params or {}).items():
        if param.required and used(name) and name not in trigger.params:
            yield Fault(("params",), f"the job config requires {name} ({param}): add it")
