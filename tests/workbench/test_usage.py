"""What the desk's commands are given besides logs."""

import json
from pathlib import Path

import pytest

from workbench.usage import UsageError, inventory


def test_a_column_without_a_value_is_empty_as_in_sentinel(tmp_path: Path) -> None:
    file = tmp_path / "inventory.json"
    file.write_text(json.dumps([{"SearchKey": "kv/secrets/bait", "Role": "canary", "ExpiresOn": None}]))

    assert inventory(file) == [{"SearchKey": "kv/secrets/bait", "Role": "canary", "ExpiresOn": ""}]


@pytest.mark.parametrize("value", [["sharepoint", "graph"], {"a": 1}, True])
def test_a_value_that_is_no_text_is_misuse_and_names_its_row(tmp_path: Path, value: object) -> None:
    file = tmp_path / "inventory.json"
    file.write_text(json.dumps([{"SearchKey": "x"}, {"SearchKey": "y", "DeclaredResources": value}]))

    with pytest.raises(UsageError, match=r"row 2: DeclaredResources"):
        inventory(file)


def test_a_column_that_no_rule_reads_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "inventory.json"
    file.write_text(json.dumps([{"SearchKey": "x", "Expires": "2027-01-01", "_DTItemId": "of Sentinel"}]))

    assert inventory(file) == [{"SearchKey": "x"}]
    assert capsys.readouterr().err == f"{file}: row 1: Expires: no rule reads it; ignored\n"
