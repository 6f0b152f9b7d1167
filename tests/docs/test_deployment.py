"""The image's lock, the compose file and their documentation are held to the code. Nothing here needs Docker."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.cli.main import program
from pipeline_processing.settings.loader import load_settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]

Lock = dict[str, tuple[Requirement, frozenset[str]]]


def lock(name: str) -> Lock:
    """A lock file: package → its pin, with marker, and hashes."""
    entries = re.findall(
        r"^(\S+==[^\n\\]+?) *((?:\\\n +--hash=\S+ *)+)$", (ROOT / name).read_text("utf-8"), re.MULTILINE
    )
    pins = [(Requirement(pin), frozenset(re.findall(r"--hash=(\S+)", hashes))) for pin, hashes in entries]
    return {canonicalize_name(pin.name): (pin, hashes) for pin, hashes in pins}


def mounts() -> list[tuple[str, str, str]]:
    """Service, path here and path in the container of every file that the compose file mounts."""
    volumes = [(name, volume.split(":")) for name, service in SERVICES.items() for volume in service.get("volumes", [])]
    return [(name, here, there) for name, (here, there, *_) in volumes if here.startswith(".")]


def settings_of(service: str) -> dict[str, str]:
    """The service's settings, as its container gets them: the image's and the compose file's."""
    of_image = dict(re.findall(r"^(?:ENV)? +(PIPELINE_\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    of_service = {
        name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in SERVICES[service]["environment"].items()
    }
    return of_image | of_service


# -- the locks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements-runtime.lock", PROJECT["project"]["dependencies"]),
        ("requirements-build.lock", PROJECT["build-system"]["requires"]),
        ("requirements-demo.lock", PROJECT["project"]["optional-dependencies"]["demo"]),
        ("requirements-sbom.lock", PROJECT["project"]["optional-dependencies"]["sbom"]),
    ],
)
def test_what_the_image_and_the_demo_take_is_locked(name: str, wanted: list[str]) -> None:
    """Each of the smaller locks has what pyproject.toml asks for, in the versions and hashes of the whole lock."""
    part, whole = lock(name), lock("requirements.lock")
    for requirement in map(Requirement, wanted):
        pin, _ = part[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(next(iter(pin.specifier)).version, prereleases=True), pin
    assert {package: (str(pin.specifier), hashes) for package, (pin, hashes) in part.items()} == {
        package: (str(whole[package][0].specifier), whole[package][1]) for package in part
    }


def test_the_image_has_no_tools_in_it() -> None:
    """What only the demo, the tests or the benchmarks need is left out."""
    extras = [Requirement(line) for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
    assert not {canonicalize_name(extra.name) for extra in extras} & set(lock("requirements-runtime.lock"))


# -- the image -----------------------------------------------------------------------------------


def test_the_image_states_the_version() -> None:
    assert f"ARG VERSION={PROJECT['project']['version']}\n" in DOCKERFILE


def test_the_build_sees_what_it_copies() -> None:
    """All but what .dockerignore lets through is hidden from the build, so it names whatever is copied or packaged."""
    seen = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    copied = [
        word for line in re.findall(r"^COPY (requirements.*) \./$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    assert copied
    assert {*copied, "pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= set(seen)
    assert [name for name in seen if not (ROOT / name).exists()] == []


def test_the_dockerfile_is_clean() -> None:
    """As hadolint sees it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- compose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [name for name, service in SERVICES.items() if "build" in service])
def test_composed_settings_are_valid(service: str) -> None:
    """Every PIPELINE_ variable is a setting, with a value that it takes."""
    settings = load_settings(settings_of(service)).settings
    assert settings.http.host == "0.0.0.0"
    if service == "board":  # it only reads the history
        assert settings.require_history_dsn()
        assert settings.board.token is not None
    else:
        assert settings.require_source_dsn()
        assert settings.require_destination()


def test_composed_settings_name_what_is_there() -> None:
    """The servers' names, and the passwords and names that both sides have to know, agree."""
    settings = load_settings(settings_of("serve")).settings
    postgres, s3 = SERVICES["postgres"]["environment"], SERVICES["seaweedfs"]["environment"]
    user, password, database = (postgres[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    assert (
        settings.require_source_dsn().get_secret_value() == f"postgresql://{user}:{password}@postgres:5432/{database}"
    )
    assert settings.s3.access_key_id is not None
    assert settings.s3.access_key_id.get_secret_value() == s3["AWS_ACCESS_KEY_ID"]
    assert settings.s3.secret_access_key is not None
    assert settings.s3.secret_access_key.get_secret_value() == s3["AWS_SECRET_ACCESS_KEY"]
    assert str(settings.require_destination()).startswith(f"s3://{s3['S3_BUCKET']}/")
    assert (
        f"INTERNAL://{settings.kafka.bootstrap_servers[0]}"
        in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    )


def test_mounted_files_are_there() -> None:
    """And the job config is a valid one, where its setting says."""
    assert [here for _, here, _ in mounts() if not (ROOT / here).exists()] == []
    inside = SERVICES["serve"]["environment"]["PIPELINE_JOB_CONFIG_FILE"]
    (job_config,) = (here for service, here, there in mounts() if (service, there) == ("serve", inside))
    assert load_job_config(ROOT / job_config).datasets


def test_nothing_is_open_to_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 8
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_stopping_takes_longer_than_draining() -> None:
    """Or runs would be killed that have the time to finish."""
    drain = load_settings(settings_of("serve")).settings.worker.drain_seconds
    assert float(SERVICES["serve"]["stop_grace_period"].removesuffix("s")) > drain


def test_a_read_only_root_has_room_for_temporary_files() -> None:
    """Steps that remember all keys need them; the room is limited, since a tmpfs is memory."""
    read_only = {name: service.get("tmpfs", []) for name, service in SERVICES.items() if service.get("read_only")}
    assert {"serve", "migrate"} <= set(read_only)
    for mounts_in_memory in read_only.values():
        assert [mount for mount in mounts_in_memory if re.fullmatch(r"/tmp:size=\d+m", mount)]
    assert "--read-only --tmpfs /tmp:size=" in (ROOT / "docs/deployment.md").read_text("utf-8")


# -- their documentation -------------------------------------------------------------------------


def test_the_page_begins_with_the_way_through_it() -> None:
    """A numbered list that links to every section, but to those that one needs for special cases."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    first, *headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert first == "From nothing to alerts"
    way = page.partition(f"## {first}")[2].partition("\n## ")[0]
    linked = set(re.findall(r"\]\(#([^)]+)\)", way))
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert anchors - linked == {"pgbouncer"}


def test_documented_settings_are_valid() -> None:
    """Those of the file that the page writes, with which `serve` can start."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    (lines,) = re.findall(r"^cat > pipeline.env <<'END'\n(.*?)^END$", page, re.MULTILINE | re.DOTALL)
    settings = load_settings(dict(line.split("=", 1) for line in lines.splitlines())).settings
    assert settings.require_source_dsn() != settings.require_history_dsn()
    assert settings.require_destination()
    assert settings.require_job_config_file()


def test_commands_in_containers_are_understood() -> None:
    """Every `docker … pipeline-processing …` of the page, and every command of the compose file, parses."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    lines = [shlex.split(line) for line in re.findall(r"^docker .*$", page, re.MULTILINE)]
    lines += [
        service["command"] for service in SERVICES.values() if service.get("command", [""])[0] == "pipeline-processing"
    ]
    commands = [line[line.index("pipeline-processing") + 1 :] for line in lines if "pipeline-processing" in line]
    assert len(commands) > 5
    for first, *rest in commands:
        command = program().commands[first]
        command.make_context(first, rest)


def test_profiles_add_to_the_small_system() -> None:
    """Without a profile, there is what a run needs; the page names the profiles, and the pages that they open."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert {name for name, of_it in profiles.items() if not of_it} == {
        "serve",
        "migrate",
        "postgres",
        "kafka",
        "seaweedfs",
    }
    assert {profile for of_it in profiles.values() for profile in of_it} == {"triggers", "board", "observe"}
    for service in ("board", "prometheus", "grafana", "jaeger"):
        (port,) = re.findall(r":-(\d+)\}", SERVICES[service]["ports"][0])
        assert f"<http://localhost:{port}" in page


def test_what_observes_knows_the_others() -> None:
    """Prometheus, Grafana and the collector name services of the compose file, with their ports."""
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    jobs = [found for job in prometheus["scrape_configs"] for found in job["dns_sd_configs"]]
    assert {(name, found["port"]) for found in jobs for name in found["names"]} == {("serve", 8080), ("triggers", 8080)}
    sources = (ROOT / "deploy/grafana/provisioning/datasources/observe.yml").read_text("utf-8")
    assert re.findall(r"http://(\w+):(\d+)", sources) == [("prometheus", "9090"), ("jaeger", "16686")]
    (folder,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/pipeline-processing.yml").read_text())[
        "providers"
    ]
    assert folder["options"]["path"] in {there for service, _, there in mounts() if service == "grafana"}
    assert {*prometheus["rule_files"]} <= {path.name for path in (ROOT / "deploy/prometheus").iterdir()}


def test_what_can_be_replaced_is_documented() -> None:
    """The page has every variable that the compose file reads, with its default."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    variables = re.findall(r"\$\{(\w+):-([^}]+)\}", (ROOT / "docker-compose.yml").read_text("utf-8"))
    assert len(variables) > 5
    assert [pair for pair in variables if not all(word in page for word in pair)] == []
