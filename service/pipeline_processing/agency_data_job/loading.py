"""Reads a job config, and finds all of its faults at once, each with its place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_processing.agency_data_job.checking import KEEP_COLUMNS, faults_of_meaning
from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig
from pipeline_processing.options.config_file import FOLDER, ConfigFile, Fault, Location, UnusableFile

_ANY_SOURCE = {"postgres": {"query": "SELECT * FROM records WHERE agency_id = $1", "args": ["agency_id"]}}
_ANY_STEP = {"filter": "true"}
_INDEPENDENT = ("shared", "format", "expect", "object_key")
"""Keys of a dataset that can be checked without the others."""


def load_job_config(path: Path) -> AgencyJobConfig:
    """
    Read a job config.

    Raises InvalidJobConfig if the file can't be read, isn't YAML, or breaks the schema. The message then lists every
    fault, also those of `faults_of_meaning` in the parts that are valid.
    """
    file = read_job_config_file(path)
    if not isinstance(file.document.value, dict):
        raise InvalidJobConfig(f"The job config {path} must be a mapping with `job` and `datasets`.")
    try:
        return AgencyJobConfig.model_validate(file.document.value, context={FOLDER: path.parent})
    except ValidationError as error:
        faults = file.faults(error, AgencyJobConfig)
        faults += _further_faults(file.document.value, [fault.location for fault in faults], folder=path.parent)
        raise InvalidJobConfig(f"The job config {path} isn't valid:\n" + "\n".join(file.lines(faults))) from None


def read_job_config_file(path: Path) -> ConfigFile:
    """Parse the file. Raises InvalidJobConfig."""
    try:
        return ConfigFile.read(
            path, what="job config", remedy="Name an existing file with --config or PIPELINE_JOB_CONFIG_FILE."
        )
    except UnusableFile as error:
        raise InvalidJobConfig(str(error)) from None


def _further_faults(document: Mapping[str, Any], faulty: Sequence[Location], *, folder: Path) -> list[Fault]:
    """Return the faults in the meaning of the parts that have none in their form."""
    reduced, replaced = _reduced(document, faulty)
    try:
        config = AgencyJobConfig.model_validate(reduced, context={FOLDER: folder})
    except ValidationError:  # what is wrong isn't a single part
        return []
    # By index, because some datasets have a name that stands in.
    places: dict[str | int, int] = {dataset.name: at for at, dataset in enumerate(config.datasets)}
    return [
        Fault(("datasets", places[each.location[1]], *each.location[2:]), str(each.error), word=each.word)
        for each in faults_of_meaning(config, secrets=None, replaced=replaced)
    ]


def _reduced(document: Mapping[str, Any], faulty: Sequence[Location]) -> tuple[dict[str, Any], set[Location]]:
    """Return the document with faulty parts left out or replaced, and the locations of replaced sources and steps."""
    gone = {location[0] for location in faulty if location and location[0] != "datasets"}
    reduced = {key: value for key, value in document.items() if key not in gone}
    defaults = document.get("defaults")
    if "defaults" in gone and isinstance(defaults, dict):
        wrong = {location[1:2] for location in faulty if location[:1] == ("defaults",)}
        reduced["defaults"] = {key: defaults[key] for key in _INDEPENDENT if key in defaults and (key,) not in wrong}
    datasets, replaced = [], set[Location]()
    written = document.get("datasets")
    for at, dataset in enumerate(written if isinstance(written, list) else ()):
        within = [location[2:] for location in faulty if location[:2] == ("datasets", at)]
        if within or "defaults" in gone:
            dataset, parts = _reduced_dataset(
                dataset if isinstance(dataset, dict) else {}, within, name=f"dataset-{at}"
            )
            replaced |= {("datasets", dataset["name"], *part) for part in parts}
        datasets.append(dataset)
    return reduced | {"datasets": datasets}, replaced


def _reduced_dataset(
    dataset: Mapping[str, Any], faulty: Sequence[Location], *, name: str
) -> tuple[dict[str, Any], set[Location]]:
    wrong = {location[0] for location in faulty if location}
    kept = {key: dataset[key] for key in _INDEPENDENT if key in dataset and key not in wrong}
    kept |= {"overlap": None, "max_rejected": None}  # those of `defaults` may need a key that is left out here
    kept["name"] = dataset["name"] if "name" in dataset and "name" not in wrong else name
    replaced = set[Location]()
    if "source" in dataset and "source" not in wrong:
        kept["source"] = dataset["source"]
    else:
        kept["source"] = _ANY_SOURCE
        replaced.add(("source",))
    steps = dataset.get("steps")
    if isinstance(steps, list):
        broken = {at for at in range(len(steps)) if any(location[:2] == ("steps", at) for location in faulty)}
        kept["steps"] = [_ANY_STEP if at in broken else step for at, step in enumerate(steps)]
        replaced |= {("steps", at) for at in broken if not _keeps_columns(steps[at])}
    return kept, replaced


def _keeps_columns(step: Any) -> bool:
    return isinstance(step, dict) and any(kind in step for kind in KEEP_COLUMNS)
