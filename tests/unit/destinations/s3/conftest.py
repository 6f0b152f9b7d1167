"""Retries without pauses, which are botocore's and not under test."""

import pytest
from botocore.retries.standard import ExponentialBackoff


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)
