"""The board's page in a real browser, with a real `board`, `serve`, Postgres and Kafka behind it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.board_side import HOSTILE, elsewhere, new_page, seed, seed_hostile, start_board
from tests.acceptance.gate import Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import HUGE, OTHER, NewService, Service, one_dataset
from tests.chromium import chromium

JOB = one_dataset(
    "SELECT id, repeat(md5(title), 2000) AS body, 1 / (agency_id - 3) AS fault, "
    "CASE WHEN id % 100000 > 200 THEN pg_advisory_xact_lock_shared(agency_id)::text END AS gate "
    "FROM documents WHERE agency_id = $1 AND id % 100000 <= 220 ORDER BY id"
)
"""As GATED, but runs for agency OTHER fail."""

TRIGGERS = """
triggers:
  - {name: updated, topic: agencies.events, match: {type: agency.updated}, agency_id: data.agency_id,
     debounce: {quiet_for: 10s}}
  - {name: nightly, schedule: {cron: 0 3 * * *, time_zone: Europe/Zurich, agencies: [1, 2]}, datasets: [records]}
"""

VIEWS = {
    "overview": "/",
    "runs": "/runs?state=failed&agency_id=11",  # axe takes seconds for a long list
    "nothing": "/runs?q=nosuchrun",
    "run": "/runs/seed-0001",
    "failed": "/runs/seed-0004",
    "hostile": "/runs/hostile",
    "running": "/runs/hostile-running",
    "unknown": "/runs/no-such-run",
    "failures": "/failures",
    "throughput": "/throughput?window=24h",
    "letters": "/dead-letters",
    "triggers": "/triggers",
}

CHECKS = {
    1280: {"light": {}, "dark": {"runOnly": ["color-contrast"]}},
    375: {"light": {"rules": {"color-contrast": {"enabled": False}}}},
}
"""What axe checks by width and colour scheme. Another scheme changes only colours, another width everything else."""
ALIKE_IF_NARROW = {"failed", "hostile", "nothing", "unknown", "failures", "letters", "triggers"}
"""Views without parts of their own on a narrow screen: their width is checked, and axe isn't asked again."""

expect.set_options(timeout=15_000)


@dataclass(frozen=True, slots=True)
class Site:
    """A board with its service, which `serve` runs, and a browser."""

    service: Service
    messages: Messages
    address: str
    browser: Browser

    def open(self, view: str = "/", **options: object) -> Page:
        page, _ = new_page(self.browser, **options)  # type: ignore[arg-type]
        page.goto(f"{self.address}/#{view}")
        return page


@pytest.fixture(scope="module")
def site(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with new_service(tmp_path_factory.mktemp("board")) as service, Messages(kafka.bootstrap_servers) as messages:
        service.environment.update(messages.environment)
        service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(JOB))
        serve = service.serve()
        triggers = service.folder / "triggers.yaml"
        triggers.write_text(TRIGGERS)
        service.environment["PIPELINE_TRIGGERS_FILE"] = str(triggers)
        _, address = start_board(service, env={"PIPELINE_BOARD__TRACE_URL": "https://traces.example/{trace_id}"})
        seed(service)
        seed_hostile(service)
        messages.send(f"not JSON {HOSTILE}".encode())
        serve.wait_until_taking()
        service.sql = partial(elsewhere, service.sql)
        with chromium() as browser:
            yield Site(service, messages, address, browser)


@pytest.fixture(autouse=True)
def closed_pages(site: Site) -> Iterator[None]:
    """No page of an earlier test is open: each would go on following what happens."""
    yield
    for context in site.browser.contexts:
        context.close()


def loaded(page: Page, view: str | None = None) -> None:
    """Wait until a view has its data, and the page is live."""
    shown = page.locator("#view[data-shown]" if view is None else f"#view[data-shown='#{view}']")
    expect(shown).to_be_visible()
    expect(page.locator("#health .live")).to_have_text("Live")


# -- live -----------------------------------------------------------------------------------------


def test_runs_are_seen_from_queued_to_succeeded(site: Site) -> None:
    """Two runs of one agency, which run one after the other, seen on a page that is never loaded again."""
    page = site.open()
    loaded(page)
    page.evaluate("window.sameage = true")
    active, recent = (page.get_by_role("table", name=name) for name in ("Runs in progress", "Recent runs"))
    with Gate(site.service, HUGE) as gate:
        site.messages.send({"agency_id": HUGE, "run_id": "first"}, {"agency_id": HUGE, "run_id": "second"}, partition=0)

        row = active.locator("tr", has_text="first")
        expect(row.get_by_role("progressbar", name="Progress of run first")).to_be_visible()
        expect(row).to_contain_text("records")
        expect(recent.locator("tr", has_text="second")).to_contain_text("queued")
        gate.open()

        for run_id in ("first", "second"):
            expect(recent.locator("tr", has_text=run_id)).to_contain_text("succeeded", timeout=20_000)
    expect(active.locator("tr", has_text="first")).to_have_count(0)
    expect(page.get_by_role("status")).to_contain_text("succeeded")
    assert page.evaluate("window.sameage")


