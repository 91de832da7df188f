import json
from datetime import timedelta
from pathlib import Path

import pytest

from response.policy import Mode
from settings import SETTINGS, Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]


def read(**changes):
    return Settings.from_env({**SAMPLE, **changes})


def test_the_sample_shows_every_setting_and_can_be_read():
    names = {setting.name for setting in SETTINGS}

    assert names <= set(SAMPLE)
    assert {name for name in SAMPLE if name.startswith("AGENTBREAKER_")} <= names
    assert read().mode is Mode.OBSERVE


def test_every_setting_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text()

    assert [setting.name for setting in SETTINGS if f"`{setting.name}`" not in page] == []


def test_defaults_are_the_safe_side():
    needed = {s.name: s.sample for s in SETTINGS if s.default is None}

    settings = Settings.from_env(needed)

    assert settings.mode is Mode.OBSERVE
    assert settings.protected is None  # absent is unreadable, not empty
    assert settings.easy_auth is False
    assert settings.policies_max_age == timedelta(minutes=5)


def test_all_faults_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        read(
            AGENTBREAKER_MODE="enfroce",
            AGENTBREAKER_TENANT_ID="contoso",
            AGENTBREAKER_AUTOMATIC_PER_HOUR="-1",
            AGENTBREAKER_RULE_MODES="AG-07:observe",
            AGENTBREAKER_PROTECTED_PRINCIPLES="none",
            AGENTBREAKER_WORKSPACE_RESOURCE_ID="law-sec",
        )

    faults = " | ".join(caught.value.faults)
    assert len(caught.value.faults) == 6
    for name in (
        "MODE",
        "TENANT_ID",
        "AUTOMATIC_PER_HOUR",
        "RULE_MODES",
        "PROTECTED_PRINCIPLES",
        "WORKSPACE_RESOURCE_ID",
    ):
        assert f"AGENTBREAKER_{name}" in faults


@pytest.mark.parametrize("name", ["AGENTBREAKER_WEBHOOK_URL", "AGENTBREAKER_WEBHOOK_SECRET"])
def test_a_reference_that_the_platform_could_not_follow_is_never_taken_for_the_secret(name):
    values = {
        "AGENTBREAKER_WEBHOOK_URL": "https://example.com/hook",
        "AGENTBREAKER_WEBHOOK_SECRET": "a long secret",
    }
    reference = "@Microsoft.KeyVault(SecretUri=https://kv.vault.azure.net/secrets/agentbreaker-webhook)"
    with pytest.raises(
        SettingsError, match=f"{name} is a Key Vault reference that the platform could not follow"
    ):
        read(**(values | {name: reference}))


@pytest.mark.parametrize("text", ["not-a-guid", "7c9e6679-7425-4de4-944b-e07fc1f90ae7,invoice-reader"])
def test_a_protected_list_that_cannot_be_read_stops_the_app(text):
    with pytest.raises(SettingsError, match="PROTECTED_PRINCIPALS"):
        read(AGENTBREAKER_PROTECTED_PRINCIPALS=text)


def test_none_is_an_empty_list_and_empty_is_no_list():
    assert read(AGENTBREAKER_PROTECTED_PRINCIPALS="none").protected == frozenset()
    assert read(AGENTBREAKER_PROTECTED_PRINCIPALS=" ").protected is None


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("GRAPH_URL", "https://graph.microsoft.com.evil.example"),
        ("GRAPH_URL", "http://graph.microsoft.com"),
        ("GRAPH_URL", "https://user@graph.microsoft.com"),
        ("GRAPH_URL", "https://graph.microsoft.com:8443"),
        ("LOGS_URL", "https://api.loganalytics.io.example"),
        ("ARM_URL", "https://example.com"),
        ("AUTHORITY_URL", "http://localhost:8443"),
    ],
)
def test_tokens_go_to_listed_hosts_only(name, url):
    with pytest.raises(SettingsError, match=name):
        read(**{f"AGENTBREAKER_{name}": url})


def test_plain_http_is_for_localhost():
    assert read(AGENTBREAKER_GRAPH_URL="http://127.0.0.1:8080/").graph_url == "http://127.0.0.1:8080"


def test_the_secret_is_masked_in_repr():
    settings = read(
        AGENTBREAKER_CLIENT_ID="88888888-8888-4888-8888-888888888888", AGENTBREAKER_CLIENT_SECRET="s3cret"
    )

    assert "s3cret" not in repr(settings)
