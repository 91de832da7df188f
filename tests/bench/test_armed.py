"""That the measurement of armed-or-not asks what it says it asks. How fast that is, is not asserted."""

from bench import armed
from response.breaker import Breaker, Coverage
from response.coverage import About


def test_it_measures_what_it_says(monkeypatch):
    monkeypatch.setattr(armed, "PRINCIPALS", 300)
    found = armed.measure(1)

    assert (found["principals"], found["policies"], found["seconds"]["runs"]) == (300, armed.POLICIES, 5)
    assert sum(found["answers"].values()) == sum(found["answersWithReasons"].values()) == 300
    assert set(found["answers"]) >= {"armed", "not_covered"}
    assert set(found["answersWithReasons"]) >= {"armed", "not_covered", "unknown", "report_only"}
    assert found["ok"] is (
        found["seconds"]["p50"] <= armed.TARGET_SECONDS
        and found["secondsWithReasons"]["p50"] <= armed.TARGET_SECONDS
    )


def test_asking_many_gives_what_asking_each_alone_gives():
    policies, principals = armed._policies(), armed._principals()[:120]
    many = list(Breaker(policies).answers(principals))

    assert len(policies) == armed.POLICIES
    assert many == [Breaker(policies).answer(about) for about in principals]
    assert {answer.coverage for answer in many} >= {Coverage.ARMED, Coverage.NOT_COVERED}
    assert all(isinstance(about, About) for about in principals)
