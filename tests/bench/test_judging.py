"""That the measurement of a judgement judges what it says it judges. How fast that is, is not asserted."""

from bench import judging


def test_it_measures_what_it_says(monkeypatch):
    monkeypatch.setattr(judging, "JUDGEMENTS", 200)

    found = judging.measure(1)

    assert found["runs"] == found["judgement"]["runs"] == sum(found["verdicts"].values()) == 600
    assert all(found["verdicts"].values())  # every way out is among what is timed
    assert found["ok"] is (found["judgement"]["p95"] <= judging.TARGET_MS >= found["judgement"]["p50"])


def test_each_is_judged_on_as_many_earlier_findings_as_it_says():
    cases = judging._cases()

    assert len(cases) == judging.JUDGEMENTS
    assert {len(evidence.earlier) for _, evidence in cases} == {judging.EARLIER}
    assert {len({f.family for f in evidence.earlier}) > 1 for _, evidence in cases} == {True, False}
