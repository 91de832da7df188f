"""Makes helper modules beside the tests importable, and opens the desk most tests of the app share."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in ("response", "simtenant", "detections", "safety", "."):
    sys.path.insert(0, str(HERE / folder))

from desk_app import desk  # noqa: E402  # found by the path above

from response import turns  # noqa: E402
from workbench.parser import KqlParser, ParserMissingError  # noqa: E402


@pytest.fixture(scope="module")
def parser():
    """Microsoft's KQL parser."""
    try:
        parser = KqlParser()
    except ParserMissingError as error:
        pytest.skip(f"MICROSOFT'S PARSER IS NOT INSTALLED: {error}")
    yield parser
    parser.close()


@pytest.fixture
def quick_turns(monkeypatch):
    """Let the tenant's ID Protection second pass quickly where a test is not about it."""
    monkeypatch.setattr(turns, "INTERVAL", timedelta(milliseconds=5))


@pytest.fixture
async def app(tmp_path, quick_turns):
    """An app in enforce mode in an armed tenant without a past."""
    async with desk(tmp_path) as opened:
        yield opened
