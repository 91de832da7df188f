"""
Ways to go astray, written as log rows at a time of one's choice: for backtests, and for tests of rules.

The stories of ``simtenant/stories.py`` are played by live agents against live services and take as long as they take;
these are only their traces, each left by a principal of the wide population (``simtenant/wide.py``) whose fortnight
says that it never did such a thing. What a story leaves is what a tenant would log, no more: a row that a rule would
like to see but no service writes is not written.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from simtenant.history import processing_details
from simtenant.population import INVOICE_READER, VAULTS, Member, Population, made_up_id
from simtenant.resources import vault_resource_id
from simtenant.tenant import TenantSettings
from simtenant.tokens import ARM, GRAPH, KEY_VAULT, STORAGE, Resource
from workbench.engine import LogEngine

ELSEWHERE: Final = ("BR", "MSAL.PS 4.37.0")
"""Where and with what the thieves of these stories work: a country and a library nobody else here has."""

_OID: Final = "http://schemas.microsoft.com/identity/claims/objectidentifier"
_INGESTED_AFTER: Final = timedelta(minutes=4)
_DEFAULTS: Final = TenantSettings()
_SUBSCRIPTION: Final = _DEFAULTS.workspace_resource_id.split("/")[2]


class Scene:
    """Rows that a principal leaves behind; every helper takes seconds after the beginning."""

    def __init__(self, name: str, member: Member, at: datetime) -> None:
        self.name, self.member, self.at = name, member, at
        self.rows: dict[str, list[dict[str, object]]] = defaultdict(list)
        self._number = 0

    @property
    def foreign_address(self) -> str:
        """An address in a network that the principal does not use."""
        own = self.member.principal.ip_address.rpartition(".")[0]
        return next(f"{net}.251" for net in ("203.0.113", "198.51.100", "192.0.2") if net != own)

    def id(self) -> str:
        """Make the next id of the story."""
        self._number += 1
        return made_up_id(f"{self.name}/{self.at.isoformat()}/{self._number}")

    def sign_in(
        self,
        seconds: float,
        resource: Resource,
        *,
        thief: bool = False,
        result: str = "0",
        key_id: str | None = None,
    ) -> str:
        """Sign in, as usual or from elsewhere; gives the token's identifier."""
        principal, profile = self.member.principal, self.member.profile
        country, library = ELSEWHERE if thief else (principal.country, profile.library)
        uti = self.id().replace("-", "")[:22]
        at = self._at(seconds)
        self.rows["AADServicePrincipalSignInLogs"].append(
            {
                "TimeGenerated": at + timedelta(minutes=1),
                "CreatedDateTime": at,
                "Id": self.id(),
                "CorrelationId": self.id(),
                "ResultType": result,
                "ResultSignature": "SUCCESS" if result == "0" else "FAILURE",
                "ServicePrincipalId": principal.object_id,
                "ServicePrincipalName": principal.display_name,
                "AppId": principal.app_id,
                "AppOwnerTenantId": principal.app_owner_organization_id or _DEFAULTS.tenant_id,
                "AADTenantId": _DEFAULTS.tenant_id,
                "ResourceDisplayName": resource.display_name,
                "ResourceIdentity": resource.app_id,
                "IPAddress": self.foreign_address if thief else principal.ip_address,
                "Location": country,
                "UserAgent": "python-requests/2.32.3" if thief else principal.user_agent,
                "AuthenticationProcessingDetails": processing_details(library, cp1=False),
                "ClientCredentialType": str(profile.credential),
                # Absent on a failure: facts/log-tables.md §1.
                "ServicePrincipalCredentialKeyId": ""
                if result != "0"
                else principal.credential_key_id
                if key_id is None
                else key_id,
                "UniqueTokenIdentifier": uti,
                "ConditionalAccessStatus": "notApplied",
                "Agent": json.dumps({"agentType": "notAgentic", "agentSubjectType": "notAgentic"}),
            }
        )
        return uti

    def graph(
        self,
        seconds: float,
        path: str,
        *,
        token: str,
        method: str = "GET",
        status: int = 200,
        thief: bool = False,
    ) -> None:
        """Call Graph v1.0 with a token."""
        principal = self.member.principal
        self.rows["MicrosoftGraphActivityLogs"].append(
            {
                "TimeGenerated": self._at(seconds),
                "RequestId": self.id(),
                "AadTenantId": _DEFAULTS.tenant_id,
                "ApiVersion": "v1.0",
                "RequestMethod": method,
                "RequestUri": f"https://graph.microsoft.com/v1.0{path}",
                "ResponseStatusCode": status,
                "IPAddress": self.foreign_address if thief else principal.ip_address,
                "UserAgent": "python-requests/2.32.3" if thief else principal.user_agent,
                "AppId": principal.app_id,
                "ServicePrincipalId": principal.object_id,
                "SignInActivityId": token,
                "UniqueTokenId": token,
                "Roles": " ".join(sorted(principal.app_roles)),
                "ClientAuthMethod": 1,
            }
        )

    def vault(self, seconds: float, vault: str, secret: str = "") -> None:
        """List a vault's secrets, or read one."""
        principal = self.member.principal
        url = f"https://{vault}.vault.azure.net/secrets" + (f"/{secret}" if secret else "")
        claims = {
            "appid": principal.app_id,
            "idtyp": "app",
            "oid": principal.object_id,
            _OID: principal.object_id,
        }
        self.rows["AZKVAuditLogs"].append(
            {
                "TimeGenerated": self._at(seconds),
                "OperationName": "SecretGet" if secret else "SecretList",
                "ResultType": "Success",
                "ResultSignature": "OK",
                "HttpStatusCode": 200,
                "CorrelationId": self.id(),
                "CallerIpAddress": principal.ip_address,
                "ClientInfo": principal.user_agent,
                "Identity": {"claim": claims},
                "Id": url,
                "RequestUri": f"{url}?api-version=7.4",
                "IsRbacAuthorized": True,
                "_ResourceId": vault_resource_id(_SUBSCRIPTION, vault),
            }
        )

    def blob(self, seconds: float, path: str, *, size: int, key: bool = False) -> None:
        """Read a blob, with a token or (``key``) with the account's key, which says nothing of who."""
        principal = self.member.principal
        account, _, rest = path.partition("/")
        who: dict[str, object] = {
            "RequesterObjectId": principal.object_id,
            "RequesterAppId": principal.app_id,
            "RequesterTenantId": _DEFAULTS.tenant_id,
        }
        self.rows["StorageBlobLogs"].append(
            {
                "TimeGenerated": self._at(seconds),
                "AccountName": account,
                "OperationName": "GetBlob",
                "AuthenticationType": "AccountKey" if key else "OAuth",
                "StatusCode": "200",
                "StatusText": "Success",
                "Uri": f"https://{account}.blob.core.windows.net/{rest}",
                "CallerIpAddress": f"{principal.ip_address}:44321",
                "CorrelationId": self.id(),
                "UserAgentHeader": principal.user_agent,
                "ServiceType": "blob",
                "ObjectKey": f"/{path}",
                "ResponseBodySize": size,
                "Category": "StorageRead",
                **({} if key else who),
            }
        )

    def azure(self, seconds: float, operation: str, resource: str) -> None:
        """Change something through Azure's control plane: one row for the start, one for the end."""
        principal = self.member.principal
        scope = f"/subscriptions/{_SUBSCRIPTION}/resourcegroups/{resource}"
        correlation = self.id()
        for later, status in ((0, "Start"), (3, "Success")):
            self.rows["AzureActivity"].append(
                {
                    "TimeGenerated": self._at(seconds + later),
                    "OperationNameValue": operation.upper(),
                    "ActivityStatusValue": status,
                    "CategoryValue": "Administrative",
                    "CorrelationId": correlation,
                    "EventDataId": self.id(),
                    "Caller": principal.object_id,
                    "CallerIpAddress": principal.ip_address,
                    "SubscriptionId": _SUBSCRIPTION,
                    "ResourceGroup": resource.partition("/")[0],
                    "Authorization_d": {
                        "action": operation.lower(),
                        "scope": scope,
                        "evidence": {
                            "role": "Contributor",
                            "principalId": principal.object_id,
                            "principalType": "ServicePrincipal",
                        },
                    },
                    "Claims_d": {"appid": principal.app_id, _OID: principal.object_id},
                    "_ResourceId": scope,
                }
            )

    def audit(
        self,
        seconds: float,
        operation: str,
        target: dict[str, object],
        *,
        person: str = "",
        app_id: str = "",
        category: str = "ApplicationManagement",
    ) -> None:
        """Change the directory, as the principal itself or as a person."""
        principal = self.member.principal
        by_app = {
            "app": {
                "displayName": principal.display_name,
                "appId": principal.app_id,
                "servicePrincipalId": principal.object_id,
                "servicePrincipalName": principal.display_name,
            }
        }
        by_person = {"user": {"id": made_up_id(person), "userPrincipalName": person}}
        self.rows["AuditLogs"].append(
            {
                "TimeGenerated": self._at(seconds),
                "ActivityDateTime": self._at(seconds),
                "OperationName": operation,
                "ActivityDisplayName": operation,
                "Category": category,
                "LoggedByService": "Core Directory",
                "Result": "success",
                "CorrelationId": self.id(),
                "Id": f"Directory_{self.id()}",
                "InitiatedBy": by_person if person else by_app,
                "TargetResources": [{"administrativeUnits": [], "modifiedProperties": [], **target}],
                "AdditionalDetails": [{"key": "AppId", "value": app_id}] if app_id else [],
                "AADTenantId": _DEFAULTS.tenant_id,
            }
        )

    def _at(self, seconds: float) -> datetime:
        return self.at + timedelta(seconds=seconds)


