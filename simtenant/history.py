"""
Fourteen days of logs for a population, written straight into the engine's tables.

One SQL statement makes every call that every activity of every profile would have made (working hours, weekends,
jitter), the tables are filled from those calls, and sign-ins follow from them: one for every hour with calls to an
API, or for every day where the client holds a CAE token, and one of its blueprint before each of an agent identity.
So the join keys fit: ``SignInActivityId`` of a Graph row is ``UniqueTokenIdentifier`` of the sign-in that issued the
token. About 3.5 % of the rows appear again with a later envelope, as in live ingestion. Randomness is DuckDB's ``hash``
over seed and identity, so the same seed gives the same rows whatever the number of threads (but perhaps not in another
version of DuckDB).
"""

import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Final

from duckdb import DuckDBPyConnection

from simtenant.ingestion import DELAY_FACTORS, SIGN_IN_TABLES
from simtenant.population import Credential, Member, Population, made_up_id
from simtenant.resources import vault_resource_id
from simtenant.tenant import MICROSOFT_TENANT, LastSignIn, Principal, PrincipalKind, Tenant
from simtenant.tokens import (
    ARM,
    GRAPH,
    KEY_VAULT,
    LOG_ANALYTICS,
    SHAREPOINT,
    STORAGE,
    TOKEN_EXCHANGE,
    Resource,
)
from workbench import schemas
from workbench.engine import LogEngine

DAYS: Final = 14

_EXCHANGE: Final = "exchange"
# By what history_calls.api says: the values of Api, and the endpoint where a blueprint's token becomes its agent's.
_RESOURCES: Final[Mapping[str, Resource]] = {
    "graph": GRAPH,
    "sharepoint": SHAREPOINT,
    "vault": KEY_VAULT,
    "arm": ARM,
    "storage": STORAGE,
    "logs": LOG_ANALYTICS,
    _EXCHANGE: TOKEN_EXCHANGE,
}

_CREDENTIAL_TYPES: Final[Mapping[PrincipalKind, Credential]] = {
    PrincipalKind.MANAGED_IDENTITY: Credential.MANAGED,
    PrincipalKind.AGENT_IDENTITY: Credential.ASSERTION,
}
_ROTATED_AT: Final = timedelta(hours=1, minutes=30)
_TAKEN_UP_AFTER: Final = timedelta(minutes=10)  # from the rotation of a key to the first sign-in with it

_VAULT_VERBS: Final = "CASE split_part(path, '/', 2) WHEN 'keys' THEN 'Key' WHEN 'certificates' THEN 'Certificate' ELSE 'Secret' END"


@dataclass(frozen=True)
class History:
    """What was written: the number of rows a table that has any, duplicates included, and the time they cover."""

    rows: Mapping[str, int]
    start: datetime
    until: datetime


@dataclass(frozen=True)
class _Era:
    """A time from ``since`` on in which a principal signs in in one way; ``rotated`` is whether a new key began it."""

    since: datetime
    key_id: str
    library: str
    rotated: bool
    moved: bool = False


