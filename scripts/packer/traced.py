"""
A pytest plugin for ``package.py check``: the SDK comes from the package, and what of it was loaded is written down.

Loaded by ``-p packer.traced`` in every process of the run. PACKAGE_CHECK_SITE is the package's site-packages
(without it nothing is asked of where the SDK comes from), PACKAGE_CHECK_TRACE a folder for what was loaded.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

_FROM_THE_PACKAGE: Final = (
    "msgraph",
    "msgraph_core",
    "kiota_abstractions",
    "httpx",
    "azure.core",
    "aiohttp",
    "pydantic",
    "azure.identity",
    "azure.data.tables",
    "azure.monitor.query",
    "azure.monitor.ingestion",
    "azure.monitor.opentelemetry.exporter",
    "opentelemetry.sdk.trace",
    "h2",
    "msal",
    "cryptography",
)


def pytest_configure(config: pytest.Config) -> None:  # noqa: ARG001  # the hook's signature
    """Refuse to run where a package of the app comes from somewhere else."""
    site = os.environ.get("PACKAGE_CHECK_SITE", "")
    for name in _FROM_THE_PACKAGE if site else ():
        found = Path(importlib.import_module(name).__file__ or "")
        if not found.is_relative_to(site):
            raise RuntimeError(f"{name} comes from {found}, not from the package in {site}")


def pytest_sessionfinish(session: pytest.Session) -> None:  # noqa: ARG001  # the hook's signature
    """Write which modules of the SDK this process has loaded."""
    loaded = sorted(name for name, module in sys.modules.items() if name.startswith("msgraph") and module)
    target = Path(os.environ["PACKAGE_CHECK_TRACE"]) / f"{os.getpid()}.json"
    target.write_text(json.dumps(loaded))
