"""Write docs/settings.md from the table in settings.py. tests/structure checks that the page is in step."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from settings import SETTINGS  # noqa: E402  # the path above makes it importable

HEAD = """# Settings

Made by `scripts/write_settings_page.py` from the table in `settings.py`. A value that cannot be read stops the app
with all faults listed at once; a name that begins with `AGENTBREAKER_` and is not in this table does so too.

| setting | default | meaning |
| --- | --- | --- |
"""


def page() -> str:
    """Give the page's text."""
    rows = [
        f"| `{s.name}` | {'must be written' if s.default is None else f'`{s.default}`' if s.default else 'empty'} | {s.meaning} |"
        for s in SETTINGS
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(page())
