"""
Every alert fires on what it is for and on nothing else.

Rows of the ledger and of telemetry are those of a story that the app lived through and sent by itself; where the story
has no such row (a refusal, a break) one of its rows is changed in the one respect that matters. Rows of AzureActivity and
AuditLogs are made up after the tables' documentation.
"""

import copy
import re
from datetime import timedelta

import pytest
from workspace import ALERTS, ROOT, TABLES, duration, fires

NAMES = [alert["name"] for alert in ALERTS]
FRESH = {"containment-happened"}  # the story contains, and that alone is told


OF_THE_LEDGER = {
    alert["name"] for alert in ALERTS if alert["query"].startswith("AgentbreakerAudit_CL")
} - FRESH


@pytest.fixture
def calm(told):
    return copy.deepcopy(told[0])


@pytest.fixture
def now(told):
    return told[2]


def audit(rows, kind, **changes):
    """A row of the ledger's copy, of another kind, twice as a lost answer leaves it."""
    row = copy.deepcopy(next(row for row in rows["AgentbreakerAudit_CL"] if row["Kind"] == "confirmed"))
    row |= {"Kind": kind, "EventId": f"made-{kind}", "Number": 900_000, **changes}
    return [row, copy.deepcopy(row)]


def metric(rows, like, name, value, **properties):
    """A row of a measurement, made of one that the app sent."""
    row = copy.deepcopy(next(row for row in rows["AppMetrics"] if row["Name"] == f"agentbreaker.{like}"))
    return row | {
        "Name": f"agentbreaker.{name}",
        "Sum": value,
        "Min": value,
        "Max": value,
        "Properties": properties,
    }


def activity(
    now,
    operation,
    resource="/subscriptions/x/resourceGroups/rg-agentbreaker/providers/Microsoft.Web/sites/func-agentbreaker-1",
    status="Success",
):
    return {
        "TimeGenerated": now - timedelta(minutes=3),
        "OperationNameValue": operation,
        "ActivityStatusValue": status,
        "ResourceId": resource,
        "_ResourceId": resource.lower(),
        "CorrelationId": f"c-{operation}",
        "Caller": "admin@example.com",
    }