def write_history(
    tenant: Tenant,
    population: Population,
    engine: LogEngine,
    *,
    until: datetime | None = None,
    days: int = DAYS,
) -> History:
    """
    Write the past of a population, up to ``until`` (the tenant's now), register the watchlist, note the last sign-ins.

    Nothing in it is a finding about a benign principal that would contain it; the near misses are the profiles'.
    Raises: duckdb.Error when the engine's tables are not those of ``workbench/schemas``.
    """
    end = (tenant.clock.now() if until is None else until).astimezone(UTC)
    start = end - timedelta(days=days)
    members = list(population)
    eras = [_eras(member, start, end) for member in members]
    with engine.writing() as connection:
        connection.execute(_OWN_TABLES)
        _insert(
            connection, "history_principals", [_principal_row(*one, tenant) for one in enumerate(members)]
        )
        _insert(connection, "history_activities", _activity_rows(population, start, end))
        _insert(
            connection,
            "history_eras",
            [_era_row(i, members[i], era) for i, those in enumerate(eras) for era in those],
        )
        connection.execute(
            _CALLS, {"seed": tenant.settings.seed, "until": _naive(end), "last_day": _naive(end).date()}
        )
        rows = {
            table: _fill(connection, tenant, table, source, columns)
            for table, (source, columns) in _tables(tenant).items()
        }
        audit = [*_audit_rows(tenant, population, eras, start, end), *_directory_writes(connection, tenant)]
        connection.execute(
            "DROP TABLE history_calls; DROP TABLE history_activities; DROP TABLE history_principals; "
            "DROP TABLE history_eras"
        )
        _note_sign_ins(connection, tenant)
    for member, those in zip(members, eras, strict=True):
        _note_key(member, those)
        if member.profile.dormant_days is not None:
            last = LastSignIn(
                end - timedelta(days=member.profile.dormant_days), made_up_id(f"{member.name}/last")
            )
            tenant.client_sign_ins[member.principal.app_id] = last
    lateness = tenant.settings.log_ingestion_delay * DELAY_FACTORS["AuditLogs"]
    engine.insert("AuditLogs", audit, ingested_at=[_aware(row["TimeGenerated"]) + lateness for row in audit])
    rows["AuditLogs"] = len(audit)
    engine.set_watchlist("AgentInventory", population.watchlist)
    return History({table: count for table, count in rows.items() if count}, start, end)


_OWN_TABLES: Final = """
CREATE OR REPLACE TEMP TABLE history_principals (
  principal INTEGER, name VARCHAR, object_id VARCHAR, app_id VARCHAR, ips VARCHAR[], countries VARCHAR[],
  place_per_call BOOLEAN, user_agent VARCHAR, roles VARCHAR, cp1 BOOLEAN, managed BOOLEAN, covered BOOLEAN,
  owner_tenant VARCHAR, credential_type VARCHAR, agent VARCHAR, parent_name VARCHAR, parent_object_id VARCHAR,
  parent_app_id VARCHAR, parent_key VARCHAR);
CREATE OR REPLACE TEMP TABLE history_activities (
  activity VARCHAR, principal INTEGER, api VARCHAR, method VARCHAR, paths VARCHAR[], start TIMESTAMP, slots BIGINT,
  every_us BIGINT, first_hour INTEGER, last_hour INTEGER, weekend DOUBLE, weekdays INTEGER[], cycle INTEGER, ebb DOUBLE, tail INTEGER,
  pool BIGINT, not_found DOUBLE, forbidden DOUBLE, refusal VARCHAR, size BIGINT);
CREATE OR REPLACE TEMP TABLE history_eras (
  principal INTEGER, since TIMESTAMP, credential VARCHAR, thumbprint VARCHAR, federated VARCHAR, details VARCHAR,
  moved_country VARCHAR, moved_ip VARCHAR)
"""

