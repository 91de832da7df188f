from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clients.terms import ObjectId
from detections.news import Extended, Known, News, weigh
from response.finding import AFTER_CONTAINMENT, TEXT_LIMIT, Finding, Source, Tier

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
AGENT = ObjectId("11111111-2222-4333-8444-000000000004")
NEVER, DAY = timedelta(0), timedelta(hours=26)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def finding(first: float, last: float, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "source": Source.RULE,
        "rule_id": "AG-01",
        "family": "reach",
        "tier": Tier.CORROBORATED,
        "principal": AGENT,
        "first_seen": at(first),
        "last_seen": at(last),
        "reason": "new audience",
        "raised_by": "agentbreaker",
        "resource": "vault",
    }
    return Finding(**(values | changes))


def known(first: float, last: float, *, judged: float = 0, **changes: Any) -> Known:
    return Known(finding(first, last, **changes), at(judged))


def test_what_nobody_knows_is_news() -> None:
    assert weigh(finding(0, 1), [], NEVER) == News(finding(0, 1))


@pytest.mark.parametrize("other", [{"rule_id": "AG-02"}, {"principal": ObjectId("1" * 8 + AGENT[8:])}])
def test_another_rule_or_principal_hides_nothing(other: dict[str, Any]) -> None:
    same_but = (
        finding(0, 1) if "rule_id" in other else replace(finding(0, 1), principal=ObjectId("9" + AGENT[1:]))
    )

    assert isinstance(weigh(same_but, [known(0, 1, **other)], DAY), News)


def test_the_same_time_is_the_same_claim_whatever_the_resource() -> None:
    assert weigh(finding(1, 2, resource="other"), [known(0, 5)], NEVER) is None


def test_what_goes_on_moves_the_end_and_keeps_the_name() -> None:
    found = weigh(finding(3, 9), [known(0, 5)], NEVER)

    assert isinstance(found, Extended)
    assert not found.quiet
    assert (found.finding.first_seen, found.finding.last_seen) == (at(0), at(9))
    assert found.known.finding == finding(0, 9)


def test_what_weighs_more_is_news_under_the_known_name() -> None:
    found = weigh(finding(3, 9, tier=Tier.AUTO), [known(0, 5)], NEVER)

    assert isinstance(found, News)
    assert found.finding.key == finding(0, 5).key
    assert found.finding.tier is Tier.AUTO


def test_of_two_claims_the_bolder_is_compared() -> None:
    both = [known(0, 5), known(10, 15, tier=Tier.AUTO)]

    assert weigh(finding(4, 12, tier=Tier.AUTO), both, NEVER) is None


def test_what_was_doubted_hides_nothing_that_is_not() -> None:
    """An incident that names two principals waits for a person; the rule's own finding about one of them does not."""
    doubted = known(0, 5, tier=Tier.AUTO, doubts=("the incident names 2 principals",))

    assert isinstance(weigh(finding(1, 4, tier=Tier.AUTO), [doubted], NEVER), News)
    assert weigh(replace(doubted.finding, first_seen=at(1)), [doubted], NEVER) is None


def test_a_known_claim_keeps_its_verdict_and_an_old_record_has_none() -> None:
    told = replace(known(0, 5), verdict="contain")

    assert Known.from_body(told.to_body()) == told
    assert Known.from_body(known(0, 5).to_body()).verdict == ""


def test_without_a_quiet_time_a_gap_makes_it_news() -> None:
    assert isinstance(weigh(finding(6, 7), [known(0, 5)], NEVER), News)


@pytest.mark.parametrize(
    ("minutes", "news"), [(26 * 60 + 4, False), (26 * 60 + 5, False), (26 * 60 + 6, True)]
)
def test_the_same_resource_is_known_for_the_quiet_time(minutes: float, news: bool) -> None:
    found = weigh(finding(minutes, minutes), [known(0, 5)], DAY)

    assert isinstance(found, News) is news


def test_another_resource_is_news_within_the_quiet_time() -> None:
    assert isinstance(weigh(finding(60, 61, resource="graph"), [known(0, 5)], DAY), News)


def test_a_repetition_keeps_the_quiet_time_running_and_makes_nothing_fresher() -> None:
    first = weigh(finding(600, 605), [known(0, 5)], DAY)

    assert isinstance(first, Extended)
    assert first.quiet
    assert first.known.finding.last_seen == at(5)
    assert first.known.repeated_until == at(605)
    later = finding(26 * 60 + 300, 26 * 60 + 301)
    assert isinstance(weigh(later, [known(0, 5)], DAY), News)
    assert isinstance(weigh(later, [first.known], DAY), Extended)