@dataclass(frozen=True)
class WrittenStory:
    """
    One way to go astray, as rows.

    ``rogue`` is the display name of the principal in the wide population, ``rules`` the ids of the rules that should
    find it, ``takes`` how long it lasts from its beginning.
    """

    name: str
    description: str
    rogue: str
    rules: tuple[str, ...]
    write: Callable[[Scene], None]
    takes: timedelta = timedelta(minutes=20)


def write_story(
    engine: LogEngine, population: Population, name: str, at: datetime, *, rogue: str | None = None
) -> Member:
    """
    Write the rows of a story that begins at ``at`` into the engine; returns who did it.

    ``rogue`` names another principal to do it, of a population without the usual one.
    Raises: KeyError for an unknown story or principal.
    """
    story = WRITTEN_STORIES[name]
    member = population.named(rogue or story.rogue)
    scene = Scene(name, member, at)
    story.write(scene)
    for table, rows in scene.rows.items():
        happened = [row["TimeGenerated"] for row in rows]
        moments = [one + _INGESTED_AFTER for one in happened if isinstance(one, datetime)]
        engine.insert(table, rows, ingested_at=moments)
    return member


def _vault(scene: Scene) -> None:
    scene.sign_in(0, KEY_VAULT)
    seconds = 5
    for vault, secrets in VAULTS.items():
        for secret in ("", *secrets, f"{vault}-root", f"{vault}-signing"):
            scene.vault(seconds, vault, secret)
            seconds += 12