# A slot is one interval of an activity; the call falls somewhere inside it. ``token`` names the token in use: a CAE
# token for Graph lives a day, any other about an hour. A refused sign-in gives none and stands for itself.
_CALLS: Final = """
CREATE OR REPLACE TEMP TABLE history_calls AS
WITH slots AS (
  SELECT *, unnest(range(slots)) AS slot FROM history_activities),
drawn AS (
  SELECT *, hash($seed, activity, slot, 'call') AS h FROM slots),
timed AS (
  SELECT *, start + to_microseconds(slot * every_us + CAST(h % CAST(every_us AS UBIGINT) AS BIGINT)) AS called FROM drawn),
happened AS (
  SELECT * FROM timed
  WHERE hour(called) >= first_hour AND hour(called) < last_hour
    AND (isodow(called) < 6 OR (h >> 41) % 1000 < weekend * 1000)
    AND list_contains(weekdays, isodow(called))
    AND date_diff('day', CAST(called AS DATE), $last_day) % cycle = 0
    AND (ebb = 0 OR (h >> 33) % 1000 <
      1000 * pow(1 - ebb * (hash($seed, activity, date_trunc('hour', called), 'ebb') % 1000) / 1000, tail))
    AND called < $until),
named AS (
  SELECT t.*, p.* EXCLUDE (principal),
    md5(concat_ws('/', $seed, t.activity, t.slot)) AS key,
    CASE WHEN refusal != '' THEN concat_ws('/', $seed, t.activity, t.slot)
         ELSE concat_ws('/', $seed, p.name, t.api, CASE WHEN p.cp1 AND t.api = 'graph' THEN date_trunc('day', t.called)
           ELSE date_trunc('hour', t.called) END) END AS token
  FROM happened t JOIN history_principals p USING (principal)),
placed AS (
  SELECT *, CAST((CASE WHEN place_per_call THEN h >> 11 ELSE hash(token) END) % len(ips) AS BIGINT) + 1 AS place FROM named)
SELECT
  c.principal, name, object_id, app_id, coalesce(moved_ip, ips[place]) AS ip,
  coalesce(moved_country, countries[place]) AS country, user_agent, roles, cp1, managed,
  covered, owner_tenant, credential_type, agent, parent_name, parent_object_id, parent_app_id, parent_key,
  e.credential, e.thumbprint, e.federated, e.details, api, method, called, h, key, refusal, size,
  replace(
    list_extract(paths, (slot % len(paths)) + 1), '{id}',
    CAST(CAST(md5(name || '/' || ((h >> 17) % CAST(pool AS UBIGINT))) AS UUID) AS VARCHAR)) AS path,
  CASE WHEN (h >> 23) % 10000 < not_found * 10000 THEN 404
       WHEN (h >> 23) % 10000 < (not_found + forbidden) * 10000 THEN 403
       WHEN method IN ('POST', 'PUT') AND api = 'graph' THEN 201
       WHEN method IN ('PATCH', 'DELETE') AND api = 'graph' THEN 204
       ELSE 200 END AS status,
  substr(replace(replace(to_base64(unhex(md5(token))), '+', '-'), '/', '_'), 1, 22) AS uti
FROM placed c ASOF JOIN history_eras e ON c.principal = e.principal AND c.called >= e.since
"""

_SIGN_IN_COLUMNS: Final = (
    "name, object_id, app_id, owner_tenant, covered, credential_type, agent, api, uti, ip, country, user_agent, "
    "credential, thumbprint, federated, details, refusal, called, key"
)
# The first call with a token says where and with what it was asked for. Before an agent identity gets its token, its
# blueprint gets one for the exchange endpoint (facts/entra.md §2).
_SIGN_INS: Final = """
WITH firsts AS (
  SELECT * REPLACE (called - INTERVAL 2 SECOND AS called, md5(concat_ws('/', 'sign-in', uti)) AS key)
  FROM history_calls WHERE {which} QUALIFY row_number() OVER (PARTITION BY uti ORDER BY called, key) = 1)
SELECT {columns} FROM firsts
UNION ALL
SELECT {columns} FROM (
  SELECT * REPLACE (
    parent_name AS name, parent_object_id AS object_id, parent_app_id AS app_id, 'exchange' AS api, parent_key AS credential,
    '' AS thumbprint, '' AS federated, 'clientSecret' AS credential_type, false AS covered,
    '{{"agentType": "agenticApp", "agentSubjectType": "notAgentic"}}' AS agent,
    called - INTERVAL 1 SECOND AS called, md5(concat_ws('/', 'exchange', key)) AS key,
    substr(replace(replace(to_base64(unhex(md5(concat_ws('/', 'exchange', uti)))), '+', '-'), '/', '_'), 1, 22) AS uti)
  FROM firsts WHERE parent_app_id != '')
"""

_VAULT_CALLS: Final = """
SELECT *, false AS greeting FROM history_calls WHERE api = 'vault' AND refusal = ''
UNION ALL
SELECT * REPLACE (called - INTERVAL 1 SECOND AS called, md5('greeting/' || key) AS key), true FROM history_calls
WHERE api = 'vault' AND refusal = ''
QUALIFY row_number() OVER (PARTITION BY uti, split_part(path, '/', 1) ORDER BY called, key) = 1
"""

