"""What can act, refuse or be set is documented; links lead somewhere."""

import re
from pathlib import Path

import pytest

from response.guardrails import GUARDRAILS
from response.levers import LEVERS, OPTIONAL_READ_PERMISSIONS, READ_PERMISSIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = (ROOT / "docs" / "decisions.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        *(f"`{guardrail.name}`" for guardrail in GUARDRAILS),
        *(f"`{lever.id}`" for lever in LEVERS.values()),
        *(f"`{right}`" for lever in LEVERS.values() for right in lever.permissions),
        *(f"`{permission}`" for permission in (*READ_PERMISSIONS, *OPTIONAL_READ_PERMISSIONS)),
    ],
)
def test_guardrails_levers_and_permissions_are_documented(name):
    assert name in DECISIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_pages_name_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_no_todo_without_an_issue():
    for top in ("handlers", "detections", "response", "clients", "simtenant", "workbench", "bench"):
        for file in (ROOT / top).rglob("*.py"):
            for line in file.read_text().splitlines():
                assert not re.search(r"\b(TODO|FIXME)\b(?!\(#\d+\))", line), f"{file}: {line}"