def test_a_second_resource_at_the_same_time_joins_the_claim_and_is_quiet_afterwards() -> None:
    joined = weigh(finding(1, 4, resource="graph"), [known(0, 5)], DAY)

    assert isinstance(joined, Extended)
    assert joined.known.also == ("graph",)
    again = weigh(finding(100, 101, resource="graph"), [joined.known], DAY)
    assert isinstance(again, Extended)
    assert again.quiet


def test_a_resource_that_is_known_is_found_behind_another_claim_at_the_same_time() -> None:
    both = [known(0, 5, resource="graph"), known(60, 90, resource="vault", tier=Tier.AUTO)]

    found = weigh(finding(70, 71, resource="graph"), both, DAY)

    assert isinstance(found, Extended)
    assert found.known.finding.resource == "graph"


def test_a_bolder_repetition_is_news_within_the_quiet_time() -> None:
    found = weigh(finding(60, 61, tier=Tier.AUTO), [known(0, 5)], DAY)

    assert isinstance(found, News)
    assert found.finding.key == finding(0, 5).key


def test_what_says_that_a_block_failed_is_never_quiet() -> None:
    after = {"family": AFTER_CONTAINMENT}

    assert isinstance(weigh(finding(60, 61, **after), [known(0, 5, **after)], DAY), News)


def test_a_long_resource_is_the_same_after_the_store_has_cut_it() -> None:
    long = "r" * (TEXT_LIMIT + 50)
    stored = Known.from_body(known(0, 5, resource=long).to_body())

    assert isinstance(weigh(finding(60, 61, resource=long), [stored], DAY), Extended)


def test_what_weighs_more_keeps_the_resources_it_was_about() -> None:
    before = replace(known(0, 5, resource="graph"), also=("arm",), repeated_until=at(60))
    bolder = weigh(finding(61, 62, resource="arm", tier=Tier.AUTO), [before], DAY)

    assert isinstance(bolder, News)
    assert bolder.before == before
    after = Known(bolder.finding, at(63)).remembering(before)
    assert (after.finding.resource, after.also, after.said_until) == ("arm", ("graph",), at(62))
    assert isinstance(weigh(finding(90, 91, resource="graph"), [after], DAY), Extended)


def test_a_record_is_read_as_it_was_written_and_as_it_was_before_there_were_quiet_times() -> None:
    record = replace(known(0, 5, lifts=("AG-01",)), also=("graph",), repeated_until=at(9))
    assert Known.from_body(record.to_body()) == record

    old = known(0, 5).to_body()
    del old["lifts"]
    assert Known.from_body(old) == known(0, 5)


tiers = st.sampled_from(list(Tier))
spans = st.tuples(st.integers(0, 3000), st.integers(0, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))
rows = st.lists(st.tuples(spans, tiers, st.sampled_from(["vault", "graph", "arm"])), max_size=12)


def remembered(said: list[Finding], quiet_for: timedelta) -> tuple[dict[str, Known], list[Finding]]:
    """Judge findings one after the other, as the sweep does."""
    records: dict[str, Known] = {}
    judged = []
    for each in said:
        match weigh(each, records.values(), quiet_for):
            case News(finding=news, before=before):
                records[news.key] = Known(news, NOON)
                if before is not None and quiet_for:
                    records[news.key] = records[news.key].remembering(before)
                judged.append(news)
            case Extended(known=grown):
                records[grown.finding.key] = grown
            case None:
                pass
    return records, judged


@example(
    [
        ((1, 1), Tier.CORROBORATED, "vault"),
        ((0, 0), Tier.CORROBORATED, "vault"),
        ((0, 1), Tier.AUTO, "graph"),
    ],
    DAY,
)
@given(rows, st.sampled_from([NEVER, DAY]))
def test_saying_everything_again_in_the_same_order_judges_nothing_again(
    said: Any, quiet_for: timedelta
) -> None:
    findings = [finding(*span, tier=tier, resource=resource) for span, tier, resource in said]

    records, judged = remembered(findings, quiet_for)
    for each in findings:
        assert not isinstance(weigh(each, records.values(), quiet_for), News)
    assert len({one.key for one in judged}) == len(records)


@given(rows, st.sampled_from([NEVER, DAY]))
def test_every_claim_has_been_judged_at_least_as_boldly_as_it_was_made(
    said: Any, quiet_for: timedelta
) -> None:
    findings = [finding(*span, tier=tier, resource=resource) for span, tier, resource in said]

    _, judged = remembered(findings, quiet_for)

    boldness = [Tier.CONTEXT, Tier.APPROVAL, Tier.CORROBORATED, Tier.AUTO]
    for each in findings:
        assert any(boldness.index(j.tier) >= boldness.index(each.tier) for j in judged)