# Azure writes one row when an operation starts and one when it ends.
_ARM_CALLS: Final = """
SELECT c.* REPLACE (called + to_seconds(shift) AS called, md5(concat_ws('/', key, shift)) AS key), key AS operation, shift > 0 AS over
FROM history_calls c, (VALUES (0), (3)) shifts(shift) WHERE api = 'arm' AND refusal = ''
"""


def _insert(connection: DuckDBPyConnection, table: str, rows: list[tuple[object, ...]]) -> None:
    marks = ", ".join("?" for _ in rows[0])
    connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608  # our own tables


def _principal_row(index: int, member: Member, tenant: Tenant) -> tuple[object, ...]:
    principal, profile = member.principal, member.profile
    managed = principal.kind is PrincipalKind.MANAGED_IDENTITY
    agent = {"agentType": "notAgentic", "agentSubjectType": "notAgentic"}
    if principal.kind is PrincipalKind.AGENT_IDENTITY:
        agent = {
            "agentType": "agenticAppInstance",
            "agentSubjectType": "notAgentic",
            "parentAppId": principal.agent_identity_blueprint_id or "",
        }
    parent = member.blueprint
    places = profile.places or ((principal.country, principal.ip_address),)
    return (
        index,
        member.name,
        principal.object_id,
        principal.app_id,
        [address for _, address in places],
        [country for country, _ in places],
        profile.roams == "call",
        principal.user_agent,
        " ".join(sorted(principal.app_roles)),
        principal.client_capabilities_cp1,
        managed,
        principal.is_covered_by_conditional_access,
        principal.app_owner_organization_id or tenant.settings.tenant_id,
        str(_CREDENTIAL_TYPES.get(principal.kind, profile.credential)),
        json.dumps(agent),
        "" if parent is None else parent.display_name,
        "" if parent is None else parent.object_id,
        "" if parent is None else parent.app_id,
        "" if parent is None else parent.credential_key_id,
    )


def _activity_rows(population: Population, start: datetime, end: datetime) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    midnight = datetime.combine(end.date(), time(), UTC)
    for index, member in enumerate(population):
        profile = member.profile
        # A young principal begins at a midnight, so that its active days are counted in days and not in parts of them.
        days = profile.active_days if profile.active_days < DAYS else None
        for number, activity in enumerate(profile.activities):
            every = activity.every
            recent = min((d for d in (days, activity.last_days) if d is not None), default=None)
            begins = start if recent is None else max(start, midnight - timedelta(days=recent - 1))
            ends = end
            if activity.first_days is not None:
                ends = datetime.combine(start.date(), time(), UTC) + timedelta(days=activity.first_days)
            rows.append(
                (
                    f"{member.name}/{number}",
                    index,
                    str(activity.api),
                    activity.method,
                    list(activity.paths),
                    _naive(begins),
                    (ends - begins) // every,
                    every // timedelta(microseconds=1),
                    *activity.hours,
                    activity.weekend,
                    list(activity.weekdays),
                    activity.cycle,
                    activity.ebb,
                    activity.tail,
                    activity.pool,
                    activity.failures.get(404, 0.0),
                    activity.failures.get(403, 0.0),
                    activity.refusal,
                    activity.size,
                )
            )
    return rows


def _eras(member: Member, start: datetime, end: datetime) -> list[_Era]:
    """Say with which key and library a principal signed in when; the last key is the one that it has now."""
    profile = member.profile
    turns: list[datetime] = []
    if profile.rotates_every:
        # Not everyone in the same night.
        ago = zlib.crc32(member.name.encode()) % profile.rotates_every
        night = (
            datetime.combine(end.date(), time(), UTC) + _ROTATED_AT + _TAKEN_UP_AFTER - timedelta(days=ago)
        )
        while night > start:
            if night < end:
                turns.insert(0, night)
            night -= timedelta(days=profile.rotates_every)
    upgrades = {end - timedelta(days=days): library for days, library in profile.upgrades.items()}
    keys = [made_up_id(f"{member.name}/key/{turn.date()}") for turn in (start, *turns)]
    keys[-1] = member.principal.credential_key_id
    library, number = profile.library, 0
    eras = [_Era(start - timedelta(days=1), keys[0], library, rotated=False)]
    moves: set[datetime] = set()
    if profile.moved is not None:
        # At a midnight: tokens, too, end there, and none is used from two places.
        moves.add(datetime.combine(end.date(), time(), UTC) - timedelta(days=profile.moved[0]))
    for moment in sorted({*turns, *upgrades, *moves}):
        number += moment in turns
        library = upgrades.get(moment, library)
        moved = any(moment >= move for move in moves)
        eras.append(_Era(moment, keys[number], library, rotated=moment in turns, moved=moved))
    return eras


