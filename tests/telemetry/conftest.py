import os

import pytest
from listening import Insights, ears

from clients.telemetry import azure


@pytest.fixture
def heard():
    with ears() as found:
        yield found


@pytest.fixture
def insights(monkeypatch):
    for name, value in azure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert "APPLICATIONINSIGHTS_CONNECTION_STRING" not in os.environ
    stand_in = Insights()
    yield stand_in
    stand_in.close()
