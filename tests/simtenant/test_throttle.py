"""The tenant's one request a second, alone and over Graph."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from desk import World, running
from hypothesis import given
from hypothesis import strategies as st

from simtenant.tenant import TenantSettings
from simtenant.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RISKY = "/v1.0/identityProtection/riskyServicePrincipals"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, TenantSettings(identity_protection_per_second=1)) as world:
        yield world


def test_one_request_a_second_passes() -> None:
    throttle = Throttle()

    assert throttle.acquire(NOON, 1)
    assert not throttle.acquire(NOON + timedelta(milliseconds=900), 1)
    assert throttle.acquire(NOON + timedelta(milliseconds=1000), 1)
    assert (throttle.accepted, throttle.refused) == (2, 1)


@given(st.lists(st.floats(min_value=0, max_value=3), min_size=1, max_size=60))
def test_never_more_than_the_quota_and_a_first_one_pass(gaps: list[float]) -> None:
    throttle = Throttle()
    at = NOON
    for gap in gaps:
        at += timedelta(seconds=gap)
        throttle.acquire(at, 1)

    assert 1 <= throttle.accepted <= 1 + (at - NOON).total_seconds() + 1e-6
    assert throttle.accepted + throttle.refused == len(gaps)


def test_other_tools_use_up_part_of_the_quota() -> None:
    throttle = Throttle()
    throttle.others_per_second = 0.5
    assert throttle.acquire(NOON, 1)

    assert not throttle.acquire(NOON + timedelta(seconds=1), 1)
    assert throttle.acquire(NOON + timedelta(seconds=2), 1)


def test_other_tools_can_use_up_all_of_it_and_stop_again() -> None:
    throttle = Throttle()
    throttle.others_per_second = 5
    assert throttle.acquire(NOON, 1)
    assert not throttle.acquire(NOON + timedelta(seconds=60), 1)

    throttle.others_per_second = 0
    assert throttle.acquire(NOON + timedelta(seconds=61), 1)


def test_another_tool_can_take_requests_at_once() -> None:
    throttle = Throttle()
    throttle.take(3, NOON, 1)

    assert not throttle.acquire(NOON + timedelta(seconds=2), 1)
    assert throttle.acquire(NOON + timedelta(seconds=3), 1)


async def test_both_versions_and_all_apps_share_the_quota_and_no_retry_after_is_sent(world: World) -> None:
    other = world.tenant.add_application("other tool", app_roles={"Policy.Read.All"})

    first = await world.graph("GET", RISKY)
    second = await world.graph("GET", RISKY.replace("v1.0", "beta"))
    third = await world.graph("GET", "/v1.0/identity/conditionalAccess/policies", caller=other)

    assert [first.status, second.status, third.status] == [200, 429, 429]
    assert second.code == "TooManyRequests"
    assert "Retry-After" not in second.headers
    assert (world.tenant.throttle.accepted, world.tenant.throttle.refused) == (1, 2)


async def test_a_second_later_the_next_request_passes(world: World) -> None:
    await world.graph("GET", RISKY)
    world.tenant.clock.advance(timedelta(seconds=1))

    assert (await world.graph("GET", RISKY)).status == 200


async def test_a_refused_confirmation_takes_no_effect(world: World) -> None:
    await world.graph("GET", RISKY)

    assert (await world.confirm(world.agent.object_id)).status == 429
    assert world.tenant.risk.get(world.agent.object_id) is None


async def test_the_directory_does_not_share_the_quota(world: World) -> None:
    for _ in range(5):
        assert (await world.graph("GET", "/v1.0/servicePrincipals?$top=1")).status == 200