def _era_row(index: int, member: Member, era: _Era) -> tuple[object, ...]:
    kind = member.profile.credential
    thumbprint = hashlib.sha1(era.key_id.encode(), usedforsecurity=False).hexdigest().upper()
    return (
        index,
        _naive(era.since),
        "" if kind is Credential.FEDERATED else era.key_id,
        thumbprint if kind is Credential.CERTIFICATE else "",
        era.key_id if kind is Credential.FEDERATED else "",
        processing_details(era.library, cp1=member.principal.client_capabilities_cp1),
        *(member.profile.moved[1:] if era.moved and member.profile.moved else (None, None)),
    )


def processing_details(library: str, *, cp1: bool) -> str:
    """
    Give the JSON in which a sign-in row names the client's library, with the two keys of live sign-ins.

    A library with a version is written in full, as measured (facts/log-tables.md §1); without, as live sign-ins have it.
    """
    family = "Unknown" if library.startswith("Unknown") else "MSAL"
    platform = (
        "" if " " not in library else " Platform: Unknown" if family == "Unknown" else " Platform: Linux"
    )
    named = [
        {
            "key": "Azure AD App Authentication Library",
            "value": f"Family: {family} Library: {library}{platform}",
        }
    ]
    return json.dumps(
        [*(named if library else []), {"key": "Is CAE Token", "value": "True" if cp1 else "False"}]
    )


def _note_key(member: Member, eras: list[_Era]) -> None:
    """Let the directory say since when the newest key exists."""
    turned = [era.since - _TAKEN_UP_AFTER for era in eras if era.rotated]
    held = member.principal.credentials
    if turned and held:
        held[0] = replace(held[0], starts_at=turned[-1], ends_at=turned[-1] + timedelta(days=180))


def _note_sign_ins(connection: DuckDBPyConnection, tenant: Tenant) -> None:
    tables = " UNION ALL ".join(
        f"SELECT AppId, ResourceIdentity, CreatedDateTime, Id FROM raw.\"{table}\" WHERE ResultType = '0'"  # noqa: S608
        for table in sorted(SIGN_IN_TABLES)
    )
    for column, noted in (("AppId", tenant.client_sign_ins), ("ResourceIdentity", tenant.resource_sign_ins)):
        found = connection.execute(
            f"SELECT {column}, max(CreatedDateTime), arg_max(Id, CreatedDateTime) FROM ({tables}) GROUP BY 1"  # noqa: S608
        ).fetchall()
        for app_id, at, request_id in found:
            noted[str(app_id)] = LastSignIn(_aware(at).replace(tzinfo=UTC), str(request_id))


