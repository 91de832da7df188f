"""What of the Graph SDK the app can reach: too much may be kept, never too little."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgraph
import pytest
from little_sdk import APP, installed

from packer.faults import PackageError
from packer.files import Folder
from packer.reach import reached
from packer.sources import deployed

ROOT = Path(__file__).resolve().parents[2]
GRAPH = "clients/graph/__init__.py"


def kept(code, **sdk):
    return reached("msgraph", installed(**sdk), APP | {GRAPH: code}).kept


def test_what_a_property_named_in_our_code_imports_is_kept_and_nothing_else():
    reach = reached("msgraph", installed(), APP)

    assert reach.kept == {"msgraph/__init__.py", "msgraph/client.py", "msgraph/generated/users.py"}


def test_every_function_that_would_meet_a_module_left_out_is_named_with_its_reason():
    found = {
        (one.function, one.imports, one.reason) for one in reached("msgraph", installed(), APP).exceptions
    }

    assert found == {
        ("Client.mail", ("msgraph.generated.mail",), "its name is never said"),
        ("UsersBuilder.get", ("msgraph.generated.models.user",), "never awaited"),
    }


@pytest.mark.parametrize(
    "code",
    [
        "async def f(c): return await c.users.get()",
        "async def f(c):\n    found = c.users.get()\n    return await found",
        "async def f(c): return await translated('read', c.users.get)",
        "async def f(c): return await asyncio.gather(c.users.get(), other())",
        "async def f(c): return asyncio.create_task(c.users.get())",
        "async def f(c):\n    if found := c.users.get():\n        await found",
        "f = lambda c: c.users.get()",
        "def f(c): return c.users.get()",
        "def f(c) -> Awaitable[object]: return c.users.get()",
        "async def f(c): return await getattr(c.users, 'get')()",
        "async def f(c):\n    send = c.users.get\n    return await send()",
    ],
)
def test_a_coroutine_that_may_be_awaited_is_reached_with_its_models(code):
    assert "msgraph/generated/models/user.py" in kept(f"from msgraph.client import Client\n{code}\n")


@pytest.mark.parametrize(
    "code",
    [
        "async def f(c): return text(c.users, answers.get('id'))",
        "async def f(c):\n    id = answers.get('id')\n    return await c.users.read(id)",
        "def f(c) -> str: return answers.get('id')",
    ],
)
def test_a_mapping_that_is_asked_reaches_no_coroutine_of_that_name(code):
    assert "msgraph/generated/models/user.py" not in kept(f"from msgraph.client import Client\n{code}\n")


def test_a_module_that_is_only_named_as_text_is_kept():
    code = "HEAVY = ('msgraph.generated.errors',)\n"

    found = reached("msgraph", installed(), APP | {"handlers/process.py": code}).kept

    assert "msgraph/generated/errors.py" in found


def test_an_import_inside_a_function_of_ours_is_followed():
    assert "msgraph/generated/errors.py" in kept(
        "def f():\n    from msgraph.generated.errors import ODataError\n"
    )


def test_an_import_for_type_checkers_is_not_followed():
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from msgraph.generated.mail import MailBuilder\n"

    assert "msgraph/generated/mail.py" not in kept(code)


def test_names_said_by_the_core_packages_reach_too():
    code = "def send(client): return client.mail\n"

    assert "msgraph/generated/mail.py" in kept(APP[GRAPH], **{"kiota_core/__init__.py": code})


def test_names_said_by_a_reached_function_of_the_sdk_reach_too():
    users = (
        "class UsersBuilder:\n    def to_get_request_information(self):\n        return self.client.mail\n"
    )

    assert "msgraph/generated/mail.py" in kept(APP[GRAPH], **{"msgraph/generated/users.py": users})


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("from msgraph.client import Client\ndef f(c, name): return getattr(c, name)\n", "is computed"),
        (
            "from msgraph.client import Client\nasync def f(call): return await call\n",
            "a parameter is awaited",
        ),
        ("from msgraph.generated.nothing import Nothing\n", "has not got"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_not_guessed(code, words):
    with pytest.raises(PackageError, match=words):
        kept(code)


@pytest.fixture(scope="module")
def real_reach():
    site = Path(msgraph.__file__).parents[1]
    packages = ["msgraph", "msgraph_core", *(found.name for found in site.glob("kiota_*") if found.is_dir())]
    app = {path: (ROOT / path).read_text() for path in deployed(ROOT) if path.endswith(".py")}
    return reached("msgraph", Folder(site, packages), app)


def test_of_the_real_sdk_little_is_kept(real_reach):
    assert 25 <= len(real_reach.kept) <= 150
    assert "msgraph/generated/models/o_data_errors/o_data_error.py" in real_reach.kept
    assert not any("/models/service_principal.py" in path for path in real_reach.kept)


def test_what_production_code_loads_when_it_runs_is_in_what_was_found_by_reading(real_reach, tmp_path):
    """The cheap half of ``make package-check``: no wheels, no network, a few files of tests over real sockets."""
    chosen = [
        "tests/clients/test_what_if.py",
        "tests/clients/test_dossier.py",
        "tests/detections/test_dormant.py",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "packer.traced",
            "-p",
            "no:cacheprovider",
            *chosen,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PACKAGE_CHECK_TRACE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:]
    loaded = {name for one in tmp_path.glob("*.json") for name in json.loads(one.read_text())}
    found = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in real_reach.kept}
    modules = {name for name in loaded if name.startswith("msgraph.")} - {
        name for name in loaded if any(other.startswith(f"{name}.") for other in loaded)
    }  # folders without a file are no modules
    assert modules
    assert modules - found - {"msgraph"} == set()