def entra(now, operation, target="id-agentbreaker-1"):
    return {
        "TimeGenerated": now - timedelta(minutes=3),
        "Id": f"a-{operation}",
        "OperationName": operation,
        "Result": "success",
        "TargetResources": [
            {
                "displayName": "Microsoft Graph",
                "modifiedProperties": [
                    {"displayName": "ServicePrincipal.DisplayName", "newValue": f'"{target}"'}
                ],
            }
        ],
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_story_alone_fires_nothing_but_that_somebody_was_contained(calm, now, name):
    assert bool(fires(name, calm, now)) is (name in FRESH)


@pytest.mark.parametrize("name", NAMES)
def test_microsofts_parser_takes_it(parser, name):
    (alert,) = [alert for alert in ALERTS if alert["name"] == name]

    assert parser.check(alert["query"]).errors == ()


def test_a_containment_is_told_once_however_often_its_row_came(calm, now):
    pulled = [row for row in calm["AgentbreakerAudit_CL"] if row["Kind"] == "pulled"]
    found = fires("containment-happened", calm, now)

    assert len(pulled) > len({row["EventId"] for row in pulled})  # an answer was lost, so they came twice
    assert len(found) == len({row["EventId"] for row in pulled}) == 2
    assert {row["PrincipalId"] for row in found} == {row["Subject"] for row in pulled}


def test_an_old_containment_is_told_no_more(calm, now):
    assert fires("containment-happened", calm, now + timedelta(hours=25)) == []


@pytest.mark.parametrize(
    ("name", "kind", "body"),
    [
        (
            "containment-failed",
            "failed",
            {"state": "failed", "failure": "sign-in x succeeded 12 minutes after"},
        ),
        ("containment-failed", "undo_failed", {}),
        ("containment-not-covered", "not_covered", {"armed": "no enabled policy"}),
        ("nobody-decided", "expired", {}),
        ("kill-switch", "kill_switch", {"stopped": True}),
        ("storm-brake", "brake_tripped", {"why": "3 automatic containments within 60 minutes"}),
        ("notification-dead", "notification_dead", {}),
        ("ledger-broken", "unreadable", {"found": "?"}),
        ("ledger-broken", "break_accepted", {"reason": "restored"}),
    ],
)
def test_an_entry_of_the_ledger_fires_its_alert_once(calm, now, name, kind, body):
    calm["AgentbreakerAudit_CL"] += audit(calm, kind, Body=body)

    assert len(fires(name, calm, now)) == 1
    others = [other for other in OF_THE_LEDGER - {name} if fires(other, calm, now)]
    assert others == []


@pytest.mark.parametrize("name", sorted(OF_THE_LEDGER | FRESH))
def test_what_reaches_the_workspace_hours_late_is_told(calm, now, name):
    """Rows carry the time of what happened: an hour's window was over before they came."""
    (alert,) = [alert for alert in ALERTS if alert["name"] == name]

    assert duration(alert["window"]) == timedelta(days=1)


def on_the_way(calm, now, *steps):
    """Entries of one containment as (kind, minutes ago), its state claimed where none is given; each twice."""
    rows = []
    for number, (kind, ago, *state) in enumerate(steps):
        body = {"state": state[0] if state else "claimed"}
        rows += audit(
            calm, kind, EventId=f"e-{number}", Number=900_000 + number, ContainmentId="stuck", Body=body,
            TimeGenerated=now - timedelta(minutes=ago),
        )  # fmt: skip
    calm["AgentbreakerAudit_CL"] += rows


@pytest.mark.parametrize(
    "steps",
    [
        [("claimed", 6)],
        [("claimed", 600), ("pull_started", 599), ("pull_unknown", 1)],
        [("claimed", 30), ("pull_deferred", 1)],
        [("claimed", 9), ("pull_started", 8), ("notified", 7, "claimed"), ("commented", 6)],
        [("parked", 90, "awaiting_approval"), ("approved", 10)],
        [("pulled", 90, "pulled"), ("undo_requested", 20, "pulled"), ("undo_unknown", 1, "pulled")],
    ],
)
def test_a_containment_that_does_not_come_to_its_end_fires_once(calm, now, steps):
    on_the_way(calm, now, *steps)

    ((found,)) = fires("containment-stuck", calm, now)
    assert found["ContainmentId"] == "stuck"


@pytest.mark.parametrize(
    "steps",
    [
        [("claimed", 4), ("pull_started", 3)],
        [("claimed", 600), ("pull_started", 599), ("pulled", 598, "pulled")],
        [("claimed", 600), ("failed", 590, "failed")],
        [("claimed", 600), ("parked", 599, "awaiting_approval")],
        [("parked", 90, "awaiting_approval"), ("approved", 60, "awaiting_approval")],  # the first of two
        [("claimed", 600), ("parked", 500, "awaiting_approval"), ("approved", 3), ("pull_started", 2)],
        [("undo_requested", 90, "pulled"), ("undone", 80, "half_open")],
    ],
)
def test_a_containment_that_did_or_is_about_to_is_no_stuck_one(calm, now, steps):
    on_the_way(calm, now, *steps)

    assert fires("containment-stuck", calm, now) == []


def test_what_readiness_need_not_know_calls_nobody(calm, now):
    calm["AppMetrics"].append(
        metric(
            calm,
            "service_errors",
            "service_errors",
            2.0,
            service="Resource Manager",
            status="403",
            error="Refused",
        )
    )

    assert fires("service-refuses", calm, now) == []


def test_one_refusal_of_the_playbook_is_told(calm, now):
    calm["AppMetrics"].append(
        metric(calm, "findings", "refused_calls", 1.0, code="missing_role", trigger="incidents")
    )

    assert [row["Code"] for row in fires("calls-refused", calm, now)] == ["missing_role"]


def test_lines_that_were_sampled_are_counted_as_what_they_stand_for(calm, now):
    line = {
        "TimeGenerated": now - timedelta(minutes=1), "AppRoleName": "agentbreaker", "SeverityLevel": 2,
        "Message": "the audit table is behind: Logs ingestion", "ItemCount": 10,
    }  # fmt: skip
    calm["AppTraces"] = [dict(line)]

    assert len(fires("audit-behind", calm, now)) == 1


def test_the_kill_switch_and_refused_callers_of_the_story_fire(told):
    _, rows, now = told

    assert len(fires("kill-switch", rows, now)) == 1
    ((refused,)) = fires("calls-refused", rows, now)
    assert (refused["Code"], refused["Calls"]) == ("missing_role", 5.0)


def test_four_refused_calls_are_somebody_who_is_wrong(calm, now):
    calm["AppMetrics"].append(
        metric(calm, "findings", "refused_calls", 4.0, code="missing_role", trigger="undo")
    )

    assert fires("calls-refused", calm, now) == []


@pytest.mark.parametrize(
    ("service", "status"),
    [("Microsoft Graph", "403"), ("Log Analytics", "401"), ("Microsoft Sentinel", "403")],
)
def test_a_refusal_by_a_service_fires(calm, now, service, status):
    calm["AppMetrics"].append(
        metric(calm, "service_errors", "service_errors", 1.0, service=service, status=status, error="Refused")
    )

    ((found,)) = fires("service-refuses", calm, now)
    assert (found["Service"], found["Status"]) == (service, status)


def test_a_token_that_entra_refuses_has_no_status_and_fires(calm, now):
    calm["AppMetrics"].append(
        metric(calm, "service_errors", "service_errors", 1.0, service="Entra", status="0", error="Refused")
    )

    assert len(fires("service-refuses", calm, now)) == 1


@pytest.mark.parametrize(("times", "fired"), [(9.0, False), (10.0, True)])
def test_throttling_fires_when_it_goes_on(calm, now, times, fired):
    calm["AppMetrics"].append(
        metric(
            calm,
            "service_errors",
            "service_errors",
            times,
            service="Microsoft Graph",
            status="429",
            error="Throttled",
        )
    )

    assert bool(fires("throttled", calm, now)) is fired
    assert fires("service-refuses", calm, now) == []


@pytest.mark.parametrize(("times", "fired"), [(2.0, False), (3.0, True)])
def test_partial_answers_fire_when_they_go_on(calm, now, times, fired):
    calm["AppMetrics"].append(metric(calm, "watermark_age", "partials", times, rule="AG-21"))

    assert bool(fires("partial-results", calm, now)) is fired


@pytest.mark.parametrize("missing", ["fast", "windowed", "baseline"])
def test_a_group_that_is_not_swept_fires(calm, now, missing):
    calm["AppMetrics"] = [row for row in calm["AppMetrics"] if row["Properties"].get("group") != missing]

    assert [row["Group"] for row in fires("no-sweep", calm, now)] == [missing]


def test_a_dead_app_fires_although_there_is_not_one_row(now):
    """The dead-man alert lives outside the app: silence is what it hears."""
    assert {row["Group"] for row in fires("no-sweep", dict.fromkeys(TABLES, ()), now)} == {
        "fast",
        "windowed",
        "baseline",
        "settle",
    }


def test_an_app_that_died_half_an_hour_ago_fires_for_what_should_have_run_since(calm, now):
    assert {row["Group"] for row in fires("no-sweep", calm, now + timedelta(minutes=30))} == {
        "fast",
        "windowed",
        "settle",
    }


def test_a_settle_that_stopped_fires_while_sweeps_go_on(calm, now):
    """It pulls, proves and ships the ledger: without it every alert on the ledger would be blind."""
    calm["AppMetrics"] = [row for row in calm["AppMetrics"] if row["Properties"].get("group") != "settle"]

    assert [row["Group"] for row in fires("no-sweep", calm, now)] == ["settle"]


def test_a_rule_whose_sweeps_never_end_fires_and_one_that_did_is_silent(calm, now):
    def swept(rule, outcome):
        return metric(calm, "rule_sweeps", "rule_sweeps", 1.0, rule=rule, outcome=outcome)

    calm["AppMetrics"] += [swept("AG-98", "failed") for _ in range(3)]
    calm["AppMetrics"] += [*(swept("AG-99", "failed") for _ in range(5)), swept("AG-99", "ok")]

    assert [row["Rule"] for row in fires("rule-blind", calm, now)] == ["AG-98"]


def test_somebody_elses_heartbeat_is_not_ours(calm, now):
    for row in calm["AppMetrics"]:
        row["AppRoleName"] = "another-app"

    assert len(fires("no-sweep", calm, now)) == 4


@pytest.mark.parametrize(
    ("group", "age", "fired"),
    [
        ("fast", 601.0, True),
        ("fast", 599.0, False),
        ("windowed", 1100.0, False),
        ("windowed", 1201.0, True),
        ("baseline", 4000.0, False),
        ("baseline", 11401.0, True),
    ],
)
def test_a_watermark_that_stays_behind_fires(calm, now, group, age, fired):
    row = metric(calm, "watermark_age", "watermark_age", age, rule="AG-99", group=group)
    calm["AppMetrics"].append(row)

    assert bool(fires("watermark-behind", calm, now)) is fired


def test_a_watermark_that_caught_up_is_silent(calm, now):
    old = metric(calm, "watermark_age", "watermark_age", 9000.0, rule="AG-99", group="fast")
    new = metric(calm, "watermark_age", "watermark_age", 5.0, rule="AG-99", group="fast")
    calm["AppMetrics"] += [old | {"TimeGenerated": now - timedelta(hours=1)}, new]

    assert fires("watermark-behind", calm, now) == []


@pytest.mark.parametrize("broken", ["Hash", "PreviousHash"])
def test_a_row_changed_in_the_copy_fires(calm, now, broken):
    numbers = sorted({row["Number"] for row in calm["AgentbreakerAudit_CL"]})
    for row in calm["AgentbreakerAudit_CL"]:
        if row["Number"] == numbers[2]:
            row[broken] = "0" * 64

    assert fires("ledger-broken", calm, now)


def test_a_second_entry_with_the_same_number_fires(calm, now):
    row = copy.deepcopy(calm["AgentbreakerAudit_CL"][3])
    calm["AgentbreakerAudit_CL"].append(row | {"EventId": "forged", "Hash": "f" * 64})

    assert fires("ledger-broken", calm, now)


def test_a_check_of_the_app_that_found_a_break_fires(calm, now):
    calm["AppMetrics"].append(metric(calm, "ledger.checks", "ledger.checks", 1.0, outcome="broken"))

    assert [row["What"] for row in fires("ledger-broken", calm, now)] == ["the app found it broken"]


def table_request(now, **changes):
    return {
        "TimeGenerated": now - timedelta(minutes=10),
        "AccountName": "LEDGER_ACCOUNT",  # what the deployment writes in stands in the query here
        "Category": "StorageWrite",
        "OperationName": "InsertEntity",
        "AuthenticationType": "OAuth",
        "RequesterObjectId": "APP_PRINCIPAL",
        "StatusCode": "204",
        "CorrelationId": "c-1",
    } | changes


def test_what_the_app_writes_into_its_table_is_silent(calm, now):
    calm["StorageTableLogs"] = [
        table_request(now),
        table_request(
            now, Category="StorageDelete", OperationName="DeleteEntity", RequesterObjectId="app_principal"
        ),
        table_request(now, RequesterObjectId="a-person", AccountName="anothers"),
        table_request(
            now, RequesterObjectId="a-person", Category="StorageRead", OperationName="QueryEntities"
        ),
        table_request(now, RequesterObjectId="a-pipeline", OperationName="CreateTable"),
    ]

    assert fires("ledger-written-by-others", calm, now) == []


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"RequesterObjectId": "a-person"}, "a-person"),
        (
            {"RequesterObjectId": "a-person", "Category": "StorageDelete", "OperationName": "DeleteEntity"},
            "a-person",
        ),
        ({"RequesterObjectId": "a-person", "OperationName": "EntityGroupTransaction"}, "a-person"),
        ({"RequesterObjectId": "a-person", "StatusCode": "403"}, "a-person"),
        ({"RequesterObjectId": "", "AuthenticationType": "AccountKey"}, "AccountKey"),
    ],
)
def test_a_write_into_the_ledgers_table_by_somebody_else_fires_once(calm, now, changes, who):
    calm["StorageTableLogs"] = [table_request(now), *[table_request(now, **changes)] * 2]

    ((found,)) = fires("ledger-written-by-others", calm, now)

    assert (found["Who"], found["Requests"]) == (who, 1)


