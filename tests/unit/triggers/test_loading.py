"""The triggers file: what is read from it, and how its faults are told."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import InvalidTriggers
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.triggers.config import EventTrigger, FromEvent, ScheduleTrigger, Triggers
from pipeline_processing.triggers.loading import load_triggers

OF_THE_CONTRACT = """\
triggers:
  - {topic: agencies.events, match: {type: agency.updated}, agency_id: data.agency_id, datasets: [records],
     debounce: {quiet_for: 10s, at_latest_after: 5m}}
"""


def job_config(query: str = "SELECT * FROM r WHERE agency_id = $1", **more: Any) -> AgencyJobConfig:
    names = more.pop("args", ["agency_id"])
    dataset = {"name": "records", "source": {"postgres": {"query": query, "args": names}}}
    return AgencyJobConfig.model_validate({"datasets": [dataset | more.pop("dataset", {})], **more})


SINCE = {"query": "SELECT * FROM r WHERE agency_id = $1 AND at >= $2", "args": ["agency_id", "since"]}
REGION = {"query": "SELECT * FROM r WHERE agency_id = $1 AND region = $2", "args": ["agency_id", "region"]}


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path / "triggers.yaml"

    def load(self, text: str, config: AgencyJobConfig | None = None) -> Triggers:
        self.path.write_text(text, "utf-8")
        return load_triggers(self.path, job_config=config, kafka=KafkaSettings())

    def faults(self, text: str, config: AgencyJobConfig | None = None) -> list[str]:
        with pytest.raises(InvalidTriggers) as raised:
            self.load(text, config)
        first, *lines = str(raised.value).splitlines()
        assert first == f"The triggers file {self.path} isn't valid:"
        return [line.removeprefix("  triggers.yaml:") for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def only(triggers: Triggers) -> EventTrigger:
    (trigger,) = triggers.triggers
    assert isinstance(trigger, EventTrigger)
    return trigger


def test_the_contracts_example_is_read_as_it_is(folder: Folder) -> None:
    """Also with the contract's job config, whose query doesn't use `since`."""
    for config in (None, job_config()):
        trigger = only(folder.load(OF_THE_CONTRACT, config))
        assert trigger.name == "agencies.events-agency.updated"
        assert trigger.match.type == ("agency.updated",)
        assert trigger.agency_id == "data.agency_id"
        assert trigger.datasets == ("records",)
        assert trigger.debounce is not None
        assert trigger.debounce.quiet_for == timedelta(seconds=10)
        assert trigger.debounce.latest == timedelta(minutes=5)
        assert trigger.requester == "trigger:agencies.events-agency.updated"
        assert trigger.since is None


def test_every_key_is_read(folder: Folder) -> None:
    """Of a trigger by events, and of one by the clock."""
    triggers = folder.load(
        """
        triggers:
          - name: billing
            topic: billing.events
            match: {type: [invoice.paid, invoice.sent], body: {status: final, amount.currency: [CHF, EUR]}}
            agency_id: subject
            params: {region: {from: data.region, default: null}, kind: full, no: NO}
            datasets: [records]
            format: csv
            labels: {team: billing}
            priority: 5
            since: event_time
            requested_by: billing
            debounce: {quiet_for: 10s, at_most_every: 1h}
          - schedule: {cron: "0 3 * * *", time_zone: Europe/Zurich, agencies: [1, 2, 3]}
          - schedule: {cron: "*/5 * * * *", agencies: {query: SELECT id FROM agencies}, catch_up: 2m}
            params: {kind: full}
        """
    )
    event, nightly, often = triggers.triggers
    assert isinstance(event, EventTrigger)
    assert isinstance(nightly, ScheduleTrigger)
    assert event.match.body == {"status": ("final",), "amount.currency": ("CHF", "EUR")}
    region = event.params["region"]
    assert isinstance(region, FromEvent)
    assert not region.required
    assert (event.params["kind"], event.params["no"]) == ("full", "NO")
    assert event.debounce is not None
    assert event.debounce.latest == timedelta(seconds=100)
    assert (event.since, event.requester, event.labels) == ("event_time", "billing", {"team": "billing"})
    assert nightly.schedule.agencies == (1, 2, 3)
    assert (nightly.name, often.name) == ("schedule-0-3-any-any-any", "schedule-any-5-any-any-any-any")
    assert triggers.topics == ("billing.events",)
    assert triggers.schedules == (nightly, often)


def test_all_faults_are_told_with_their_places(folder: Folder) -> None:
    """Of every trigger, whatever else is wrong with it, in the order of the file."""
    faults = folder.faults(
        """\