def test_a_failure_is_seen_with_its_reason_and_the_way_to_replay_it(site: Site) -> None:
    page = site.open("/runs/failing")
    expect(page.get_by_role("alert")).to_contain_text("failing")  # there is no such run yet
    site.messages.send({"agency_id": OTHER, "run_id": "failing"})
    site.messages.wait_for_completions(1, run_id="failing")

    reason = page.get_by_role("region", name="Reason")
    expect(reason).to_contain_text("query_failed")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(reason).to_contain_text("division by zero")
    expect(reason).to_contain_text("pipeline-processing replay --run-id failing")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    reason.get_by_role("button", name="Copy the command").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == "pipeline-processing replay --run-id failing"

    page.get_by_role("link", name="Failures").click()
    expect(page.locator(".failures li", has_text="query_failed")).to_contain_text("division by zero")


def test_a_page_reconnects_after_the_board_was_restarted(site: Site) -> None:
    """With a token, which a new session isn't asked for again, until the token changes."""
    secret = {"PIPELINE_BOARD__TOKEN": "a-token-of-24-characters"}
    board, address = start_board(site.service, env=secret)
    page, _ = new_page(site.browser)
    page.goto(f"{address}/")
    assert page.url == f"{address}/login"
    page.get_by_label("Token").fill("another-token-altogether")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert not Axe().run(page).response["violations"]
    page.get_by_label("Token").fill(secret["PIPELINE_BOARD__TOKEN"])
    page.get_by_role("button", name="Sign in").click()
    loaded(page)

    board.process.send_signal(signal.SIGKILL)
    board.process.communicate()
    expect(page.locator("#health .live")).to_have_text("Reconnecting")
    port = address.rpartition(":")[2]
    board, _ = start_board(site.service, env={**secret, "PIPELINE_BOARD__PORT": port})
    expect(page.locator("#health .live")).to_have_text("Live")
    expect(page.get_by_role("table", name="Recent runs")).to_be_visible()

    board.process.send_signal(signal.SIGKILL)
    board.process.communicate()
    start_board(site.service, env={"PIPELINE_BOARD__TOKEN": "another-token-altogether", "PIPELINE_BOARD__PORT": port})
    expect(page).to_have_url(f"{address}/login")


# -- search ---------------------------------------------------------------------------------------


def test_runs_are_found_and_the_address_says_what_was_asked(site: Site) -> None:
    page = site.open()
    page.keyboard.press("/")
    page.keyboard.type("seed-0007")
    page.keyboard.press("Enter")
    found = page.get_by_role("table", name="Runs found")
    expect(found.locator("tbody tr")).to_have_count(1)
    expect(found).to_contain_text("seed-0007")
    expect(page).to_have_url(re.compile("#/runs\\?q=seed-0007$"))

    page.get_by_label("Text").fill("")
    page.get_by_label("State").select_option("failed")
    page.get_by_label("Agency", exact=True).fill("12")
    page.get_by_label("Label", exact=True).fill("team=north")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile(r"#/runs\?agency_id=12&state=failed&label=team%3Dnorth$"))
    expect(found.locator("tbody tr")).to_have_count(3)
    expect(found).not_to_contain_text("succeeded")

    page.reload()  # as somebody who was sent the link
    expect(found.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_label("State")).to_have_value("failed")
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_label("State")).to_have_value("")

    page.goto(f"{site.address}/#/runs?since=yesterday")
    expect(page.get_by_role("alert")).to_contain_text("yesterday isn't a day; write it as 2026-01-31.")


def test_a_long_list_goes_on(site: Site) -> None:
    page = site.open("/runs?state=succeeded")
    rows = page.get_by_role("table", name="Runs found").locator("tbody tr")
    expect(rows).to_have_count(50)
    loaded(page)
    more = page.get_by_role("button", name="Load more")
    site.messages.send({"agency_id": HUGE, "run_id": "meanwhile"})
    expect(rows.first).to_have_attribute("data-key", "meanwhile")
    expect(rows).to_have_count(51)  # the last one stays: the next page begins after it

    page.route("**/api/v1/runs?*", lambda route: route.abort())
    more.click()
    expect(page.get_by_role("alert")).to_contain_text("doesn't answer")
    page.unroute("**/api/v1/runs?*")
    more.click()
    expect(rows).to_have_count(101)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len({row.get_attribute("data-key") for row in rows.all()}) == 101

    # In the background and back.
    with page.expect_response(lambda response: "/api/v1/runs?" in response.url) as answer:
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange')); delete document.hidden;"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
    assert "limit=101" in answer.value.url
    expect(rows).to_have_count(101)


# -- views ----------------------------------------------------------------------------------------