@pytest.mark.parametrize(
    "operation",
    [
        "MICROSOFT.WEB/SITES/CONFIG/WRITE",
        "Microsoft.Web/sites/stop/action",
        "MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/WRITE",
        "MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/DELETE",
        "MICROSOFT.MANAGEDIDENTITY/USERASSIGNEDIDENTITIES/FEDERATEDIDENTITYCREDENTIALS/WRITE",
        "MICROSOFT.INSIGHTS/SCHEDULEDQUERYRULES/DELETE",
        "MICROSOFT.INSIGHTS/ACTIONGROUPS/WRITE",
        "MICROSOFT.ALERTSMANAGEMENT/ACTIONRULES/WRITE",
        "MICROSOFT.AUTHORIZATION/LOCKS/DELETE",
        "MICROSOFT.LOGIC/WORKFLOWS/DISABLE/ACTION",
        "MICROSOFT.STORAGE/STORAGEACCOUNTS/WRITE",
        "MICROSOFT.OPERATIONALINSIGHTS/WORKSPACES/TABLES/DELETE",
        "MICROSOFT.WEB/SITES/BASICPUBLISHINGCREDENTIALSPOLICIES/WRITE",
    ],
)
def test_a_change_around_the_app_fires_once(calm, now, operation):
    row = activity(now, operation)
    calm["AzureActivity"] = [row, row | {"ActivityStatusValue": "Start"}, dict(row)]

    assert len(fires("settings-changed", calm, now)) == 1


