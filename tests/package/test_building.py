"""The zip: the same bytes each time, only what was locked, and nothing half-made; all with real pip and real git."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import package
import pytest
from little_sdk import APP, SDK, digest_of, write_wheel

from packer import archive, locks
from packer.checking import unpack
from packer.faults import PackageError

ROOT = Path(__file__).resolve().parents[2]
SITE = ".python_packages/lib/site-packages"
WHEELS = {
    ("msgraph", "1.0"): {path: text for path, text in SDK.items() if path.startswith("msgraph/")},
    ("kiota-core", "2.0"): {
        "kiota_core/__init__.py": SDK["kiota_core/__init__.py"],
        "kiota_core/tests/test_it.py": "assert True\n",
        "kiota_core/fast.pyx": "cdef int x\n",
        "kiota_core-2.0.dist-info/entry_points.txt": "[things]\none = kiota_core:send\n",
    },
}


def git(root, *words):
    author = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com"}
    committer = {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com"}
    subprocess.run(
        [shutil.which("git"), *words],
        cwd=root,
        check=True,
        capture_output=True,
        env={**os.environ, **author, **committer},
    )


def little_project(root):
    """A project in a clone of its own, its index a folder of wheels beside it."""
    wheels = root.parent / f"{root.name}-index"
    made = [write_wheel(wheels, name, version, files) for (name, version), files in WHEELS.items()]
    files = APP | {
        "host.json": "{}",
        "settings.py": "",
        "requirements.txt": "msgraph==1.0\nkiota-core==2.0\n",
        ".funcignore": "*.lock\ndist/\n.gitignore\n.funcignore\n",
        ".gitignore": "dist/\n",
        "requirements-py313.lock": "".join(
            f"{name}=={version} --hash=sha256:{digest_of(wheel)}\n"
            for (name, version), wheel in zip(WHEELS, made, strict=True)
        ),
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return wheels


@pytest.fixture
def index(monkeypatch):
    """Let pip see one index only, and give up at once."""

    def use(address):
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        if isinstance(address, Path):
            monkeypatch.setenv("PIP_NO_INDEX", "1")
            monkeypatch.setenv("PIP_FIND_LINKS", str(address))
        else:
            monkeypatch.setenv("PIP_INDEX_URL", address)
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.setenv("PIP_TIMEOUT", "2")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")

    return use


@pytest.fixture
def project(tmp_path, index):
    root = tmp_path / "project"
    index(little_project(root))
    return root


def left(root):
    """What a build left in dist/ for anybody to deploy."""
    return sorted(found.name for found in (root / "dist").glob("*") if found.name != "wheels")


def test_a_package_holds_the_app_its_locked_wheels_and_what_is_reached_of_the_sdk(project, capsys):
    made = package.build("3.13", root=project)

    names = set(zipfile.ZipFile(made).namelist())
    assert names == {
        *APP,
        *("host.json", "settings.py", "requirements.txt"),
        *(
            f"{SITE}/msgraph/{name}"
            for name in ("__init__.py", "_left_out.py", "client.py", "generated/users.py")
        ),
        f"{SITE}/kiota_core/__init__.py",
        *(f"{SITE}/kiota_core-2.0.dist-info/{name}" for name in ("METADATA", "entry_points.txt")),
        f"{SITE}/msgraph-1.0.dist-info/METADATA",
    }
    said = capsys.readouterr().out
    assert "3 modules" in said
    assert "modules of the SDK that nothing reaches" in said
    report = json.loads(made.with_suffix(".json").read_text())
    assert {one["package"] for one in report["removed"]} == {"msgraph", "kiota-core"}
    assert len(report["functionsThatNeverRun"]) == 2


def test_two_builds_in_different_folders_and_times_are_the_same_bytes(project, tmp_path, index):
    other = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(project, other)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    git(other, "config", "core.fileMode", "false")

    first, second = package.build("3.13", root=project), package.build("3.13", root=other)

    assert first.read_bytes() == second.read_bytes()
    assert not any(
        str(tmp_path).encode() in zipfile.ZipFile(first).read(name)
        for name in zipfile.ZipFile(first).namelist()
    )


def test_a_module_left_out_is_missed_by_a_message_that_names_this_tool(project, tmp_path):
    unpack(package.build("3.13", root=project), tmp_path / "app")
    code = "from msgraph import Client\nprint(Client().users.to_get_request_information())\nClient().mail\n"

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "app" / SITE)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "GET /users\n"
    assert "msgraph.generated.mail is not in this package" in done.stderr
    assert "scripts/package.py" in done.stderr


def test_a_file_that_is_not_the_locked_one_is_refused(project, index, tmp_path):
    write_wheel(tmp_path / "project-index", "msgraph", "1.0", {"msgraph/__init__.py": "evil = 1\n"})

    with pytest.raises(PackageError, match="not the hash that is locked") as refused:
        package.build("3.13", root=project)

    assert "do not use it" in refused.value.remedy
    assert left(project) == []


def test_a_wheel_swapped_in_the_cache_is_fetched_again_and_never_believed(project):
    good = package.build("3.13", root=project).read_bytes()
    cached = next((project / "dist" / "wheels" / "3.13").glob("msgraph-*"))
    write_wheel(cached.parent, "msgraph", "1.0", {"msgraph/__init__.py": "evil = 1\n"})

    again = package.build("3.13", root=project).read_bytes()

    assert again == good


def test_a_wheel_for_another_platform_is_said_to_be_missing(project, index, tmp_path):
    wheels = tmp_path / "project-index"
    only = next(wheels.glob("msgraph-*.whl"))
    only.rename(wheels / "msgraph-1.0-cp313-cp313-win_amd64.whl")

    with pytest.raises(PackageError, match=r"no wheel for Linux x86-64 and Python 3\.13"):
        package.build("3.13", root=project)

    assert left(project) == []


def test_an_index_that_is_not_reached_is_said_to_be_that(project, index):
    index("http://127.0.0.1:9/simple")

    with pytest.raises(PackageError, match="index was not reached"):
        package.build("3.13", root=project)

    assert left(project) == []


def test_what_is_not_committed_is_not_packed(project):
    (project / "clients" / "new.py").write_text("x = 1\n")
    (project / "settings.py").write_text("changed = True\n")

    with pytest.raises(PackageError, match=r"clients/new\.py.*settings\.py") as refused:
        package.build("3.13", root=project)

    assert "--allow-dirty" in refused.value.remedy
    assert left(project) == []
    assert package.build("3.13", root=project, allow_dirty=True).is_file()


def test_a_folder_that_is_no_clone_is_refused_with_what_to_do(project, monkeypatch, tmp_path):
    shutil.rmtree(project / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    with pytest.raises(PackageError, match="git cannot say") as refused:
        package.build("3.13", root=project)

    assert "clone" in refused.value.remedy


def test_without_git_it_says_so(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(PackageError, match="git was not found"):
        package.build("3.13", root=project)


def test_a_deployed_file_that_was_deleted_is_missed(project):
    (project / "clients" / "__init__.py").unlink()

    with pytest.raises(PackageError, match=r"clients/__init__\.py would be missing"):
        package.build("3.13", root=project)


def test_a_lock_out_of_step_is_refused(project):
    (project / "requirements.txt").write_text("msgraph==1.1\nkiota-core==2.0\n")
    git(project, "commit", "-qam", "newer")

    with pytest.raises(PackageError, match=r"msgraph: requirements\.txt 1\.1, lock 1\.0") as refused:
        package.build("3.13", root=project)

    assert "package.py lock" in refused.value.remedy


@pytest.mark.parametrize("limit", ["MOST_ZIPPED", "MOST_UNPACKED"])
def test_a_package_over_a_limit_fails_and_leaves_the_one_before(project, monkeypatch, limit):
    before = package.build("3.13", root=project).read_bytes()
    monkeypatch.setattr(package, limit, 100)

    with pytest.raises(PackageError, match="at most"):
        package.build("3.13", root=project)

    assert left(project) == ["agentbreaker-py313.json", "agentbreaker-py313.zip"]
    assert (project / "dist" / "agentbreaker-py313.zip").read_bytes() == before


def test_a_zip_that_fails_half_way_leaves_nothing(tmp_path):
    class Bursts(bytes):
        def __len__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        archive.write_zip(tmp_path / "a.zip", [("a", b"x"), ("b", Bursts(b"y"))], most=1000)

    assert list(tmp_path.iterdir()) == []


def test_something_kept_that_imports_what_was_left_out_stops_the_build(tmp_path, index, monkeypatch):
    leaning = WHEELS[("kiota-core", "2.0")] | {
        "kiota_core/lean.py": "def f():\n    import kiota_core.tests.test_it\n"
    }
    monkeypatch.setitem(WHEELS, ("kiota-core", "2.0"), leaning)
    root = tmp_path / "project"
    index(little_project(root))

    with pytest.raises(PackageError, match=r"kiota_core/lean\.py imports kiota_core\.tests\.test_it"):
        package.build("3.13", root=root)


def test_the_command_says_what_to_do_and_ends_with_one(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")

    assert package.main(["build"]) == 1

    said = capsys.readouterr().err
    assert "git was not found" in said
    assert "what to do: install git" in said


@pytest.mark.parametrize("version", locks.VERSIONS)
def test_the_locks_of_this_project_are_in_step_with_its_requirements(version):
    assert locks.out_of_step(ROOT, version) == []
    names = {pin.name for pin in locks.read(ROOT, version)}
    assert {"msgraph-sdk", "microsoft-kiota-http", "cryptography"} <= names
    assert not names & {"pytest", "mypy", "duckdb", "ruff"}


def test_each_python_has_the_library_of_its_worker():
    chosen = {v: locks.direct(ROOT, v)["azure-functions"].split(".")[0] for v in locks.VERSIONS}

    assert chosen == {"3.11": "1", "3.12": "1", "3.13": "2"}


@pytest.mark.parametrize(
    "line", ["httpx>=0.28", "git+https://example.com/x", "httpx==1; sys_platform == 'linux'"]
)
def test_a_requirement_that_is_not_pinned_is_refused(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"{line}\n")

    with pytest.raises(PackageError, match="not pinned"):
        locks.direct(tmp_path, "3.13")


def test_a_line_of_a_lock_without_a_hash_is_refused(tmp_path):
    (tmp_path / "requirements-py313.lock").write_text("httpx==0.28.1\n")

    with pytest.raises(PackageError, match="no pin with a hash"):
        locks.read(tmp_path, "3.13")
