"""Many at once from several real processes on one store: few calls, nothing lost, nothing twice, also when one dies."""

from collections import Counter

import pytest

from bench import many
from clients.stores import open_store
from response import ledger
from simtenant.graph import GraphService

pytestmark = pytest.mark.timeout(
    300
)  # starts three processes, and a dead one is silent for eight seconds first


async def written(place):
    """The ledger's entries, whose chain must be whole."""
    store = open_store(place.store, place.estate.tenant.settings.tenant_id)
    try:
        assert isinstance(await ledger.verify(store), ledger.Verified)
        return await ledger.entries(store)
    finally:
        await store.close()


@pytest.mark.parametrize("undo", [False, True], ids=["confirm", "dismiss"])
async def test_a_storm_from_three_processes_shares_few_calls_and_does_nothing_twice(tmp_path, undo):
    async with many.Place(many.Size(principals=30, undo=undo), tmp_path) as place:
        found = await many.storm(place)
        await many.settled_by(place.apps[0])

        calls = place.calls(undo=undo)
        assert many.doubled(calls) == []
        assert found["lost"] == 0
        assert sum(bool(seen.changed) for seen in calls) <= 6  # one an incident would be 30
        # A storm that is over in a second or two may leave the other tool, which asks every two, no turn at all.
        assert set(found["otherTool"]) == {"accepted", "refused"}
        kinds = Counter(entry.kind for entry in await written(place))
        assert kinds["undone" if undo else "pulled"] >= 30
        assert kinds["pull_unknown"] + kinds["undo_unknown"] == 0


async def test_one_bad_id_among_fifty_is_found_by_halving_and_fails_alone(tmp_path, monkeypatch):
    """ID Protection refuses one that the directory still knows: all evidence about it could be read."""
    size = many.Size(principals=50, per_second=1000.0, paced=False)
    async with many.Place(size, tmp_path) as place:
        principals = place.new(50)
        bad = principals[17].object_id

        known = GraphService._stands_behind_door

        def unknown_there(service, object_id, *, agents):
            return object_id != bad and known(service, object_id, agents=agents)

        await place.quiet()
        monkeypatch.setattr(GraphService, "_stands_behind_door", unknown_there)
        answers = await place.contain(principals, place.apps)
        await many.settled_by(place.apps[0])

        calls = place.calls(undo=False)
        assert many.lost(principals, calls) == [bad]
        assert many.doubled(calls) == []
        assert sum(bad in seen.named for seen in calls) <= 7  # 50, 25, 13, 7, 4, 2, 1
        assert {seen.status for seen in calls if bad in seen.named} == {404}
        states = {one["principalId"]: one["state"] for answer in answers for one in answer["became"]}
        assert [principal for principal, state in states.items() if state == "failed"] == [bad]
        failed = [entry for entry in await written(place) if entry.kind == "failed"]
        assert [entry.subject for entry in failed] == [bad]


@pytest.mark.parametrize("undo", [False, True], ids=["confirm", "dismiss"])
@pytest.mark.parametrize("where", ["before", "after"])
async def test_what_a_killed_process_had_under_way_is_looked_at_and_finished_by_others(tmp_path, where, undo):
    async with many.Place(many.Size(undo=undo), tmp_path) as place:
        found = await many.taken_over(place, where, 12)

        assert found["lost"] == 0
        assert found["doublePulled"] == 0
        assert found["sentAgain"] is (where == "before")
        assert found["looksBefore"] >= 1
        notes = Counter(str(entry.body.get("note", "")) for entry in await written(place))
        looked = "no sign of it in the tenant" if where == "before" else "found done when looking"
        assert sum(count for note, count in notes.items() if note.startswith(looked)) >= found["inTheBatch"]