def test_changes_elsewhere_attempts_and_restarts_are_silent(calm, now):
    calm["AzureActivity"] = [
        activity(
            now,
            "MICROSOFT.WEB/SITES/CONFIG/WRITE",
            "/subscriptions/x/resourceGroups/rg-shop/providers/Microsoft.Web/sites/shop",
        ),
        activity(now, "MICROSOFT.WEB/SITES/CONFIG/WRITE", status="Failure"),
        activity(now, "MICROSOFT.WEB/SITES/RESTART/ACTION"),
    ]

    assert fires("settings-changed", calm, now) == []


@pytest.mark.parametrize(
    "operation",
    [
        "Add app role assignment to service principal",
        "Remove app role assignment from service principal",
        "Add service principal credentials",
        "Add owner to service principal",
        "Add member to role",
        "Remove member from role",
        "Consent to application",
        "Delete application",
        "Remove service principal",
        "Update application \N{EN DASH} Certificates and secrets management",
    ],
)
def test_a_change_of_our_rights_in_entra_fires(calm, now, operation):
    calm["AuditLogs"] = [entra(now, operation)]

    assert len(fires("rights-changed", calm, now)) == 1


def test_changes_of_other_principals_are_silent(calm, now):
    calm["AuditLogs"] = [
        entra(now, "Add app role assignment to service principal", "invoice-reader"),
        entra(now, "Add user"),
    ]

    assert fires("rights-changed", calm, now) == []


