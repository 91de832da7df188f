"""Imports run function_app → handlers → detections → response → clients, and judgement sees only vocabulary."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "function_app",
    "settings",
    "handlers",
    "detections",
    "response",
    "clients",
    "simtenant",
    "workbench",
    "bench",
}
ALLOWED = {
    "function_app": {"handlers"},
    "settings": {"response.policy"},
    "handlers": {"handlers", "detections", "response", "clients", "settings"},
    "detections": {"detections", "response", "clients"},
    "response": {"response", "clients"},
    "clients": {"clients"},
}
PURE = (
    "response.decision",
    "response.guardrails",
    "response.breaker",
    "response.evidence",
    "response.finding",
    "response.policy",
)
PURE_MAY_SEE = {*PURE, "response.levers", "clients.terms", "response", "clients"}


def modules():
    for top in ALLOWED:
        path = ROOT / top
        files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
        for file in files:
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield ".".join(parts), file


def imports_of(file, *, at_run_time_only=False):
    tree = ast.parse(file.read_text())
    skipped = set()
    if at_run_time_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {id(child) for child in ast.walk(node)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if is_module(f"{node.module}.{alias.name}")
            }
    return {name for name in names if name.split(".")[0] in OURS}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "file"), list(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_go_one_way(module, file):
    allowed = ALLOWED[module.split(".")[0]]
    for name in imports_of(file):
        assert any(name == a or name.startswith(f"{a}.") for a in allowed), f"{module} imports {name}"


@pytest.mark.parametrize("module", PURE)
def test_judgement_reaches_no_client_settings_or_clock_even_indirectly(module):
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if file.exists():
            todo += imports_of(file, at_run_time_only=True)
            source = file.read_text()
            assert "datetime.now(" not in source, f"{name} reads the clock"
            assert "time.time(" not in source, f"{name} reads the clock"
            assert "environ" not in source, f"{name} reads the environment"
    assert seen <= PURE_MAY_SEE


def test_nobody_but_the_process_reads_the_environment():
    readers = {module for module, file in modules() if "os.environ" in file.read_text()}

    assert readers == {"handlers.process"}
