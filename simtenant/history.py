"""
Fourteen days of logs for a population, written straight into the engine's tables.

One SQL statement makes every call that every activity of every profile would have made (working hours, weekends,
jitter), the tables are filled from those calls, and sign-ins follow from them: one for every hour with calls to an
API, or for every day where the client holds a CAE token. So the join keys fit: ``SignInActivityId`` of a Graph row is
``UniqueTokenIdentifier`` of the sign-in that issued the token. About 3.5 % of the rows appear again with a later
envelope, as in live ingestion. Randomness is DuckDB's ``hash`` over seed and identity, so the same seed gives the same
rows whatever the number of threads (but perhaps not in another version of DuckDB).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

from duckdb import DuckDBPyConnection

from simtenant.ingestion import DELAY_FACTORS, SIGN_IN_TABLES
from simtenant.population import Api, Member, Population, made_up_id
from simtenant.resources import vault_resource_id
from simtenant.tenant import MICROSOFT_TENANT, PrincipalKind, Tenant
from simtenant.tokens import GRAPH, KEY_VAULT, SHAREPOINT, Resource
from workbench import schemas
from workbench.engine import LogEngine

DAYS: Final = 14

_RESOURCES: Final[Mapping[Api, Resource]] = {
    Api.GRAPH: GRAPH,
    Api.SHAREPOINT: SHAREPOINT,
    Api.VAULT: KEY_VAULT,
}

_CREDENTIAL_TYPES: Final[Mapping[PrincipalKind, str]] = {
    PrincipalKind.MANAGED_IDENTITY: "managedIdentity",
    PrincipalKind.AGENT_IDENTITY: "clientAssertion",
}

_VAULT_VERBS: Final = "CASE split_part(path, '/', 2) WHEN 'keys' THEN 'Key' WHEN 'certificates' THEN 'Certificate' ELSE 'Secret' END"


@dataclass(frozen=True)
class History:
    """What was written: the number of rows a table, duplicates included, and the time they cover."""

    rows: Mapping[str, int]
    start: datetime
    until: datetime


def write_history(
    tenant: Tenant,
    population: Population,
    engine: LogEngine,
    *,
    until: datetime | None = None,
    days: int = DAYS,
) -> History:
    """
    Write the past of a population, up to ``until`` (the tenant's now), and register the watchlist.

    Nothing in it looks like one of the five rules for a benign principal; the near misses are the profiles'.
    Raises: duckdb.Error when the engine's tables are not those of ``workbench/schemas``.
    """
    end = (tenant.clock.now() if until is None else until).astimezone(UTC)
    start = end - timedelta(days=days)
    with engine.writing() as connection:
        connection.execute(_PRINCIPALS_TABLE)
        connection.executemany(
            "INSERT INTO history_principals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_principal_row(index, member, tenant) for index, member in enumerate(population)],
        )
        connection.execute(_ACTIVITIES_TABLE)
        connection.executemany(
            "INSERT INTO history_activities VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            _activity_rows(population, start, end),
        )
        connection.execute(_CALLS, {"seed": tenant.settings.seed, "until": _naive(end)})
        rows = {
            table: _fill(connection, tenant, table, source, columns)
            for table, (source, columns) in _tables(tenant).items()
        }
        connection.execute(
            "DROP TABLE history_calls; DROP TABLE history_activities; DROP TABLE history_principals"
        )
    audit = _audit_rows(tenant, population, start, end)
    lateness = tenant.settings.log_ingestion_delay * DELAY_FACTORS["AuditLogs"]
    engine.insert("AuditLogs", audit, ingested_at=[_aware(row["TimeGenerated"]) + lateness for row in audit])
    rows["AuditLogs"] = len(audit)
    engine.set_watchlist("AgentInventory", population.watchlist)
    return History(rows, start, end)


_PRINCIPALS_TABLE: Final = """
CREATE OR REPLACE TEMP TABLE history_principals (
  principal INTEGER, name VARCHAR, object_id VARCHAR, app_id VARCHAR, ip VARCHAR, country VARCHAR, user_agent VARCHAR,
  roles VARCHAR, cp1 BOOLEAN, managed BOOLEAN, covered BOOLEAN, owner_tenant VARCHAR, credential VARCHAR,
  credential_type VARCHAR, agent VARCHAR)
"""

_ACTIVITIES_TABLE: Final = """
CREATE OR REPLACE TEMP TABLE history_activities (
  activity VARCHAR, principal INTEGER, api VARCHAR, method VARCHAR, paths VARCHAR[], start TIMESTAMP, slots BIGINT,
  every_us BIGINT, first_hour INTEGER, last_hour INTEGER, weekend DOUBLE, pool BIGINT, not_found DOUBLE,
  forbidden DOUBLE)
"""

# A slot is one interval of an activity; the call falls somewhere inside it. ``token`` names the token in use: a CAE
# token for Graph lives a day, any other about an hour.
_CALLS: Final = """
CREATE OR REPLACE TEMP TABLE history_calls AS
WITH slots AS (
  SELECT activity, principal, api, method, paths, start, every_us, first_hour, last_hour, weekend, pool, not_found,
         forbidden, unnest(range(slots)) AS slot
  FROM history_activities),
drawn AS (
  SELECT *, hash($seed, activity, slot, 'call') AS h FROM slots),
timed AS (
  SELECT *, start + to_microseconds(slot * every_us + CAST(h % CAST(every_us AS UBIGINT) AS BIGINT)) AS called FROM drawn)
SELECT
  t.principal, p.name, p.object_id, p.app_id, p.ip, p.country, p.user_agent, p.roles, p.cp1, p.managed, p.covered,
  p.owner_tenant, p.credential, p.credential_type, p.agent, t.api, t.method, t.called, t.h,
  md5(concat_ws('/', $seed, t.activity, t.slot)) AS key,
  replace(
    list_extract(t.paths, (t.slot % len(t.paths)) + 1), '{id}',
    CAST(CAST(md5(p.name || '/' || ((t.h >> 17) % CAST(t.pool AS UBIGINT))) AS UUID) AS VARCHAR)) AS path,
  CASE WHEN (t.h >> 23) % 10000 < t.not_found * 10000 THEN 404
       WHEN (t.h >> 23) % 10000 < (t.not_found + t.forbidden) * 10000 THEN 403
       ELSE 200 END AS status,
  CASE WHEN p.cp1 AND t.api = 'graph' THEN date_trunc('day', t.called) ELSE date_trunc('hour', t.called) END AS token,
  substr(replace(replace(to_base64(unhex(md5(concat_ws('/', $seed, p.name, t.api,
    CASE WHEN p.cp1 AND t.api = 'graph' THEN date_trunc('day', t.called) ELSE date_trunc('hour', t.called) END)))),
    '+', '-'), '/', '_'), 1, 22) AS uti
FROM timed t JOIN history_principals p USING (principal)
WHERE hour(t.called) >= t.first_hour AND hour(t.called) < t.last_hour
  AND (isodow(t.called) < 6 OR (t.h >> 41) % 1000 < t.weekend * 1000)
  AND t.called < $until
"""

# The same two keys as the live sign-ins of simtenant.entra.
_PROCESSING_DETAILS: Final = (
    '\'[{"key": "Azure AD App Authentication Library", "value": "Family: MSAL Library: MSAL.Python"}, \''
    " || '{\"key\": \"Is CAE Token\", \"value\": \"' || CASE WHEN cp1 THEN 'True' ELSE 'False' END || '\"}]'"
)

_SIGN_INS: Final = """
SELECT any_value(name) AS name, object_id, any_value(app_id) AS app_id, any_value(ip) AS ip,
  any_value(country) AS country, any_value(user_agent) AS user_agent, any_value(covered) AS covered, any_value(cp1) AS cp1,
  any_value(owner_tenant) AS owner_tenant, any_value(credential) AS credential,
  any_value(credential_type) AS credential_type, any_value(agent) AS agent, api, uti,
  min(called) - INTERVAL 2 SECOND AS called, md5(concat_ws('/', 'sign-in', uti)) AS key
FROM history_calls WHERE {which} GROUP BY object_id, api, uti
"""


def _principal_row(index: int, member: Member, tenant: Tenant) -> tuple[object, ...]:
    principal = member.principal
    managed = principal.kind is PrincipalKind.MANAGED_IDENTITY
    agent = {"agentType": "notAgentic", "agentSubjectType": "notAgentic"}
    if principal.kind is PrincipalKind.AGENT_IDENTITY:
        agent = {
            "agentType": "agenticAppInstance",
            "agentSubjectType": "notAgentic",
            "parentAppId": principal.agent_identity_blueprint_id or "",
        }
    return (
        index,
        member.name,
        principal.object_id,
        principal.app_id,
        principal.ip_address,
        principal.country,
        principal.user_agent,
        " ".join(sorted(principal.app_roles)),
        principal.client_capabilities_cp1,
        managed,
        principal.is_covered_by_conditional_access,
        principal.app_owner_organization_id or tenant.settings.tenant_id,
        principal.credential_key_id,
        _CREDENTIAL_TYPES.get(principal.kind, "clientSecret"),
        json.dumps(agent),
    )


def _activity_rows(population: Population, start: datetime, end: datetime) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for index, member in enumerate(population):
        profile = member.profile
        # A young principal begins at a midnight, so that its active days are counted in days and not in parts of them.
        young = datetime.combine(end.date(), time(), UTC) - timedelta(days=profile.active_days - 1)
        begins = start if profile.active_days >= DAYS else max(start, young)
        for number, activity in enumerate(profile.activities):
            every = activity.every
            rows.append(
                (
                    f"{member.name}/{number}",
                    index,
                    str(activity.api),
                    activity.method,
                    list(activity.paths),
                    _naive(begins),
                    (end - begins) // every,
                    every // timedelta(microseconds=1),
                    *activity.hours,
                    activity.weekend,
                    activity.pool,
                    activity.failures.get(404, 0.0),
                    activity.failures.get(403, 0.0),
                )
            )
    return rows


def _tables(tenant: Tenant) -> dict[str, tuple[str, dict[str, str]]]:
    """Return for each table its source query and the SQL expression of each column that is not empty."""
    settings = tenant.settings
    home = f"'{settings.tenant_id}'"
    subscription = settings.workspace_resource_id.split("/")[2]
    guid = "CAST(CAST(md5(concat_ws('/', '{what}', key)) AS UUID) AS VARCHAR)"
    sign_in = {
        "OperationName": "'Sign-in activity'",
        "OperationVersion": "'1.0'",
        "ResultType": "'0'",
        "ResultSignature": "'SUCCESS'",
        "CorrelationId": guid.format(what="correlation"),
        "AppId": "app_id",
        "AppOwnerTenantId": "owner_tenant",
        "AADTenantId": home,
        "AuthenticationProcessingDetails": _PROCESSING_DETAILS,
        "ClientCredentialType": "credential_type",
        "ConditionalAccessStatus": "CASE WHEN covered THEN 'success' ELSE 'notApplied' END",
        "ConditionalAccessPolicies": "'[]'",
        "CreatedDateTime": "called",
        "Id": guid.format(what="id"),
        "ResourceDisplayName": _case({api: r.display_name for api, r in _RESOURCES.items()}),
        "ResourceIdentity": _case({api: r.app_id for api, r in _RESOURCES.items()}),
        "ResourceServicePrincipalId": _case(
            {api: _object_id(tenant, resource) for api, resource in _RESOURCES.items()}
        ),
        "ResourceOwnerTenantId": f"'{MICROSOFT_TENANT}'",
        "ServicePrincipalId": "object_id",
        "ServicePrincipalName": "name",
        "UniqueTokenIdentifier": "uti",
        "Agent": "agent",
    }
    from_somewhere = {
        "Category": "'ServicePrincipalSignInLogs'",
        "IPAddress": "ip",
        "Location": "country",
        "LocationDetails": "json_object('city', '', 'state', '', 'countryOrRegion', country)::VARCHAR",
        "ServicePrincipalCredentialKeyId": "credential",
        "UserAgent": "user_agent",
    }
    return {
        "AADServicePrincipalSignInLogs": (
            _SIGN_INS.format(which="NOT managed"),
            sign_in | from_somewhere,
        ),
        # No address, user agent or place in these rows: facts/log-tables.md §0.6.
        "AADManagedIdentitySignInLogs": (
            _SIGN_INS.format(which="managed"),
            sign_in | {"Category": "'ManagedIdentitySignInLogs'"},
        ),
        "MicrosoftGraphActivityLogs": (
            "SELECT * FROM history_calls WHERE api = 'graph'",
            {
                "Location": "'West Europe'",
                "RequestId": guid.format(what="request"),
                "OperationId": guid.format(what="request"),
                "ClientRequestId": guid.format(what="client-request"),
                "ApiVersion": "substr(split_part(path, '/', 2), 1, 4)",
                "RequestMethod": "method",
                "ResponseStatusCode": "status",
                "AadTenantId": home,
                "IPAddress": "ip",
                "UserAgent": "user_agent",
                "RequestUri": "'https://graph.microsoft.com' || path",
                "DurationMs": "CAST(20 + h % 400 AS INTEGER)",
                "ResponseSizeBytes": "0",
                "SignInActivityId": "uti",
                "UniqueTokenId": "uti",
                "Roles": "roles",
                "TokenIssuedAt": "min(called) OVER (PARTITION BY uti) - INTERVAL 2 SECOND",
                "AppId": "app_id",
                "ServicePrincipalId": "object_id",
                "IdentityProvider": "'https://sts.windows.net/' || " + home + " || '/'",
                "ClientAuthMethod": "CASE WHEN managed THEN 2 ELSE 1 END",
            },
        ),
        "OfficeActivity": (
            "SELECT * FROM history_calls WHERE api = 'sharepoint'",
            {
                "OfficeId": guid.format(what="office"),
                "SourceRecordId": guid.format(what="office"),
                "Operation": "'FileAccessed'",
                "RecordType": "'SharePointFileOperation'",
                "OfficeWorkload": "'SharePoint'",
                "ResultStatus": "'Succeeded'",
                "UserId": "'app@sharepoint'",
                "UserKey": f"'i:0i.t|{SHAREPOINT.app_id}|app@sharepoint'",
                "UserType": "'Application'",
                "OrganizationId": home,
                "ClientIP": "ip",
                "UserAgent": "user_agent",
                "Site_Url": "'https://contoso.sharepoint.com/sites/' || split_part(path, '/', 1) || '/'",
                "SourceRelativeUrl": "'Shared Documents'",
                "SourceFileName": "split_part(path, '/', 2)",
                "SourceFileExtension": "split_part(path, '.', -1)",
                "OfficeObjectId": "'https://contoso.sharepoint.com/sites/' || split_part(path, '/', 1)"
                " || '/Shared Documents/' || split_part(path, '/', 2)",
                "ItemType": "'File'",
                "EventSource": "'SharePoint'",
                "SourceSystem": "'OfficeActivityManager'",
                "ClientAppId": "app_id",
                "AppId": "app_id",
                "ApplicationId": "app_id",
                "AppAccessContext": "json_object('ClientAppId', app_id, 'ClientAppName', name, 'UniqueTokenId', uti)",
            },
        ),
        "AZKVAuditLogs": (
            "SELECT * FROM history_calls WHERE api = 'vault'",
            {
                "OperationName": f"{_VAULT_VERBS} || CASE WHEN split_part(path, '/', 3) = '' THEN 'List' ELSE 'Get' END",
                "OperationVersion": "'7.4'",
                "ResultType": "'Success'",
                "ResultSignature": "'OK'",
                "HttpStatusCode": "200",
                "CorrelationId": guid.format(what="vault"),
                "CallerIpAddress": "ip",
                "ClientInfo": "user_agent",
                "Identity": "json_object('claim', json_object('appid', app_id, 'idtyp', 'app', 'oid', object_id,"
                " 'http://schemas.microsoft.com/identity/claims/objectidentifier', object_id))",
                "Id": "'https://' || split_part(path, '/', 1) || '.vault.azure.net'"
                " || substr(path, strpos(path, '/'))",
                "RequestUri": "'https://' || split_part(path, '/', 1) || '.vault.azure.net'"
                " || substr(path, strpos(path, '/')) || '?api-version=7.4'",
                "IsRbacAuthorized": "true",
                "IsAddressAuthorized": "true",
                "Tlsversion": "'TLS1_3'",
                "DurationMs": "CAST(8 + h % 40 AS INTEGER)",
                "_ResourceId": f"'{vault_resource_id(subscription, '')}' || split_part(path, '/', 1)",
                "_SubscriptionId": f"'{subscription}'",
                "SourceSystem": "'Azure'",
            },
        ),
    }


def _case(values: Mapping[Api, str]) -> str:
    return "CASE api " + " ".join(f"WHEN '{api}' THEN '{value}'" for api, value in values.items()) + " END"


def _object_id(tenant: Tenant, resource: Resource) -> str:
    principal = tenant.principal_by_app_id(resource.app_id)
    return "" if principal is None else principal.object_id


def _fill(connection: DuckDBPyConnection, tenant: Tenant, table: str, source: str, columns: Mapping[str, str]) -> int:
    """Insert the rows of a source and their duplicates; returns how many."""
    settings = tenant.settings
    delay_us = settings.log_ingestion_delay * DELAY_FACTORS.get(table, 1.0) // timedelta(microseconds=1)
    ingested = (
        f"called + to_microseconds(CAST({delay_us} * (0.8 + (noise % 401) / 1000 + copy * 0.4) AS BIGINT))"
    )
    envelope = (
        f"called + to_microseconds(CAST({delay_us} * (0.3 + (noise % 401) / 1000 + copy * 0.2) AS BIGINT))"
    )
    if table not in SIGN_IN_TABLES:
        envelope = f"called + to_microseconds(CAST({delay_us} * copy * 0.2 AS BIGINT))"
    filled = {
        "TenantId": f"'{settings.workspace_id}'",
        "Type": f"'{table}'",
        "TimeGenerated": envelope,
        "SourceSystem": "'Azure AD'",
        **columns,
    }
    known = schemas.tables()[table]
    names = [name for name, _ in known]
    values = [filled.get(name, "''" if kind == "string" else "NULL") for name, kind in known]
    share = int(settings.duplicate_share * 10_000)
    # Shares of third and fourth copies as in simtenant.ingestion: six and one in a hundred of the duplicated.
    sql = f"""
    INSERT INTO raw."{table}" ({", ".join(f'"{name}"' for name in names)}, "_IngestedAt")
    SELECT {", ".join(values)}, {ingested}
    FROM (SELECT *, unnest(range(1 + copies)) AS copy FROM (
      SELECT *, hash(key, {settings.seed}) AS noise,
        CASE WHEN hash(key, 'again') % 10000 >= {share} THEN 0 WHEN hash(key, 'more') % 100 < 1 THEN 3
             WHEN hash(key, 'more') % 100 < 6 THEN 2 ELSE 1 END AS copies
      FROM ({source})))
    """  # noqa: S608 - every part is a constant of this module or a setting of the simulated tenant
    inserted = connection.execute(sql).fetchone()
    return 0 if inserted is None else int(inserted[0])


def _audit_rows(
    tenant: Tenant, population: Population, start: datetime, end: datetime
) -> list[dict[str, object]]:
    """Directory changes of a quiet fortnight: nightly rotation by the broker, a new agent made by a person."""
    broker, pipeline = population.named("credential-broker"), population.named("release-pipeline")
    rows = []
    night = datetime.combine(start.date() + timedelta(days=1), time(1, 30), UTC)
    while night < end:
        targets = [pipeline] if night.isoweekday() != 7 else [pipeline, population.named("payments-worker")]
        for minute, target in enumerate(targets):
            rows.append(
                _audit_row(
                    tenant,
                    night + timedelta(minutes=minute),
                    # EN DASH and trailing blank, as the service writes it: facts/log-tables.md §0.10.
                    "Update application \N{EN DASH} Certificates and secrets management ",
                    initiator={
                        "app": {
                            "displayName": broker.name,
                            "appId": broker.principal.app_id,
                            "servicePrincipalId": broker.principal.object_id,
                            "servicePrincipalName": broker.name,
                        }
                    },
                    target={
                        "id": target.principal.application_object_id,
                        "displayName": target.name,
                        "type": "Application",
                        "modifiedProperties": [_rotated_key(night, target)],
                    },
                )
            )
        night += timedelta(days=1)
    young = population.named("expense-bot")
    administrator = {"user": {"id": made_up_id("admin"), "userPrincipalName": "admin@example.com"}}
    made = datetime.combine(end.date(), time(), UTC) - timedelta(days=1, hours=-5)
    if made < end:
        created = {
            "id": young.principal.object_id,
            "displayName": young.name,
            "type": "ServicePrincipal",
            "modifiedProperties": [],
        }
        rows += [
            _audit_row(tenant, made, operation, initiator=administrator, target=created)
            for operation in ("Add service principal", "Add app role assignment to service principal")
        ]
    return rows


def _rotated_key(night: datetime, target: Member) -> dict[str, str]:
    def described(day: datetime) -> str:
        key = made_up_id(f"{target.name}/key/{day.date()}")
        return json.dumps([f"[KeyIdentifier={key},KeyType=Password,KeyUsage=Verify,DisplayName=rotated]"])

    return {
        "displayName": "KeyDescription",
        "oldValue": described(night - timedelta(days=1)),
        "newValue": described(night),
    }


def _audit_row(
    tenant: Tenant,
    at: datetime,
    operation: str,
    *,
    initiator: Mapping[str, object],
    target: Mapping[str, object],
) -> dict[str, object]:
    identity = made_up_id(f"audit/{operation}/{at.isoformat()}/{target['id']}")
    return {
        "TenantId": tenant.settings.workspace_id,
        "Type": "AuditLogs",
        "SourceSystem": "Azure AD",
        "TimeGenerated": at,
        "ActivityDateTime": at,
        "OperationName": operation,
        "ActivityDisplayName": operation,
        "OperationVersion": "1.0",
        "Category": "ApplicationManagement",
        "LoggedByService": "Core Directory",
        "Result": "success",
        "ResultType": "",
        "CorrelationId": made_up_id(f"correlation/{identity}"),
        "Id": f"Directory_{identity}",
        "InitiatedBy": initiator,
        "TargetResources": [target],
        "AADTenantId": tenant.settings.tenant_id,
        "AADOperationType": "Update" if operation.startswith("Update") else "Add",
    }


def _naive(moment: datetime) -> datetime:
    """Return UTC without a zone, as the engine's TIMESTAMP columns want it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _aware(moment: object) -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"{moment!r} is no time")
    return moment