@pytest.mark.parametrize(("times", "fired"), [(9, False), (10, True)])
def test_a_ledger_that_does_not_arrive_fires_by_the_other_way(calm, now, times, fired):
    behind = [row for row in calm["AppTraces"] if row["Message"].startswith("the audit table is behind")]
    assert behind  # the story lost an answer once, and the app said so in these words
    others = [row for row in calm["AppTraces"] if row not in behind]
    calm["AppTraces"] = others + [behind[0] | {"TimeGenerated": now - timedelta(minutes=1)}] * times

    assert bool(fires("audit-behind", calm, now)) is fired


def test_a_line_at_error_fires_and_a_warning_does_not(calm, now):
    line = copy.deepcopy(calm["AppTraces"][0])
    calm["AppTraces"].append(line | {"Message": "x", "SeverityLevel": 2})
    assert fires("app-errors", calm, now) == []

    calm["AppTraces"].append(
        line | {"Message": "settle failed: SettingsError AGENTBREAKER_TENANT_ID", "SeverityLevel": 3}
    )
    assert [row["Message"] for row in fires("app-errors", calm, now)] == [
        "settle failed: SettingsError AGENTBREAKER_TENANT_ID"
    ]


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_has_all_its_parts_and_a_runbook_that_exists(alert):
    assert set(alert) == {
        "name",
        "title",
        "description",
        "runbook",
        "severity",
        "every",
        "window",
        "threshold",
        "split",
        "query",
    }
    last = re.split(r"\n(?=\| (?:project|summarize|extend) )", alert["query"].rstrip())[-1]
    for column in alert["split"]:  # what a rule is split by has to be in its rows
        assert re.search(rf"\b{column}\b", last), f"{column} is not what the query ends with"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", alert["name"])
    assert 0 <= alert["severity"] <= 4
    assert duration(alert["every"]) <= duration(alert["window"])
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operate.md").read_text(), re.MULTILINE)
    assert alert["runbook"] in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_alert_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)
