"""The tenant's second: who has it, who may not take it, and what its holder does when it lost it."""

from datetime import UTC, datetime, timedelta

import pytest

from clients.stores import open_store
from response import turns
from response.turns import INTERVAL, KEY, Turns


class Clock:
    def __init__(self):
        self.at = datetime(2026, 11, 26, 12, tzinfo=UTC)

    def __call__(self):
        return self.at

    def on(self, seconds):
        self.at += timedelta(seconds=seconds)


@pytest.fixture
async def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'turns.db'}", "tenant")
    yield opened
    await opened.close()


async def free_at(store):
    return datetime.fromisoformat((await store.get(KEY)).body["free_at"])


async def test_a_turn_is_given_to_one_and_again_after_an_interval(store):
    clock = Clock()
    one, other = Turns(store, clock), Turns(store, clock)

    assert await one.try_take() is None
    assert await other.try_take() == INTERVAL
    clock.on(1.06)
    assert await other.try_take() is None


async def test_a_turn_that_is_renewed_while_another_reads_it_is_not_taken_for_a_wild_clock(store):
    clock = Clock()
    holder = Turns(store, clock)
    await holder.take()

    class Slow:
        """A store that takes half a second to read, in which the holder renews its turn."""

        async def get(self, key):
            clock.on(0.5)
            holder._etag = await holder.renew(holder._etag)
            return await store.get(key)

        async def commit(self, writes):
            return await store.commit(writes)

    assert await Turns(Slow(), clock).try_take() == INTERVAL


async def test_a_turn_far_ahead_was_written_by_a_wild_clock_and_stops_nobody(store):
    wild, sane = Clock(), Clock()
    wild.on(120)
    await Turns(store, wild).take()

    assert await Turns(store, sane).try_take() is None


async def test_sending_counts_the_next_turn_from_now(store):
    clock = Clock()
    one = Turns(store, clock)
    await one.take()
    async with one.held() as turn:
        clock.on(0.9)
        await turn.sending()

    assert await free_at(store) == clock.at + INTERVAL


async def test_whoever_lost_its_turn_while_gathering_waits_for_another_before_it_sends(store, monkeypatch):
    clock = Clock()
    one, other = Turns(store, clock), Turns(store, clock)
    await one.take()
    waited = []

    async def passed(seconds):
        waited.append(seconds)
        clock.on(seconds)

    async with one.held() as turn:
        clock.on(2)  # the process stood still
        assert await other.try_take() is None
        theirs = await free_at(store)
        monkeypatch.setattr(turns.asyncio, "sleep", passed)
        await turn.sending()
        monkeypatch.undo()

    assert waited == [INTERVAL.total_seconds()]
    assert await free_at(store) == theirs + INTERVAL
