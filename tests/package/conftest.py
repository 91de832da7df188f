"""Makes the packing tool and the helper beside the tests importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "scripts", Path(__file__).parent):
    sys.path.insert(0, str(folder))