def test_the_page_of_a_run_tells_its_whole_story(site: Site) -> None:
    page = site.open("/runs/seed-0004")
    for text in ("step_failed", "row 3 has no postcode", "replay --run-id seed-0004", "billing-service", "team=north"):
        expect(page.locator("#view")).to_contain_text(text)
    expect(page.get_by_role("table", name="Attempts").locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("region", name="Dataset records")).to_contain_text("4,000")
    expect(page.get_by_role("table", name="Completion events")).to_contain_text("agency.run.failed")
    assert page.locator(".facts a[href^='https://traces.example/']").count() == 1
    page.goto(f"{site.address}/#/runs/seed-0001")
    expect(page.get_by_role("table", name="Webhooks")).to_contain_text("delivered")


def test_charts_are_drawn(site: Site) -> None:
    page = site.open("/throughput?window=24h")
    expect(page.locator(".chart canvas")).to_have_count(2)
    expect(page.get_by_role("img", name="Runs finished")).to_be_visible()
    page.get_by_text("Show it").click()
    expect(page.get_by_role("table", name="Finished runs and their durations")).to_contain_text("15 s")


def test_a_dead_letter_is_listed_with_its_reason(site: Site) -> None:
    page = site.open("/dead-letters")
    expect(page.get_by_role("table", name="Dead letters")).to_contain_text("invalid_json")
    expect(page.locator("#view")).to_contain_text("pipeline-processing dead-letters show")


def test_triggers_are_described(site: Site) -> None:
    page = site.open("/triggers")
    expect(page.get_by_role("region", name="updated")).to_contain_text("agencies.events")
    expect(page.get_by_role("region", name="nightly")).to_contain_text("Next tick")


@pytest.mark.parametrize("width", [1280, 375])
def test_every_view_is_accessible_and_fits(site: Site, width: int) -> None:
    """In light and dark, axe finds no violation; nothing is wider than the screen; no script but ours runs."""
    page, said = new_page(site.browser, width=width)
    page.goto(site.address)
    page.evaluate(AXE_SCRIPT)
    for name, view in VIEWS.items():
        page.goto(f"{site.address}/#{view}")
        loaded(page, view)
        checks = {} if width == 375 and name in ALIKE_IF_NARROW else CHECKS[width]
        for scheme, rules in checks.items():
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("options => axe.run(options)", {"resultTypes": ["violations"], **rules})
            assert not found["violations"], f"{name}, {scheme}: {AxeResults(found).generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
        assert page.evaluate("window.hacked") is None
    assert [line for line in said if "404" not in line] == []  # of the unknown run


def test_hostile_text_stays_text(site: Site) -> None:
    page = site.open("/runs/hostile")
    loaded(page)
    view = page.locator("#view")
    shown = view.evaluate("element => element.textContent")
    # Kind, message, worker, who asked, where it came from, dataset, artifact, destination, event, …
    assert shown.count(HOSTILE) >= 10
    assert view.locator("script, img").count() == 0
    page.goto(f"{site.address}/#/runs/hostile-running")
    expect(view.get_by_role("progressbar")).to_be_visible()
    assert page.evaluate("window.hacked") is None


def test_dark_mode_is_dark(site: Site) -> None:
    brightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert site.open(scheme="light").evaluate(brightness) > 200
    assert site.open(scheme="dark").evaluate(brightness) < 40


# -- keyboard -------------------------------------------------------------------------------------


def test_everything_is_reached_by_keyboard(site: Site) -> None:
    """From the first key on, in order, and it can be seen where the focus is."""
    page = site.open("/failures")
    loaded(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/failures")

    page.reload()
    loaded(page)
    kinds = ("a[href]", "button", "input", "[tabindex='0']", "summary")
    wanted = page.locator(", ".join(f"{kind}:visible" for kind in kinds)).count()
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        here, outline = page.evaluate(
            "[document.activeElement.outerHTML + [...document.querySelectorAll('*')].indexOf(document.activeElement), "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none", here
        reached.add(here)
    assert len(reached) == wanted


# -- functions ------------------------------------------------------------------------------------


def test_numbers_and_times_read_well(site: Site) -> None:
    page = site.open()
    told = page.evaluate(
        """async () => {
          const f = await import(new URL("static/format.js", location.href).href);
          return [
            f.number(1234), f.number(null), f.bytes(4_200_000), f.bytes(999_960), f.bytes(12), f.duration(420),
            f.duration(4200), f.duration(59_700), f.duration(192_000), f.duration(3_600_000), f.duration(7_500_000),
            f.duration(360_000_000), f.relative(0, 12_000), f.relative(180_000, 0), f.relative(0, 1_000),
            f.rate(18_200.4), f.percent(0.634),
          ];
        }"""
    )
    assert told == [
        "1,234", "–", "4.2 MB", "1 MB", "12 B", "420 ms", "4.2 s",
        "1 min", "3 min 12 s", "1 h", "2 h 5 min", "4 d 4 h",
        "12 s ago", "in 3 min", "now", "18,200/s", "63.4 %",
    ]  # fmt: skip