triggerz: 3
triggers:
  - topic: agency-jobs.progress
    match: {type: [], body: {"a..b": 1, day: 2026-01-01}}
    agency_id: data.a b
    datasets: [records, reports]
    debounce: {quiet_for: 10 s, at_latest_after: 5m, foo: 1}
    params: {region: {from: data.region, defaults: 1}, since: 3}
  - topic: x
    schedule: {cron: "0 3 * *", agencies: [1]}
  - schedule: {cron: "0 3 30 2 *", time_zone: Europe, agencies: [0], catch_up: 1s}
    debounce: {quiet_for: 3s}
  - {topic: a b, agency_id: key, debounce: {at_latest_after: 3s}}
  - {topic: ok, agency_id: key, debounce: {quiet_for: 30s, at_latest_after: 3s}}
  - {}
  - 7
""",
        job_config(),
    )
    starts = [
        "1:1 triggerz: unknown key",
        "3:12 triggers[0].topic: 'agency-jobs.progress' is this service's own topic of progress",
        "4:19 triggers[0].match.type: must have at least one",
        "4:30 triggers[0].match.body.a..b: 'a..b' isn't a path",
        "4:46 triggers[0].match.body.day: must be text, a number, true, false or null; write a date or time in quotes",
        "5:16 triggers[0].agency_id: 'data.a b' isn't a path into an event",
        "6:25 triggers[0].datasets[1]: the job config has no dataset 'reports'; it has records",
        "7:27 triggers[0].debounce.quiet_for: '10 s' isn't a duration",
        "7:54 triggers[0].debounce.foo: unknown key",
        "8:42 triggers[0].params.region.defaults: unknown key",
        "8:56 triggers[0].params.since: since is built in",
        "9:5 triggers[1]: needs `agency_id`",
        "10:5 triggers[1].schedule: a trigger has either `topic` or `schedule`",
        "11:22 triggers[2].schedule.cron: '0 3 30 2 *' isn't a cron expression: bad day-of-month",
        "11:47 triggers[2].schedule.time_zone: 'Europe' isn't a time zone",
        "11:66 triggers[2].schedule.agencies[0]: must be at least 1",
        "11:80 triggers[2].schedule.catch_up: must be between 1m and 7d",
        "12:5 triggers[2].debounce: is for triggers with a `topic` only",
        "13:13 triggers[3].topic: isn't a topic",
        "13:44 triggers[3].debounce: needs `quiet_for` or `at_most_every`",
        "13:62 triggers[3].debounce.at_latest_after: needs `quiet_for` as well",
        "14:77 triggers[4].debounce.at_latest_after: must be at least `quiet_for`, 30s",
        "15:5 triggers[5]: needs `agency_id`",
        "15:5 triggers[5]: needs `topic` or `schedule`",
        "16:5 triggers[6]: must be a mapping",
    ]
    assert [(fault[: len(start)]) for fault, start in zip(faults, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("trigger", "fault"),
    [
        ("{topic: t, agency_id: data.agency, name: Big}", "name: must be at most 64 lower-case letters"),
        ("{topic: t, agency_id: agency_id}", "agency_id: 'agency_id' isn't a path into an event"),
        ("{topic: t, agency_id: key, datasets: [a, a]}", "datasets: names a dataset twice"),
        ("{topic: t, agency_id: key, since: yesterday}", "since: must be auto or event_time"),
        ("{topic: t, agency_id: key, params: {a: .inf}}", "params.a: "),
        ("{topic: t, agency_id: key, params: {a: 99999999999999999999}}", "params.a: a has more than 64 bits"),
        ("{topic: t, agency_id: key, params: {a: [1]}}", "params.a: must be text, a number, true, false or null"),
        ("{topic: t, agency_id: key, debounce: {quiet_for: 0s}}", "debounce.quiet_for: must be more than 0s"),
        (
            "{topic: t, agency_id: key, debounce: {quiet_for: 99999d}}",
            "debounce.quiet_for: must be more than 0s and at",
        ),
        ("{topic: t, agency_id: key, priority: '5'}", "priority: must be a whole number"),
        ("{schedule: {cron: '0 0 * * *', agencies: [true]}}", "schedule.agencies[0]: must be a whole number"),
        ("{topic: t, agency_id: key, debounce: {}}", "debounce: needs `quiet_for` or `at_most_every`"),
        ("{topic: t, agency_id: key, match: {type: [a, 7]}}", "match.type[1]: must be text"),
        ("{topic: t, agency_id: key, match: []}", "match: must be a mapping"),
        ("{topic: t, agency_id: key, match: {type: 5}}", "match.type: must be text, or a list of texts"),
        ("{topic: t, agency_id: key, datasets: payments}", "datasets: must be a list"),
        ("{schedule: {cron: '0 0 * * *', agencies: 5}}", "schedule.agencies: must be a list"),
        ("{schedule: {cron: '@daily', agencies: [1]}}", "schedule.cron: '@daily' isn't a cron expression"),
        ("{schedule: {cron: '61 * * * *', agencies: [1]}}", "schedule.cron: '61 * * * *' isn't a cron expression: bad"),
        ("{schedule: {cron: '0 0 * * *', agencies: []}}", "schedule.agencies: must have at least one"),
        ("{schedule: {cron: '0 0 * * *', agencies: [1, 1]}}", "schedule.agencies: agency 1 is listed twice"),
        ("{schedule: {cron: '0 0 * * *', agencies: {query: ''}}}", "schedule.agencies.query: "),
        ("{schedule: {cron: '0 0 * * *', time_zone: ../UTC, agencies: [1]}}", "schedule.time_zone: '../UTC' isn't a"),
        ("{schedule: {cron: '0 0 * * *', agencies: [1]}, params: {a: {from: key}}}", "params.a: must be text"),
        (f"{{topic: {'t' * 80}, agency_id: key}}", " needs a `name`: none can be made of its topic and types"),
    ],
)
def test_one_fault_is_told_at_its_key(folder: Folder, trigger: str, fault: str) -> None:
    """With the path of the key in the file."""
    (told,) = folder.faults(f"triggers:\n  - {trigger}\n")
    assert re.split(r"triggers\[\w+\]", told, maxsplit=1)[1].lstrip(".:").startswith(fault.lstrip(":"))


def test_no_trigger_is_taken_twice(folder: Folder) -> None:
    """Neither an equal one, nor one that would have an equal name."""
    assert folder.faults(
        "triggers:\n"
        "  - {topic: same, agency_id: key}\n"
        "  - {topic: same, agency_id: key, name: other}\n"
        "  - {topic: same, agency_id: subject}\n"
        "  - {topic: else, agency_id: key, name: same}\n"
    ) == [
        "3:5 triggers[1]: is the same as triggers[0]: leave one of them out",
        "4:5 triggers[2]: has the same name as triggers[0], 'same': give it another `name`",
        "5:41 triggers[3].name: has the same name as triggers[0], 'same': give it another `name`",
    ]


@pytest.mark.parametrize(
    "topic",
    [
        *(f"agency-jobs.{name}" for name in ("requests", "completions", "dead-letters")),
        "agency-data-job-triggers-entries",
    ],
)
def test_a_topic_of_the_service_is_refused(folder: Folder, topic: str) -> None:
    """Runs would trigger runs."""
    (fault,) = folder.faults(f"triggers:\n  - {{topic: {topic}, agency_id: key}}\n")
    assert "each run would trigger another, without end" in fault


@pytest.mark.parametrize(
    ("trigger", "config", "fault"),
    [
        ("since: event_time", job_config(), "3:13 triggers[0].since: `since` is not used by records"),
        ("params: {region: eu}", job_config(), "3:15 triggers[0].params.region: is not used by records"),
        (
            "params: {zone: eu}",
            job_config(**REGION, params={"region": {"type": "text", "default": ""}}),
            "3:15 triggers[0].params.zone: isn't declared. The job config declares region (text)",
        ),
        (
            "params: {region: 7}",
            job_config(**REGION, params={"region": {"type": "text"}}),
            "3:23 triggers[0].params.region: must be text",
        ),
        (
            "params: {region: {from: key, default: 7}}",
            job_config(**REGION, params={"region": {"type": "text"}}),
            "3:23 triggers[0].params.region: must be text",
        ),
        (
            "priority: 1",
            job_config(**REGION, params={"region": {"type": "text"}}),
            "2:5 triggers[0]: the job config requires region (text, required): add it",
        ),
    ],
)
def test_a_trigger_must_fit_the_job_config(folder: Folder, trigger: str, config: AgencyJobConfig, fault: str) -> None:
    """Its requests would become dead letters."""
    (told,) = folder.faults(f"triggers:\n  - {{topic: t, agency_id: key,\n     {trigger}}}\n", config)
    assert told.startswith(fault)


@pytest.mark.parametrize(
    ("written", "config", "since"),
    [
        ("", None, None),
        ("", job_config(), None),
        ("", job_config(**SINCE), "event_time"),
        ("", job_config(**SINCE, dataset={"since": "last_success"}), None),
        (", since: null", job_config(**SINCE), None),
        (", since: event_time", job_config(**SINCE, dataset={"since": "last_success"}), "event_time"),
        (", since: event_time", None, "event_time"),
    ],
)
def test_since_follows_the_datasets_unless_it_is_written(
    folder: Folder, written: str, config: AgencyJobConfig | None, since: str | None
) -> None:
    """Only datasets that use `since`, and don't know better themselves, get the event's time."""
    assert only(folder.load(f"triggers:\n  - {{topic: t, agency_id: key{written}}}\n", config)).since == since


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"triggers: [", "triggers.yaml:1:12 a value is missing"),
        (b"triggers: []\ntriggers: []\n", "triggers.yaml:2:1 the key 'triggers' is written twice"),
        (b"\xff", "isn't UTF-8"),
        (b"", "must be a mapping with `triggers`, a list"),
        (b"- topic: t", "must be a mapping with `triggers`, a list"),
        (b"triggers: {}", "1:11 triggers: "),
        (b"triggers: []", "1:11 triggers: must have at least one"),
        (b"{}", "1:1 needs `triggers`"),
        (b"triggers: &a [*a]", "triggers[0]: "),
        (b"[" * 500, "triggers.yaml it is nested too deeply"),
    ],
)
def test_a_file_that_holds_no_triggers_is_told_so(folder: Folder, content: bytes, message: str) -> None:
    """With the file's name, and the remedy where there is one."""
    folder.path.write_bytes(content)
    with pytest.raises(InvalidTriggers) as raised:
        load_triggers(folder.path, job_config=None, kafka=KafkaSettings())
    assert message in str(raised.value)
    assert str(folder.path) in str(raised.value)


def test_a_missing_file_is_told(folder: Folder) -> None:
    """With the setting that names it."""
    with pytest.raises(InvalidTriggers, match=r"No such file or directory.*PIPELINE_TRIGGERS_FILE"):
        load_triggers(folder.path, job_config=None, kafka=KafkaSettings())


def test_a_thousand_faults_make_a_message_of_a_hundred(folder: Folder) -> None:
    """Messages are for people."""
    faults = folder.faults(json.dumps({"triggers": [{"topic": "t"}] * 1000}))
    assert len(faults) == 101
    assert faults[-1] == "  and 900 more"