def _tables(tenant: Tenant) -> dict[str, tuple[str, dict[str, str]]]:
    """Return for each table its source query and the SQL expression of each column that is not empty."""
    settings = tenant.settings
    home = f"'{settings.tenant_id}'"
    subscription = settings.workspace_resource_id.split("/")[2]
    guid = "CAST(CAST(md5(concat_ws('/', '{what}', key)) AS UUID) AS VARCHAR)"
    sign_in = {
        "OperationName": "'Sign-in activity'",
        "OperationVersion": "'1.0'",
        "ResultType": "CASE refusal WHEN '' THEN '0' ELSE refusal END",
        "ResultSignature": "CASE refusal WHEN '' THEN 'SUCCESS' ELSE 'FAILURE' END",
        "CorrelationId": guid.format(what="correlation"),
        "AppId": "app_id",
        "AppOwnerTenantId": "owner_tenant",
        "AADTenantId": home,
        "AuthenticationProcessingDetails": "details",
        "ClientCredentialType": "credential_type",
        "ConditionalAccessStatus": "CASE WHEN covered AND refusal = '' THEN 'success' ELSE 'notApplied' END",
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
        # Absent on a failure: facts/log-tables.md §1.
        "ServicePrincipalCredentialKeyId": "CASE refusal WHEN '' THEN credential ELSE '' END",
        "ServicePrincipalCredentialThumbprint": "thumbprint",
        "FederatedCredentialId": "federated",
        "UserAgent": "user_agent",
    }
    return {
        "AADServicePrincipalSignInLogs": (
            _SIGN_INS.format(which="NOT managed", columns=_SIGN_IN_COLUMNS),
            sign_in | from_somewhere,
        ),
        # No address, user agent or place in these rows: facts/log-tables.md §0.6.
        "AADManagedIdentitySignInLogs": (
            _SIGN_INS.format(which="managed", columns=_SIGN_IN_COLUMNS),
            sign_in | {"Category": "'ManagedIdentitySignInLogs'", "AuthenticationProcessingDetails": "''"},
        ),
        "MicrosoftGraphActivityLogs": (
            "SELECT * FROM history_calls WHERE api = 'graph' AND refusal = ''",
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
                "ClientAuthMethod": "CASE credential_type WHEN 'clientSecret' THEN 1 ELSE 2 END",
            },
        ),
        "OfficeActivity": (
            "SELECT * FROM history_calls WHERE api = 'sharepoint' AND refusal = ''",
            {
                "OfficeId": guid.format(what="office"),
                "SourceRecordId": guid.format(what="office"),
                "Operation": "CASE method WHEN 'GET' THEN 'FileAccessed' ELSE method END",
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
            _VAULT_CALLS,
            {
                "OperationName": "CASE WHEN greeting THEN 'Authentication' ELSE "
                f"{_VAULT_VERBS} || CASE WHEN split_part(path, '/', 3) = '' THEN 'List' ELSE 'Get' END END",
                "OperationVersion": "'7.4'",
                "ResultType": "'Success'",
                "ResultSignature": "CASE WHEN greeting THEN 'Unauthorized' WHEN status = 200 THEN 'OK' ELSE 'Forbidden' END",
                "HttpStatusCode": "CASE WHEN greeting THEN 401 ELSE status END",
                "CorrelationId": guid.format(what="vault"),
                "CallerIpAddress": "CASE WHEN greeting THEN '' ELSE ip END",
                "ClientInfo": "user_agent",
                "Identity": "CASE WHEN greeting THEN '{}' ELSE json_object('claim', json_object("
                "'appid', app_id, 'idtyp', 'app', 'oid', object_id,"
                " 'http://schemas.microsoft.com/identity/claims/objectidentifier', object_id)) END",
                "Id": "'https://' || split_part(path, '/', 1) || '.vault.azure.net'"
                " || substr(path, strpos(path, '/'))",
                "RequestUri": "'https://' || split_part(path, '/', 1) || '.vault.azure.net'"
                " || substr(path, strpos(path, '/')) || '?api-version=7.4'",
                "IsRbacAuthorized": "NOT greeting AND status = 200",
                "IsAddressAuthorized": "true",
                "Tlsversion": "'TLS1_3'",
                "DurationMs": "CAST(8 + h % 40 AS INTEGER)",
                "_ResourceId": f"'{vault_resource_id(subscription, '')}' || split_part(path, '/', 1)",
                "_SubscriptionId": f"'{subscription}'",
                "SourceSystem": "'Azure'",
            },
        ),
        "StorageBlobLogs": (
            "SELECT *, method LIKE 'Put%' AS writes FROM history_calls WHERE api = 'storage' AND refusal = ''",
            {
                "AccountName": "split_part(path, '/', 1)",
                "Location": "'westeurope'",
                "Protocol": "'HTTPS'",
                "OperationName": "method",
                "AuthenticationType": "'OAuth'",
                "StatusCode": "CAST(status AS VARCHAR)",
                "StatusText": "CASE status WHEN 200 THEN 'Success' WHEN 404 THEN 'BlobNotFound' ELSE 'AuthorizationFailure' END",
                "DurationMs": "5 + h % 90",
                "Uri": "'https://' || split_part(path, '/', 1) || '.blob.core.windows.net' || substr(path, strpos(path, '/'))",
                # With its port: facts/log-tables.md §6.
                "CallerIpAddress": "ip || ':' || (20000 + h % 40000)",
                "CorrelationId": guid.format(what="blob"),
                "SchemaVersion": "'1.0'",
                "OperationVersion": "'2023-11-03'",
                "RequesterObjectId": "object_id",
                "RequesterTenantId": home,
                "RequesterAppId": "app_id",
                "RequesterAudience": "'https://storage.azure.com'",
                "RequesterTokenIssuer": "'https://sts.windows.net/' || " + home + " || '/'",
                "UserAgentHeader": "user_agent",
                "ServiceType": "'blob'",
                "OperationCount": "0",
                "ObjectKey": "'/' || path",
                "RequestBodySize": f"CASE WHEN writes THEN {_BYTES} ELSE 0 END",
                "ResponseBodySize": f"CASE WHEN writes OR status != 200 THEN 0 ELSE {_BYTES} END",
                "Category": "CASE WHEN writes THEN 'StorageWrite' ELSE 'StorageRead' END",
                "TlsVersion": "'TLS 1.3'",
                "_ResourceId": f"'/subscriptions/{subscription}/resourcegroups/rg-data/providers/microsoft.storage"
                "/storageaccounts/' || split_part(path, '/', 1)",
                "_SubscriptionId": f"'{subscription}'",
                "SourceSystem": "'Azure'",
            },
        ),
        "AzureActivity": (
            _ARM_CALLS,
            {
                "OperationNameValue": "method",
                "Level": "'Informational'",
                "ActivityStatusValue": "CASE WHEN NOT over THEN 'Start' WHEN status = 200 THEN 'Success' ELSE 'Failure' END",
                "ResourceGroup": "split_part(path, '/', 1)",
                "SubscriptionId": f"'{subscription}'",
                "CorrelationId": "CAST(CAST(operation AS UUID) AS VARCHAR)",
                "OperationId": "CAST(CAST(operation AS UUID) AS VARCHAR)",
                "EventDataId": guid.format(what="event"),
                "EventSubmissionTimestamp": "called",
                "Caller": "object_id",
                "CallerIpAddress": "ip",
                "CategoryValue": "'Administrative'",
                "ResourceProviderValue": "upper(split_part(method, '/', 1))",
                "Authorization_d": f"json_object('action', lower(method), 'scope', '/subscriptions/{subscription}"
                "/resourcegroups/' || path, 'evidence', json_object('role', 'Contributor', 'principalId', object_id,"
                " 'principalType', 'ServicePrincipal'))",
                "Claims_d": "json_object('appid', app_id, 'uti', uti, 'aud', 'https://management.core.windows.net/',"
                " 'http://schemas.microsoft.com/identity/claims/objectidentifier', object_id)",
                "_ResourceId": f"'/subscriptions/{subscription}/resourcegroups/' || path",
                "_SubscriptionId": f"'{subscription}'",
                "SourceSystem": "'Azure'",
            },
        ),
    }


