"""The workflow for machines with the real compiler: what it may do, and that its actions are pinned."""

import re

import bicep
import yaml

PATH = bicep.ROOT / ".github" / "workflows" / "infra.yml"
TEXT = PATH.read_text()
JOBS = yaml.safe_load(TEXT)["jobs"]


def test_nothing_is_allowed_but_what_a_job_needs():
    assert yaml.safe_load(TEXT)["permissions"] == {}
    assert JOBS["build"]["permissions"] == {"contents": "read"}
    assert JOBS["what-if"]["permissions"] == {"contents": "read", "id-token": "write"}


def test_the_login_is_out_of_reach_of_a_pull_request_and_holds_no_secret():
    assert "github.ref == 'refs/heads/main'" in JOBS["what-if"]["if"]
    assert JOBS["what-if"]["environment"] == "azure"
    assert "secrets." not in TEXT
    assert "pull_request_target" not in TEXT


def test_actions_are_pinned_and_leave_no_credentials_behind():
    steps = [step for job in JOBS.values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]

    assert used
    assert all(re.fullmatch(r"(actions|azure)/[a-z]+@v\d+\.\d+\.\d+", name) for name in used)
    assert all(
        step["with"]["persist-credentials"] is False for step in steps if "checkout" in step.get("uses", "")
    )


def test_it_compiles_lints_and_asks_what_would_change_and_deploys_nothing():
    commands = " ".join(step.get("run", "") for job in JOBS.values() for step in job["steps"])

    for command in ("az bicep build", "az bicep lint", "az deployment sub what-if"):
        assert command in commands
    assert "deployment sub create" not in commands
    assert "${{" not in commands  # values reach the shell as variables, never as text of the script


def test_what_if_passes_parameters_that_exist():
    passed = set(re.findall(r"\b(\w+)=", JOBS["what-if"]["steps"][-1]["run"]))
    parameters = bicep.load("main.bicep").parameters()

    assert passed <= set(parameters)
    assert {name for name, must in parameters.items() if must} <= passed


def test_it_says_that_it_was_not_run_where_it_was_written():
    assert "could not be run" in TEXT
