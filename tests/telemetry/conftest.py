import os

import pytest
from listening import Insights, ears
from workspace import story

from clients.telemetry import azure


@pytest.fixture(scope="session")
def told():
    """Told once: (rows of the story, rows with its end, when it ended). To be copied before it is changed."""
    return story()


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