def _probing(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    doors = (
        "/groups",
        "/devices",
        "/applications",
        "/servicePrincipals",
        "/roleManagement/directory/roleAssignments",
        "/directoryRoles",
        "/subscribedSkus",
        "/organization",
        "/policies/authorizationPolicy",
    )
    for number in range(36):
        scene.graph(5 + 6 * number, doors[number % len(doors)], token=token, status=403)
    scene.graph(240, "/users?$select=id,userPrincipalName", token=token)


_TYPES: Final = (
    "/users/{}/memberOf",
    "/groups/{}/members",
    "/applications/{}/owners",
    "/servicePrincipals/{}/memberOf",
    "/devices/{}/registeredOwners",
)


def _enumeration(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    for number in range(700):
        path = _TYPES[number % 5].format(made_up_id(f"directory/{number}"))
        scene.graph(5 + 1.5 * number, path, token=token)


def _slow_enumeration(scene: Scene) -> None:
    token = ""
    for number in range(1200):
        seconds = 66 * number
        if number % 50 == 0:
            token = scene.sign_in(seconds - 2, GRAPH)
        scene.graph(seconds, _TYPES[number % 5].format(made_up_id(f"directory/{number}")), token=token)


def _replay(scene: Scene) -> None:
    """Use a token that was taken from its owner's memory: there is no second sign-in."""
    token = scene.sign_in(0, GRAPH)
    own = scene.member.profile.activities[0].paths[0].removeprefix("/v1.0")
    for number in range(30):
        scene.graph(
            600 + 8 * number, own.replace("{id}", made_up_id(f"person/{number}")), token=token, thief=True
        )


def _planted_key(scene: Scene) -> None:
    principal = scene.member.principal
    key = scene.id()
    described = [f"[KeyIdentifier={key},KeyType=Password,KeyUsage=Verify,DisplayName=temp]"]
    before = [
        f"[KeyIdentifier={principal.credential_key_id},KeyType=Password,KeyUsage=Verify,DisplayName=primary]"
    ]
    target: dict[str, object] = {
        "id": principal.application_object_id,
        "displayName": principal.display_name,
        "type": "Application",
        "modifiedProperties": [
            {
                "displayName": "KeyDescription",
                "oldValue": json.dumps(before),
                "newValue": json.dumps([*before, *described]),
            }
        ],
    }
    operation = "Update application \N{EN DASH} Certificates and secrets management "
    scene.audit(0, operation, target, person="mallory@example.com", app_id=principal.app_id)
    token = scene.sign_in(600, GRAPH, thief=True, key_id=key)
    for number in range(400):
        mailbox = made_up_id(f"mailbox/{number % 200}")
        scene.graph(605 + 1.4 * number, f"/users/{mailbox}/messages", token=token, thief=True)


def _bulk_blobs(scene: Scene) -> None:
    scene.sign_in(0, STORAGE)
    for number in range(9_000):
        scene.blob(5 + 0.35 * number, f"stlake1/raw/export-{number:05}.parquet", size=30_000_000)


_ROLE_GIVEN: Final = "Add app role assignment to service principal"


def _grant_to(member: Member) -> dict[str, object]:
    """Describe the assignment of the role that gives roles: the API is the target, the grantee a property."""
    principal = member.principal
    granted = (
        ("AppRole.Value", "RoleManagement.ReadWrite.Directory"),
        ("ServicePrincipal.ObjectID", principal.object_id),
        ("ServicePrincipal.DisplayName", principal.display_name),
        ("ServicePrincipal.AppId", principal.app_id),
    )
    target: dict[str, object] = {
        "id": made_up_id("microsoft-graph"),
        "displayName": "Microsoft Graph",
        "type": "ServicePrincipal",
        "modifiedProperties": [
            {"displayName": name, "oldValue": json.dumps(""), "newValue": json.dumps(value)}
            for name, value in granted
        ],
    }
    return target


def _self_grant(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    path = f"/servicePrincipals/{scene.member.principal.object_id}/appRoleAssignments"
    scene.graph(20, path, token=token, method="POST", status=201)
    scene.audit(20, _ROLE_GIVEN, _grant_to(scene.member))


def _granted(scene: Scene) -> None:
    scene.audit(0, _ROLE_GIVEN, _grant_to(scene.member), person="mallory@example.com")


def _guardrails(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    policy = made_up_id("policy")
    scene.graph(
        10, f"/identity/conditionalAccess/policies/{policy}", token=token, method="DELETE", status=204
    )
    scene.audit(
        10,
        "Delete conditional access policy",
        {"id": policy, "displayName": "Block service principals at high risk", "type": "Policy"},
        category="Policy",
    )
    scene.sign_in(60, ARM)
    workspace = "rg-security/providers/microsoft.operationalinsights/workspaces/law-security"
    setting = f"{workspace}/providers/microsoft.insights/diagnosticsettings/to-sentinel"
    scene.azure(65, "Microsoft.Insights/diagnosticSettings/delete", setting)


def _guessing(scene: Scene) -> None:
    for number in range(18):
        scene.sign_in(20 * number, GRAPH, thief=True, result="7000215")
    token = scene.sign_in(400, GRAPH, thief=True)
    scene.graph(410, "/users", token=token, thief=True)


def _sprawl(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    for number in range(7):
        for offset, collection, operation, kind in (
            (0, "/applications", "Add application", "Application"),
            (5, "/servicePrincipals", "Add service principal", "ServicePrincipal"),
        ):
            seconds = 10 + 45 * number + offset
            scene.graph(seconds, collection, token=token, method="POST", status=201)
            scene.audit(
                seconds, operation, {"id": scene.id(), "displayName": f"helper-{number}", "type": kind}
            )


def _run_command(scene: Scene) -> None:
    for number in range(4):
        machine = f"rg-servers/providers/microsoft.compute/virtualmachines/vm-{number:02}"
        scene.azure(30 + 60 * number, "Microsoft.Compute/virtualMachines/runCommand/action", machine)


def _account_key(scene: Scene) -> None:
    account = scene.member.profile.activities[0].paths[0].partition("/")[0]
    listed = f"rg-data/providers/microsoft.storage/storageaccounts/{account}"
    scene.azure(0, "Microsoft.Storage/storageAccounts/listKeys/action", listed)
    for number in range(40):
        scene.blob(120 + 5 * number, f"{account}/queue/work-{number:04}.json", size=6_000, key=True)


def _waking(scene: Scene) -> None:
    token = scene.sign_in(0, GRAPH)
    for number in range(20):
        scene.graph(10 + 9 * number, f"/users/{made_up_id(f'mailbox/{number}')}/messages", token=token)


_ALL: Final = (
    WrittenStory(
        "vault",
        "an agent that only ever read SharePoint lists and reads the secrets of two vaults",
        INVOICE_READER.name,
        ("AG-01", "AG-04", "AG-20"),
        _vault,
    ),
    WrittenStory(
        "probing",
        "an assistant tries nine closed doors until one opens",
        "calendar-assistant-03",
        ("AG-07",),
        _probing,
    ),
    WrittenStory(
        "enumeration",
        "a chat bot reads the directory of five types in twenty minutes",
        "chat-bot-02",
        ("AG-02", "AG-06", "AG-08"),
        _enumeration,
    ),
    WrittenStory(
        "slow-enumeration",
        "a translator reads the directory, one object a minute, for twenty-two hours",
        "translator-02",
        ("AG-02", "AG-08"),
        _slow_enumeration,
        timedelta(hours=22),
    ),
    WrittenStory(
        "token-replay",
        "a token of an assistant is used from another network",
        "calendar-assistant-05",
        ("AG-13",),
        _replay,
    ),
    WrittenStory(
        "planted-key",
        "somebody adds a key to a mail reader, signs in with it elsewhere and reads two hundred mailboxes",
        "mail-summariser-03",
        ("AG-10", "AG-11", "AG-12", "AG-15", "AG-23"),
        _planted_key,
    ),
    WrittenStory(
        "bulk-blobs",
        "a pipeline reads far more of the data lake than ever, within an hour",
        "blob-pipeline-05",
        ("AG-21",),
        _bulk_blobs,
        timedelta(minutes=55),
    ),
    WrittenStory(
        "self-grant",
        "an app gives itself the role that gives roles",
        "notifier-04",
        ("AG-18",),
        _self_grant,
    ),
    WrittenStory(
        "privilege",
        "a person gives the role that gives roles to a chat bot",
        "chat-bot-05",
        ("AG-17",),
        _granted,
    ),
    WrittenStory(
        "guardrails",
        "an app deletes the block policy and the workspace's diagnostic setting",
        "people-sync-01",
        ("AG-19",),
        _guardrails,
    ),
    WrittenStory(
        "guessing", "eighteen wrong secrets, then the right one", "notifier-02", ("AG-09", "AG-10"), _guessing
    ),
    WrittenStory(
        "sprawl", "an app makes seven helpers in six minutes", "people-sync-02", ("AG-16",), _sprawl
    ),
    WrittenStory(
        "run-command", "an app runs commands on four machines", "function-05", ("AG-24",), _run_command
    ),
    WrittenStory(
        "account-key",
        "a function fetches the key of its storage account and goes on with it, nameless",
        "function-03",
        ("AG-22",),
        _account_key,
    ),
    WrittenStory(
        "waking",
        "an app that was silent for eleven days signs in and reads mail",
        "paused-01",
        ("AG-31",),
        _waking,
    ),
)

WRITTEN_STORIES: Final = {story.name: story for story in _ALL}