_BYTES: Final = "CAST(size * (0.5 + h % 1000 / 1000) AS BIGINT)"


def _case(values: Mapping[str, str]) -> str:
    return "CASE api " + " ".join(f"WHEN '{api}' THEN '{value}'" for api, value in values.items()) + " END"


def _object_id(tenant: Tenant, resource: Resource) -> str:
    principal = tenant.principal_by_app_id(resource.app_id)
    return "" if principal is None else principal.object_id


def _fill(
    connection: DuckDBPyConnection, tenant: Tenant, table: str, source: str, columns: Mapping[str, str]
) -> int:
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
    tenant: Tenant, population: Population, eras: list[list[_Era]], start: datetime, end: datetime
) -> list[dict[str, object]]:
    """Directory changes of a quiet fortnight: keys rotated by the broker, new principals and a policy by people."""
    rows: list[dict[str, object]] = []
    brokers = [member for member in population if member.profile.inventory_role == "rotation-pipeline"]
    administrator = {"user": {"id": made_up_id("admin"), "userPrincipalName": "admin@example.com"}}
    for member, those in zip(population, eras, strict=True):
        for before, era in itertools.pairwise(those):
            if era.rotated and brokers:
                target = {
                    "id": member.principal.application_object_id,
                    "displayName": member.name,
                    "type": "Application",
                    "modifiedProperties": [_rotated_key(before.key_id, era.key_id)],
                }
                # EN DASH and trailing blank, as the service writes it: facts/log-tables.md §0.10.
                operation = "Update application \N{EN DASH} Certificates and secrets management "
                at, by = era.since - _TAKEN_UP_AFTER, {"app": _as_initiator(brokers[0].principal)}
                app_id = member.principal.app_id
                rows.append(_audit_row(tenant, at, operation, initiator=by, target=target, app_id=app_id))
        if member.profile.active_days < DAYS:
            made = datetime.combine(end.date(), time(), UTC) - timedelta(
                days=member.profile.active_days - 1, hours=9
            )
            created = {
                "id": member.principal.object_id,
                "displayName": member.name,
                "type": "ServicePrincipal",
                "modifiedProperties": [],
            }
            rows += [
                _audit_row(tenant, made, operation, initiator=administrator, target=created)
                for operation in ("Add service principal", "Add app role assignment to service principal")
            ]
    policy = {
        "id": made_up_id("policy"),
        "displayName": "Require compliant devices",
        "type": "Policy",
        "modifiedProperties": [],
    }
    changed = end - timedelta(days=6, hours=3)
    rows.append(
        _audit_row(
            tenant, changed, "Update conditional access policy", initiator=administrator, target=policy
        )
    )
    return [row for row in rows if start <= _aware(row["TimeGenerated"]) < end]


