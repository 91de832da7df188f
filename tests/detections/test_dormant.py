from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.stores import open_store
from clients.terms import AppId, Kind, NotAsked, ObjectId, ServicePrincipal, TenantId, Unknown
from detections import dormant
from detections.dormant import Entry, Facts, Proposal, Report, SignedIn, judge

NOW = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)
AFTER = timedelta(days=90)
TENANT = TenantId("11111111-1111-4111-8111-111111111111")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def principal(number: int = 1, **changes: Any) -> ServicePrincipal:
    values: dict[str, Any] = {
        "object_id": ObjectId(f"7c9e6679-7425-4de4-944b-{number:012d}"),
        "app_id": AppId(f"88888888-8888-4888-8888-{number:012d}"),
        "display_name": "old-import",
        "kind": Kind.APPLICATION,
        "owner_tenant": TENANT,
        "account_enabled": True,
    }
    return ServicePrincipal(**(values | changes))


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "principal": principal(),
        "created": ago(400),
        "signed_in": SignedIn(ago(200), ago(91)),
        "live": ("a secret until 2027-01-01",),
        "permissions": ("Directory.ReadWrite.All", "User.Read.All"),
        "spared": "",
    }
    return Facts(**(values | changes))


def proposed(**changes: Any) -> Proposal | None:
    entry = judge(facts(**changes), AFTER, NOW)
    return None if entry is None else entry.proposal


def test_unused_able_and_powerful_is_to_be_disabled_with_the_reasons() -> None:
    entry = judge(facts(), AFTER, NOW)

    assert entry is not None
    assert entry.proposal is Proposal.DISABLE
    assert entry.reasons == (
        "last signed in 200 days ago",
        "it can still sign in with a secret until 2027-01-01",
        "it holds Directory.ReadWrite.All: disable it, once a person has approved",
    )
    assert entry.unknown == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"signed_in": SignedIn(ago(89), ago(91))},
        {"signed_in": SignedIn(None, ago(91)), "created": ago(10)},
        {"live": ()},
        {"principal": principal(account_enabled=False)},
        {"principal": principal(kind=Kind.MICROSOFT)},
    ],
    ids=["signed in 89 days ago", "made ten days ago", "nothing to sign in with", "disabled", "Microsoft's"],
)
def test_who_is_used_new_or_unable_is_not_in_the_report(changes: dict[str, Any]) -> None:
    assert proposed(**changes) is None


@pytest.mark.parametrize(("days", "dormant_then"), [(89.9, False), (90, True), (90.1, True)])
def test_ninety_days_are_dormant(days: float, dormant_then: bool) -> None:
    assert (proposed(signed_in=SignedIn(ago(days), ago(91))) is not None) is dormant_then


@pytest.mark.parametrize(
    ("changes", "proposal"),
    [
        ({"permissions": ("User.Read.All",)}, Proposal.ASK_OWNER),
        ({"permissions": ("Mail.Read",)}, Proposal.DISABLE),
        ({"permissions": ()}, Proposal.WATCH),
        ({"spared": "it is on the protected list"}, Proposal.ASK_OWNER),
        ({"principal": principal(kind=Kind.OTHER)}, Proposal.ASK_OWNER),
        ({"principal": principal(kind=Kind.MANAGED_IDENTITY)}, Proposal.DISABLE),
        ({"signed_in": SignedIn(None, ago(91))}, Proposal.DISABLE),
        ({"signed_in": SignedIn(None, ago(30))}, Proposal.WATCH),
        ({"signed_in": Unknown("403")}, Proposal.WATCH),
        ({"signed_in": SignedIn(None, ago(91)), "created": Unknown("no date")}, Proposal.WATCH),
        ({"live": Unknown("503")}, Proposal.WATCH),
        ({"permissions": Unknown("403")}, Proposal.WATCH),
        ({"principal": principal(account_enabled=None)}, Proposal.WATCH),
        ({"spared": Unknown("no list")}, Proposal.WATCH),
    ],
)
def test_what_is_proposed(changes: dict[str, Any], proposal: Proposal) -> None:
    entry = judge(facts(**changes), AFTER, NOW)

    assert entry is not None
    assert entry.proposal is proposal
    if any(isinstance(value, Unknown) for value in changes.values()):
        assert entry.unknown


def test_logs_that_reach_back_too_short_say_so() -> None:
    entry = judge(facts(signed_in=SignedIn(None, ago(30))), AFTER, NOW)

    assert entry is not None
    assert entry.unknown == ("last sign-in: the sign-in logs reach back to 2026-10-25 only",)


times = st.floats(0, 500).map(ago)
all_facts = st.builds(
    Facts,
    principal=st.builds(
        principal, kind=st.sampled_from(list(Kind)), account_enabled=st.sampled_from([True, False, None])
    ),
    created=st.one_of(times, st.just(Unknown("?"))),
    signed_in=st.one_of(st.builds(SignedIn, st.one_of(st.none(), times), times), st.just(Unknown("?"))),
    live=st.sampled_from([(), ("a secret",), Unknown("?"), NotAsked("-")]),
    permissions=st.sampled_from([(), ("User.Read.All",), ("Mail.Send",), Unknown("?"), NotAsked("-")]),
    spared=st.sampled_from(["", "protected", Unknown("?")]),
)
fields = st.sets(
    st.sampled_from(["created", "signed_in", "live", "permissions", "spared", "enabled"]), min_size=1
)


