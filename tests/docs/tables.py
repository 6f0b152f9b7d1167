"""The tables of docs/ that are made from the code. `python tests/docs/tables.py` writes them anew."""

from pathlib import Path

from pipeline_processing import errors
from pipeline_processing.published.asyncapi import DEAD_LETTER_REASONS
from pipeline_processing.published.schemas import error_kinds
from pipeline_processing.settings.keys import ALL_SETTINGS, NAMED, SettingKey, variable_of
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.metrics import Instrument, Metrics

DOCS = Path(__file__).parents[2] / "docs"


def settings_table() -> str:
    """One row a setting."""
    lines = ["| variable | meaning | default |", "|---|---|---|"]
    for key in ALL_SETTINGS:
        variable = variable_of(key.path)
        secret = f" Secret: also from a file, by `{variable}_FILE`." if key.secret else ""
        default = _default(key)
        shown = "none" if default is None else f"`{default}`"
        lines.append(f"| `{variable}` | {key.field.description}{secret} | {shown} |")
    return "\n".join(lines)


def _default(key: SettingKey) -> str | None:
    if key.path not in NAMED:
        return key.displayed(Settings())
    return ",".join(key.field.default) if isinstance(key.field.default, tuple) else None


def errors_table() -> str:
    """One row a kind of error."""
    lines = ["| kind | exit code | tried again | what it is | what to do |", "|---|---|---|---|---|"]
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    passing = {each.kind for each in classes if issubclass(each, errors.TransientError) and each.passes}
    for kind, error in error_kinds().items():
        again = "waited for" if kind in passing else "yes" if error["retryable"] else "no"
        lines.append(f"| `{kind}` | {error['exit_code']} | {again} | {error['description']} | {error['remedy']} |")
    return "\n".join(lines)


def reasons_table() -> str:
    """One row a reason of dead letters."""
    lines = ["| reason | what it is |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{reason}` | {meaning} |" for reason, meaning in DEAD_LETTER_REASONS.items())])


def metrics_table() -> str:
    """One row an instrument, with the name that it has for Prometheus."""
    lines = ["| name | in Prometheus | kind | unit | attributes | what it measures |", "|---|---|---|---|---|---|"]
    for each in Metrics().instruments:
        attributes = ", ".join(f"`{name}`" for name in each.attributes)
        unit = f"`{each.unit}`" if each.unit else ""
        lines.append(
            f"| `{each.name}` | `{prometheus_name(each)}` | {each.kind} | {unit} | {attributes} | {each.description} |"
        )
    return "\n".join(lines)


def prometheus_name(instrument: Instrument) -> str:
    """The name of an instrument in `/metrics`. A histogram has `_bucket`, `_sum` and `_count` behind it."""
    name, unit = instrument.name.replace(".", "_"), {"s": "_seconds", "By": "_bytes"}.get(instrument.unit, "")
    return name.removesuffix(unit) + unit + ("_total" if instrument.kind == "counter" else "")


TABLES = {
    "settings.md": settings_table,
    "errors.md": errors_table,
    "messages.md": reasons_table,
    "metrics.md": metrics_table,
}


def page_with_table(name: str) -> str:
    """The page as it should be: its own text, and the table from the code between the two marks."""
    before, begin, rest = (DOCS / name).read_text("utf-8").partition("<!-- table: from the code -->\n")
    _, end, after = rest.partition("<!-- end of table -->")
    return f"{before}{begin}{TABLES[name]()}\n{end}{after}"


if __name__ == "__main__":
    for page in TABLES:
        (DOCS / page).write_text(page_with_table(page), "utf-8")
