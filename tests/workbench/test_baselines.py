"""The baseline tables: what a summary rule would have written, no more and no less."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detections import baselines
from detections.catalog import CatalogError
from workbench import schemas
from workbench.__main__ import GOOD, MISUSED, main
from workbench.baselines import backfill, summarise
from workbench.engine import LogEngine

DAY = datetime(2026, 3, 2, tzinfo=UTC)
AGENT = "11111111-2222-4333-8444-000000000001"
GRAPH = "MicrosoftGraphActivityLogs"
BASELINES = {baseline.table: baseline for baseline in baselines.load()}


@pytest.fixture
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


def call(
    number: int, at: datetime, path: str, *, method: str = "GET", status: int = 200
) -> dict[str, object]:
    return {
        "TimeGenerated": at,
        "RequestId": f"request-{number}",
        "ServicePrincipalId": AGENT.upper(),
        "AppId": "app",
        "RequestMethod": method,
        "RequestUri": f"https://graph.microsoft.com/v1.0/{path}",
        "ResponseStatusCode": status,
    }


def read(engine: LogEngine, table: str, *, at: datetime = DAY + timedelta(days=3)) -> list[dict[str, object]]:
    return engine.query(f"{table} | order by BinStart asc", now=at, visible_at=at).records()


@pytest.mark.parametrize("table", BASELINES)
def test_every_baseline_writes_the_columns_of_its_table(table: str, engine: LogEngine) -> None:
    found = engine.query(BASELINES[table].query, now=DAY)

    kinds = dict(schemas.tables()[table])
    assert [name for name, _ in found.columns] == [name for name in kinds if name != "TimeGenerated"]
    assert set(BASELINES[table].reads) <= set(schemas.tables())


def test_calls_are_counted_once_a_family_an_hour_and_a_quarter(engine: LogEngine) -> None:
    at = DAY + timedelta(hours=9)
    rows = [
        call(1, at, "users/a@example.com/messages/1"),
        call(2, at + timedelta(minutes=20), "users/b@example.com/messages/2?$select=id"),
        call(3, at + timedelta(minutes=59), "users/c@example.com/messages/2", status=403),
        call(4, at + timedelta(hours=1), "groups"),
    ]
    engine.insert(GRAPH, rows * 4)

    backfill(engine, DAY, DAY + timedelta(days=1))

    hours = read(engine, "AgentGraphHourly_CL")
    assert [(row["Family"], row["Calls"], row["Succeeded"], row["Refused"]) for row in hours] == [
        ("/users/{mail}/messages", 3, 2, 1),
        ("/groups", 1, 1, 0),
    ]
    assert [hours[0][f"Quarter{number}"] for number in range(4)] == [1, 1, 0, 1]
    assert hours[0]["TopMailboxes"] == 1
    assert {row["PrincipalId"] for row in hours} == {AGENT}
    daily = {(row["Source"], row["Resource"]): row["Calls"] for row in read(engine, "AgentResourceDaily_CL")}
    assert daily == {("Graph", "/groups"): 1, ("Graph", "/users/{mail}/messages"): 3}


def test_mailboxes_are_counted_however_the_path_names_them(engine: LogEngine) -> None:
    at = DAY + timedelta(hours=9)
    paths = [
        "users/a@example.com/messages",
        "users('b@example.com')/messages",
        "users('c@example.com')/messages/1",
    ]
    engine.insert(GRAPH, [call(number, at, path) for number, path in enumerate(paths)])

    backfill(engine, DAY, DAY + timedelta(days=1))

    found = {row["Family"]: row["TopMailboxes"] for row in read(engine, "AgentGraphHourly_CL")}
    assert found == {"/users/{mail}/messages": 1, "/users()/messages": 1, "/users()/messages/{n}": 1}


def test_a_bin_is_not_seen_before_its_end_and_delay(engine: LogEngine) -> None:
    engine.insert(GRAPH, [call(1, DAY + timedelta(hours=9, minutes=5), "groups")])
    backfill(engine, DAY, DAY + timedelta(days=1))
    due = DAY + timedelta(hours=10) + BASELINES["AgentGraphHourly_CL"].delay

    assert read(engine, "AgentGraphHourly_CL", at=due - timedelta(seconds=1)) == []
    assert len(read(engine, "AgentGraphHourly_CL", at=due)) == 1


def test_an_incomplete_bin_is_left_out(engine: LogEngine) -> None:
    engine.insert(GRAPH, [call(n, DAY + timedelta(hours=n), "groups") for n in range(30)])

    filled = {each.table: each for each in backfill(engine, DAY, DAY + timedelta(hours=28, minutes=30))}

    assert (filled["AgentGraphHourly_CL"].rows, filled["AgentResourceDaily_CL"].rows) == (28, 1)


def test_filling_again_changes_nothing(engine: LogEngine) -> None:
    engine.insert(GRAPH, [call(n, DAY + timedelta(hours=n), "groups") for n in range(24)])
    backfill(engine, DAY, DAY + timedelta(days=1))
    before = read(engine, "AgentGraphHourly_CL")

    backfill(engine, DAY, DAY + timedelta(days=1))

    assert read(engine, "AgentGraphHourly_CL") == before


def test_a_table_without_rows_gives_an_empty_baseline_however_many_days(engine: LogEngine) -> None:
    filled = backfill(engine, DAY - timedelta(days=30), DAY + timedelta(days=1))

    assert {one.table: one.rows for one in filled} == dict.fromkeys(BASELINES, 0)


def test_the_command_fills_what_the_logs_allow(tmp_path: Path) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    rows = [call(1, DAY, "users"), call(2, DAY + timedelta(days=1, hours=1), "users")]
    (logs / f"{GRAPH}.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))

    assert main(["backfill", "--logs", str(logs), "--out", str(out)]) == GOOD
    assert sorted(file.stem for file in out.iterdir()) == sorted(BASELINES)
    assert (out / "AgentVaultDaily_CL.jsonl").read_text() == ""
    # The hour of the last row is not complete.
    assert len((out / "AgentGraphHourly_CL.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("days", ["0", "-3", "99999999"])
def test_no_days_to_fill_is_misuse(tmp_path: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{GRAPH}.jsonl").write_text(json.dumps(call(1, DAY, "users"), default=str))

    assert (
        main(["backfill", "--logs", str(tmp_path), "--out", str(tmp_path / "out"), "--days", days]) == MISUSED
    )
    assert f"--days {days}" in capsys.readouterr().err


def test_one_run_at_a_time_gives_what_the_backfill_gives(engine: LogEngine) -> None:
    engine.insert(GRAPH, [call(n, DAY + timedelta(minutes=7 * n), f"users/{n % 3}") for n in range(200)])
    hourly = BASELINES["AgentGraphHourly_CL"]
    backfill(engine, DAY, DAY + timedelta(days=1), baselines=[hourly])
    at_once = read(engine, hourly.table)
    backfill(engine, DAY, DAY, baselines=[hourly])
    with engine.writing() as connection:
        connection.execute(f'DELETE FROM raw."{hourly.table}"')  # noqa: S608

    for hour in range(24):
        summarise(engine, hourly, DAY + timedelta(hours=hour))

    assert read(engine, hourly.table) == at_once


def test_a_row_that_comes_after_the_run_stays_out_as_in_azure(engine: LogEngine) -> None:
    hourly = BASELINES["AgentGraphHourly_CL"]
    happened = DAY + timedelta(hours=9, minutes=5)
    run = DAY + timedelta(hours=10) + hourly.delay
    engine.insert(GRAPH, [call(1, happened, "groups")], ingested_at=run)
    engine.insert(GRAPH, [call(2, happened, "users")], ingested_at=run + timedelta(seconds=1))

    summarise(engine, hourly, DAY + timedelta(hours=9))

    assert [row["Family"] for row in read(engine, hourly.table)] == ["/groups"]


def test_sign_ins_keep_network_credential_and_library(engine: LogEngine) -> None:
    row = {
        "TimeGenerated": DAY + timedelta(hours=1),
        "Id": "sign-in-1",
        "ServicePrincipalId": AGENT,
        "ServicePrincipalName": "reader",
        "AppId": "app",
        "ResultType": "0",
        "IPAddress": "192.0.2.77",
        "Location": "DE",
        "ClientCredentialType": "clientSecret",
        "ServicePrincipalCredentialKeyId": "AB",
        "AuthenticationProcessingDetails": '[{"key":"Azure AD App Authentication Library",'
        '"value":"Family: MSAL Library: MSAL.Python 1.28.0 Platform: Linux"}]',
        "UserAgent": "python-requests/2.31",
    }
    unknown = {
        **row,
        "Id": "sign-in-2",
        "IPAddress": "2001:DB8:1:2::3",
        "AuthenticationProcessingDetails": '[{"key":"Azure AD App Authentication Library",'
        '"value":"Family: Unknown Library: Unknown 1.0.0 Platform: Unknown"}]',
    }
    engine.insert("AADServicePrincipalSignInLogs", [row, unknown] * 4)
    engine.insert("AADManagedIdentitySignInLogs", [{**row, "Id": "sign-in-3", "IPAddress": ""}])

    backfill(engine, DAY, DAY + timedelta(days=1))

    found = {row["Network"]: row for row in read(engine, "AgentSignInDaily_CL")}
    assert {name: row["Successes"] for name, row in found.items()} == {"192.0": 1, "2001:db8:1": 1, "": 1}
    assert (found["192.0"]["Credential"], found["192.0"]["CredentialType"]) == (
        "clientsecret:ab",
        "clientsecret",
    )
    assert (found["192.0"]["Client"], found["192.0"]["ClientVersion"]) == ("msal.python", "1.28.0")
    assert (found["2001:db8:1"]["Client"], found["2001:db8:1"]["ClientVersion"]) == (
        "python-requests",
        "2.31",
    )


def test_resources_of_every_source_are_counted(engine: LogEngine) -> None:
    at = DAY + timedelta(hours=3)
    blob = {
        "TimeGenerated": at,
        "AccountName": "Lake",
        "OperationName": "GetBlob",
        "AuthenticationType": "OAuth",
        "RequesterObjectId": AGENT,
        "StatusCode": "200",
        "CorrelationId": "blob-1",
        "ObjectKey": "/lake/a",
        "ResponseBodySize": 1000,
    }
    engine.insert(
        "StorageBlobLogs", [blob, {**blob, "CorrelationId": "blob-2", "AuthenticationType": "SAS"}] * 2
    )
    engine.insert(
        "AzureActivity",
        [
            {
                "TimeGenerated": at,
                "Caller": AGENT,
                "OperationNameValue": "Microsoft.Compute/virtualMachines/runCommand/action",
                "ActivityStatusValue": status,
                "CorrelationId": "arm-1",
                "_ResourceId": "/subscriptions/s/resourceGroups/RG/providers/x",
            }
            for status in ("Start", "Success")
        ],
    )
    engine.insert(
        "OfficeActivity",
        [{"TimeGenerated": at, "ClientAppId": "APP", "Operation": "FileDownloaded", "Site_Url": "https://x/Sites/A",
          "OfficeObjectId": "o", "OfficeId": "1"}],
    )  # fmt: skip

    backfill(engine, DAY, DAY + timedelta(days=1))

    found = {row["Source"]: row for row in read(engine, "AgentResourceDaily_CL")}
    assert (found["StorageBlobLogs"]["Calls"], found["StorageBlobLogs"]["TopHourBytes"]) == (1, 1000)
    assert (found["AzureActivity"]["Calls"], found["AzureActivity"]["Resource"]) == (
        1,
        "/subscriptions/s/resourcegroups/rg",
    )
    assert (found["OfficeActivity"]["PrincipalId"], found["OfficeActivity"]["AppId"]) == ("", "app")


def test_a_wrong_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "baselines.yaml").write_text(
        "- {table: X, query: none.kql, bin: 1h, delay: soon, reads: []}\n- 3\n"
    )

    with pytest.raises(CatalogError) as refused:
        baselines.load(tmp_path)

    assert len(refused.value.faults) == 2