def boldness(entry: Entry | None) -> int:
    """Not being listed and to be watched are alike: neither asks anybody to do something."""
    return 0 if entry is None else list(Proposal).index(entry.proposal)


@given(all_facts, fields)
def test_an_added_unknown_never_proposes_more(before: Facts, names: set[str]) -> None:
    changes: dict[str, Any] = {name: Unknown("not answered") for name in names - {"enabled"}}
    if "enabled" in names:
        changes["principal"] = replace(before.principal, account_enabled=None)

    after = judge(replace(before, **changes), AFTER, NOW)

    assert boldness(after) <= boldness(judge(before, AFTER, NOW))


@given(all_facts)
def test_only_what_is_known_to_be_dormant_and_able_is_proposed_for_more_than_watching(
    given_facts: Facts,
) -> None:
    entry = judge(given_facts, AFTER, NOW)

    if entry is not None and entry.proposal is not Proposal.WATCH:
        assert entry.silent_since is not None
        assert NOW - entry.silent_since >= AFTER
        assert entry.live
        assert entry.principal.account_enabled is True


def test_the_most_pressing_come_first() -> None:
    entries = [
        judge(facts(principal=principal(n), **changes), AFTER, NOW)
        for n, changes in enumerate(
            [
                {"live": Unknown("?")},
                {"permissions": ("User.Read.All",)},
                {"permissions": ("Mail.Send",), "signed_in": SignedIn(ago(100), ago(91))},
                {"permissions": ("Mail.Send",), "signed_in": SignedIn(ago(300), ago(91))},
                {"permissions": ("Mail.Send", "Files.ReadWrite.All")},
            ]
        )
    ]

    ranked = sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.rank)

    assert [int(entry.principal.object_id[-1]) for entry in ranked] == [4, 3, 2, 1, 0]


def report_of(number: int, made_at: datetime = NOW, **changes: Any) -> Report:
    entries = [judge(facts(principal=principal(n, **changes)), AFTER, made_at) for n in range(number)]
    kept = tuple(entry for entry in entries if entry is not None)
    return Report(made_at, AFTER, 5000, number, ("a table: 403",), kept)


async def test_a_report_is_read_page_by_page_as_it_was_written(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}", TENANT)
    try:
        assert await dormant.read(store, 1) is None
        await dormant.write(report_of(250), store)

        pages = [await dormant.read(store, number) for number in (1, 2, 3, 4)]
    finally:
        await store.close()

    assert [len(page[1]) for page in pages if page] == [100, 100, 50, 0]
    head = pages[0][0] if pages[0] else {}
    assert (head["pages"], head["shown"], head["found"]) == (3, 250, 250)
    assert head["unread"] == ["a table: 403"]


async def test_names_as_long_as_they_come_still_fit_into_the_store(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}", TENANT)
    named = tuple("\U0001f511" * 110 + str(n) for n in range(40))
    entries = tuple(
        entry
        for n in range(dormant.MAX_ENTRIES)
        if (
            entry := judge(
                facts(principal=principal(n, display_name="\U0001f511" * 1000), permissions=named), AFTER, NOW
            )
        )
    )
    try:
        await dormant.write(Report(NOW, AFTER, 5000, len(entries), (), entries), store)
        found = await dormant.read(store, 1)
    finally:
        await store.close()

    assert found is not None
    assert 0 < found[0]["shown"] < found[0]["found"] == dormant.MAX_ENTRIES


async def test_names_of_quotes_and_backslashes_still_fit_into_the_store(tmp_path: Path) -> None:
    """They count twice in transit; anybody who may register an application chooses its name."""
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}", TENANT)
    named = tuple('"\\' * 60 + str(n) for n in range(20))
    entries = tuple(
        entry
        for n in range(dormant.MAX_ENTRIES)
        if (entry := judge(facts(principal=principal(n), permissions=named), AFTER, NOW))
    )
    try:
        await dormant.write(Report(NOW, AFTER, 5000, len(entries), (), entries), store)
        found = await dormant.read(store, 1)
    finally:
        await store.close()

    assert found is not None
    assert found[0]["shown"] > 0


def test_that_the_sign_ins_of_people_were_not_read_is_said_where_it_is_to_be_disabled() -> None:
    entry = judge(facts(signed_in=SignedIn(ago(200), ago(91), of_people=False)), AFTER, NOW)

    assert entry is not None
    assert "people" in entry.reasons[-1]


async def test_the_last_seven_reports_are_kept(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}", TENANT)
    try:
        for day in range(9):
            await dormant.write(report_of(150, NOW + timedelta(days=day)), store)
        heads, pages = await store.scan("dormant:"), await store.scan("dormant-page:")
        newest = await dormant.read(store, 1)
    finally:
        await store.close()

    assert (len(heads), len(pages)) == (7, 14)
    assert newest is not None
    assert newest[0]["made_at"] == (NOW + timedelta(days=8)).isoformat()
