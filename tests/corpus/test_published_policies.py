"""
Conditional Access policies that others published, through our parser and evaluator. Nobody here wrote them.

The files are not part of the project (``../shared/samples``); without them these tests are skipped, loudly. Each policy is
judged for a single-tenant application and for an agent identity, and the line beside it says why.
"""

import json
import os
from pathlib import Path

import pytest

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, ServicePrincipal
from response.breaker import Breaker, Coverage, policy_from_body, policy_to_body, short
from response.coverage import About, Reason
from response.evidence import NotArmed

SAMPLES = Path(os.environ.get("AGENTDESK_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "samples"
SCUBAGEAR = SAMPLES / "scubagear" / "ProviderSettingsExport.create-report-stub.json"
BASELINE = SAMPLES / "ca-baseline-j0eyv" / "ConditionalAccess"
TEMPLATES = SAMPLES / "ca-templates-azure-samples"
FOLDERS = [SCUBAGEAR, BASELINE, TEMPLATES]

pytestmark = pytest.mark.skipif(
    not all(folder.exists() for folder in FOLDERS),
    reason=f"PUBLISHED POLICIES NOT RUN: {[str(f) for f in FOLDERS if not f.exists()]} are not there",
)

PEOPLE, GRANTS, NOTHING = Reason.TARGETS_PEOPLE, Reason.GRANTS, Reason.NO_RESOURCES

# What is said of each, for an application and an agent identity alike.
FOR_PEOPLE = {
    # --- ScubaGear: 20 policies of a lived-in test tenant, users only
    # MFA for all users: grants on MFA, and people are not service principals.
    "Live - MFA SHALL be required for all users": {GRANTS, PEOPLE},
    # The first of those that block everything from somewhere. "All users" holds no service principal.
    "Block Logins External to USA": {PEOPLE},
    # Blocks, for users, on two legacy client types that a service principal does not have.
    "Live - Legacy Authentication SHALL be Blocked": {PEOPLE},
    # Looks most like a breaker: blocks, all apps, risk high. But the risk is a user's and so is who it is for.
    "Live - High Risk Users SHALL be Blocked": {PEOPLE},
    # The same with the risk of one sign-in, and without any exclusion.
    "Live - High Risk Sign-ins SHALL be Blocked": {PEOPLE},
    # Session controls only: no grant controls at all, so nothing that blocks.
    "Live - Session Length SHALL be Limited": {GRANTS, PEOPLE},
    "Live - Browser Sessions SHALL NOT be Persistent": {GRANTS, PEOPLE},
    # Directory roles. A service principal may hold one, and the policy still does not reach it: roles of users.
    "Live - MFA SHALL be required for Highly Privileged Roles": {GRANTS, PEOPLE},
    # Blocks on a device filter, for one user, and only reports: the user alone decides it.
    "TEST - Require Device Signal using conditions (limited users)": {PEOPLE},
    # Session frequency for two users on Office 365.
    "TEST - Short session length test (limited users)": {GRANTS, PEOPLE},
    # Demands a managed device of one user.
    "Live - Managed Devices SHOULD be Required (limited users)": {GRANTS, PEOPLE},
    # Authentication strength is a demand, no block; "None" as application covers nothing; a group and a user.
    "LIVE - Auth Strength (Limited Users)": {GRANTS, NOTHING, PEOPLE},
    # Blocks a group, on no application, and only reports.
    "Report - Block CAP Exclusion Test Accounts": {NOTHING, PEOPLE},
    # Registering security information is a user's action and no resource; MFA is demanded, outside trusted places.
    "Live - MFA registration with temporary access pass (limited users)": {GRANTS, NOTHING, PEOPLE},
    # The same action, blocked: still no resource.
    "Live - MFA registration from Trusted Location only (limited users)": {NOTHING, PEOPLE},
    # The same action, demanding a device.
    "Live - MFA registration from Managed Device or Trusted Location only (limited users)": {GRANTS, NOTHING, PEOPLE},
    # Registering a device is an action too.
    "Live - Device registration requires MFA (limited users)": {GRANTS, NOTHING, PEOPLE},
    # Authentication strength for one guest.
    "Live - Phishing Resistant MFA required (specific guest user)": {GRANTS, PEOPLE},
    # Registering security information on a managed device.
    "Ted Test - new registration": {GRANTS, NOTHING, PEOPLE},
    # Authentication strength for one user, all applications but one.
    "Phishing Resistant MFA Test Policy": {GRANTS, PEOPLE},
    # --- Conditional Access baseline: everything below CA5xx is for people
    # MFA for all users, groups and a role excluded.
    "CA000-Global-IdentityProtection-AnyApp-AnyPlatform-MFA": {GRANTS, PEOPLE},
    # Blocks legacy clients of all users. "Global" in the name does not mean service principals.
    "CA002-Global-IdentityProtection-AnyApp-AnyPlatform-Block-LegacyAuthentication": {PEOPLE},
    # MFA for registering a device: a user action.
    "CA003-Global-BaseProtection-RegisterOrJoin-AnyPlatform-MFA": {GRANTS, NOTHING, PEOPLE},
    # A managed application on phones, for Office 365.
    "CA005-Global-DataProtection-Office365-iOSenAndroid-ClientApps-Unmanaged-AppEnforcedRestrictions": {GRANTS, PEOPLE},
    # Restrictions the application enforces, a session control.
    "CA006-Global-DataProtection-Office365-AnyPlatform-Browser-Unmanaged-AppEnforceRestrictions": {GRANTS, PEOPLE},
    # Administrators by directory role, on the admin portals; authentication strength.
    "CA100-Admins-IdentityProtection-AdminPortals-AnyPlatform-MFA": {GRANTS, PEOPLE},
    # Sign-in frequency and persistent browsers of administrators: session controls.
    "CA102-Admins-IdentityProtection-AllApps-AnyPlatform-SigninFrequency": {GRANTS, PEOPLE},
    "CA103-Admins-IdentityProtection-AllApps-AnyPlatform-PersistentBrowser": {GRANTS, PEOPLE},
    # Authentication strength of administrators, only reported.
    "CA105-Admins-IdentityProtection-AnyApp-AnyPlatform-PhishingResistantMFA": {GRANTS, PEOPLE},
    # A group of employees: MFA, session controls, devices. A group cannot hold a service principal for a policy.
    "CA200-Internals-IdentityProtection-AnyApp-AnyPlatform-MFA": {GRANTS, PEOPLE},
    "CA202-Internals-IdentityProtection-AllApps-WindowsMacOS-SigninFrequency-UnmanagedDevices": {GRANTS, PEOPLE},
    "CA203-Internals-AppProtection-MicrosoftIntuneEnrollment-AnyPlatform-MFA": {GRANTS, PEOPLE},
    "CA205-Internals-BaseProtection-AnyApp-Windows-CompliantorAADHJ": {GRANTS, PEOPLE},
    "CA206-Internals-IdentityProtection-AllApps-AnyPlatform-PersistentBrowser": {GRANTS, PEOPLE},
    "CA208-Internals-BaseProtection-AnyApp-MacOS-Compliant": {GRANTS, PEOPLE},
    # Continuous access evaluation bound strictly to locations, for employees: says nothing of workload identities.
    "CA209-Internals-IdentityProtection-AllApps-AnyPlatform-ContinuousAccessEvaluation": {GRANTS, PEOPLE},
    # "Service accounts" are users in a group here, not service principals: the trap of the set.
    "CA300-ServiceAccounts-IdentityProtection-AnyApp-AnyPlatform-MFA": {GRANTS, PEOPLE},
    # Guests of every sort.
    "CA400-GuestUsers-IdentityProtection-AnyApp-AnyPlatform-MFA": {GRANTS, PEOPLE},
    "CA402-GuestUsers-IdentityProtection-AllApps-AnyPlatform-SigninFrequency": {GRANTS, PEOPLE},
    "CA403-GuestUsers-IdentityProtection-AllApps-AnyPlatform-PersistentBrowser": {GRANTS, PEOPLE},
    # Blocks agent *users* outside a network. They are users: neither agent identities nor applications.
    "CA505-Agents-AttackSurfaceReduction-AllAgentUsers-AllResources-RequireCompliantNetWork": {PEOPLE},
    # --- Templates of 2020, before there were conditions for workload identities
    # Approved applications on phones, for a group.
    "template-require-mam-android-ios": {GRANTS, PEOPLE},
    # MFA of guests, by the reserved word GuestsOrExternalUsers; no clientAppTypes at all.
    "template-require-mfa-b2b-users": {GRANTS, PEOPLE},
    # Registering security information: a user action, for a group, outside trusted places.
    "template-require-mfa-security-info-registration": {GRANTS, NOTHING, PEOPLE},
}  # fmt: skip
CA502 = "CA502-Agents-AttackSurfaceReduction-AllAgentIdentities-AllAgentResources-BLOCK"


def read(path):
    raw = path.read_bytes()
    return json.loads(raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"))


def as_graph_spells_it(value):
    """The PowerShell module writes PascalCase; the rest is Graph's."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: as_graph_spells_it(item) for name, item in value.items()}
    return [as_graph_spells_it(item) for item in value] if isinstance(value, list) else value


def published():
    if not all(folder.exists() for folder in FOLDERS):
        return {}
    found = {path.stem: read(path) for folder in (BASELINE, TEMPLATES) for path in folder.glob("*.json")}
    for policy in as_graph_spells_it(read(SCUBAGEAR)["conditional_access_policies"]):
        found[policy["displayName"]] = policy
    return found


PUBLISHED = published()
APPLICATION, AGENT = (
    About(
        ServicePrincipal(
            ObjectId("7c9e6679-7425-4de4-944b-e07fc1f90ae7"),
            AppId("88888888-8888-4888-8888-888888888888"),
            "invoice-reader",
            kind,
            None,
            None,
        )
    )
    for kind in (Kind.APPLICATION, Kind.AGENT_IDENTITY)
)


def alone(name, about, **changes):
    breaker = Breaker([policy_from_graph(PUBLISHED[name] | changes)])
    return breaker.answer(about), {why.reason for why in breaker.reasons(about)}


def test_every_published_policy_is_reasoned_about():
    assert set(PUBLISHED) == {*FOR_PEOPLE, CA502}
    assert len(PUBLISHED) == 45


@pytest.mark.parametrize("name", FOR_PEOPLE)
@pytest.mark.parametrize("about", [APPLICATION, AGENT], ids=["application", "agent identity"])
def test_a_policy_for_people_covers_no_workload_identity_and_says_why(name, about):
    answer, reasons = alone(name, about)

    assert answer.coverage is Coverage.NOT_COVERED
    assert reasons == FOR_PEOPLE[name]


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_enabling_a_policy_for_people_would_not_arm_the_breaker_either(name):
    for about in (APPLICATION, AGENT):
        answer, reasons = alone(name, about, state="enabled")

        assert (answer.coverage, reasons) == (Coverage.NOT_COVERED, FOR_PEOPLE[name])


def test_the_one_policy_on_agent_identities_only_reports_and_only_on_agent_resources():
    # An application is not who it is for.
    answer, reasons = alone(CA502, APPLICATION)
    assert (answer.coverage, reasons) == (Coverage.NOT_COVERED, {Reason.FOR_AGENT_IDENTITIES})
    # An agent identity is. It only reports, though, and enabled it would block agent resources alone: Microsoft Graph,
    # where an agent does its damage, is none of them. So enabling it must not be said to be the answer.
    answer, reasons = alone(CA502, AGENT)
    assert (answer.coverage, reasons) == (
        Coverage.NOT_COVERED,
        {Reason.ONLY_REPORTS, Reason.SOME_RESOURCES},
    )
    # Enabled it blocks there whatever the risk is (it has no risk condition): confirming changes nothing about it.
    answer, _ = alone(CA502, AGENT, state="enabled")
    assert answer.coverage is Coverage.IN_PLACE
    assert "a token for Microsoft Graph is none" in answer.why


@pytest.mark.parametrize("about", [APPLICATION, AGENT], ids=["application", "agent identity"])
def test_no_published_set_arms_the_breaker_and_none_leaves_it_unknown(about):
    whole = short(Breaker([policy_from_graph(body) for body in PUBLISHED.values()]).answer(about))

    assert isinstance(whole, NotArmed)
    assert (whole.report_only, whole.lever) == (False, "disable-principal")


@pytest.mark.parametrize("name", [*FOR_PEOPLE, CA502])
def test_a_published_policy_survives_the_store(name):
    policy = policy_from_graph(PUBLISHED[name])

    assert policy_from_body(json.loads(json.dumps(policy_to_body(policy)))) == policy


def test_what_the_published_sets_are_missing_is_enough():
    """The same set with one policy of its own form on service principal risk: only that one is named."""
    body = PUBLISHED["Live - High Risk Users SHALL be Blocked"]
    conditions = body["conditions"] | {
        "users": {"includeUsers": ["None"]},
        "userRiskLevels": [],
        "servicePrincipalRiskLevels": ["high"],
        "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
    }
    ours = body | {"id": "ours", "conditions": conditions}
    breaker = Breaker([policy_from_graph(one) for one in (*PUBLISHED.values(), ours)])

    assert breaker.answer(APPLICATION).policies == ("ours",)
    assert breaker.answer(AGENT).coverage is Coverage.NOT_COVERED
