"""The number of examples in property tests: the same few each time, or many new ones with `make test-long`."""

from hypothesis import HealthCheck, settings

QUICK = "quick"

settings.register_profile(
    QUICK,
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("long", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def examples(number: int) -> settings:
    """Try `number` examples in the long profile, and a tenth in the quick one."""
    share = 1 if settings.get_current_profile_name() == "long" else 10
    return settings(max_examples=number // share)