def _directory_writes(connection: DuckDBPyConnection, tenant: Tenant) -> list[dict[str, object]]:
    """Give the audit rows of the directory's objects that were made or changed over Graph."""
    operations = {
        ("POST", "applications"): ("Add application", "Application"),
        ("POST", "servicePrincipals"): ("Add service principal", "ServicePrincipal"),
        ("PATCH", "users"): ("Update user", "User"),
    }
    found = connection.execute(
        "SELECT object_id, method, split_part(path, '/', 3), called, key FROM history_calls "
        "WHERE api = 'graph' AND refusal = '' AND method != 'GET' AND status < 300 ORDER BY called, key"
    ).fetchall()
    rows = []
    for object_id, method, collection, called, key in found:
        if (method, collection) not in operations:
            continue
        operation, kind = operations[method, collection]
        target = {
            "id": made_up_id(key),
            "displayName": f"made-{key[:6]}",
            "type": kind,
            "modifiedProperties": [],
        }
        by = {"app": _as_initiator(tenant.principals[object_id])}
        rows.append(_audit_row(tenant, called.replace(tzinfo=UTC), operation, initiator=by, target=target))
    return rows


def _as_initiator(principal: Principal) -> dict[str, str]:
    return {
        "displayName": principal.display_name,
        "appId": principal.app_id,
        "servicePrincipalId": principal.object_id,
        "servicePrincipalName": principal.display_name,
    }


def _rotated_key(before: str, after: str) -> dict[str, str]:
    def described(key: str) -> str:
        return json.dumps([f"[KeyIdentifier={key},KeyType=Password,KeyUsage=Verify,DisplayName=rotated]"])

    return {"displayName": "KeyDescription", "oldValue": described(before), "newValue": described(after)}


def _audit_row(
    tenant: Tenant,
    at: datetime,
    operation: str,
    *,
    initiator: Mapping[str, object],
    target: Mapping[str, object],
    app_id: str = "",
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
        # An application's object id is not that of its service principal; this names what the two share.
        "AdditionalDetails": [{"key": "AppId", "value": app_id}] if app_id else [],
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
