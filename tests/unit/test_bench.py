"""The figures of benchmarks: medians, ratios, targets, tables and the plot."""

from pathlib import Path
from xml.etree import ElementTree

from tests.bench.measuring import Contestant, Skipped, in_turns, middle, ratio
from tests.bench.profile_run import functions, stages
from tests.bench.report import aligned, markdown, medians, plot, targets, write
from tests.bench.results import BEFORE, Group

WIDE = Group(
    title="rows",
    labels={"limit": "psql > /dev/null", "null": "null, no steps", f"{BEFORE}null": "before: null, no steps"},
    rounds={
        "limit": [{"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 9.0}],
        "null": [{"seconds": 1.6, "peak_mib": 80.0}],
        f"{BEFORE}null": [{"seconds": 4.0, "peak_mib": 90.0}],
    },
    commit="abc",
    measured_at="2026-01-18 12:00 UTC",
    load=0.1,
)


def test_contestants_take_turns_and_failures_are_left_out() -> None:
    """Each is measured once a round; one that can't run is tried once."""
    turns: list[str] = []

    def measure(name: str) -> dict[str, float]:
        turns.append(name)
        if name == "c":
            raise Skipped("It isn't installed.")
        return {"seconds": float(len(turns))}

    contestants = [Contestant(name, name, lambda name=name: measure(name)) for name in "abc"]  # type: ignore[misc]
    rounds = in_turns(contestants, 2)

    assert "".join(turns) == "abcab"
    assert middle(rounds, "a", "seconds") == 2.5
    assert ratio(rounds, "b", "a") == 1.4
    assert middle(rounds, "c", "seconds") is None
    assert ratio(rounds, "c", "a") is None


def test_targets_show_what_was_reached_now_and_before() -> None:
    """As multiples of the limit of the same run; what wasn't measured is neither met nor missed."""
    titles, null, *others = targets({"wide": WIDE})
    assert titles == ["what", "target", "before", "reached", ""]
    assert null == ["null, no steps", "≤ 0.90 ×", "2.00 ×", "0.80 ×", "yes"]
    assert {row[-1] for row in others} == {""}


def test_tables_have_the_columns_that_were_measured() -> None:
    table = medians(WIDE)
    assert table[0] == ["", "s", "× limit", "peak MiB"]
    assert table[2] == ["null, no steps", "1.60", "0.80", "80"]
    assert aligned([["", "a"], ["row", "10"]]) == "      a\nrow  10"
    assert markdown([["", "a"], ["row", "10"]]) == "|  | a |\n|---|--:|\n| row | 10 |"


def test_figures_are_written_between_the_markers(tmp_path: Path) -> None:
    """Again and again, with the plot beside the page."""
    (tmp_path / "images").mkdir()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: by a command -->\nold\n<!-- end of figures -->\nafter\n")
    for _ in range(2):
        write(page, {"wide": WIDE})
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: by a command -->\n")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert text.count("| null, no steps | ≤ 0.90 ×") == 1
    assert "old" not in text
    assert (tmp_path / "images/performance.svg").read_text() == plot(WIDE)


def test_the_plot_has_a_bar_for_each_contestant() -> None:
    """It is valid SVG, and a bar's length is its ratio."""
    bars = [
        float(bar.get("width", "0"))
        for bar in ElementTree.fromstring(plot(WIDE)).iter("{http://www.w3.org/2000/svg}rect")
    ][1:]
    assert [round(width / bars[0], 2) for width in bars] == [1.0, 0.8, 2.0]


def test_profiles_count_samples_by_function() -> None:
    """Once for each sample, however deep the recursion, without what is outside the event loop."""
    main, loop = (
        "<module> (pipeline_processing/cli/main.py:9)",
        "run_async (pipeline_processing/terminal/event_loop.py:9)",
    )
    top, anywhere = functions(
        [
            f"{main};{loop};a (a.py:3);f (a.py:5);f (a.py:5) 2",
            f"{main};{loop};a (a.py:4);g (b.c:1) 1",
            f"{main};x (c.py:1) 4",
        ]
    )
    assert top == {"f (a.py)": 2, "g (b.c)": 1, "start of the process": 4}
    assert anywhere == {"a (a.py)": 3, "f (a.py)": 2, "g (b.c)": 1, "start of the process": 4}


def test_profiles_read_the_seconds_of_stages_from_spans() -> None:
    log = '{\n "name": "stage source",\n "attributes": {\n "busy_ms": 1500.0\n }\n}\n{\n "name": "run"\n}\n'
    assert stages(log) == {"source": 1.5}
