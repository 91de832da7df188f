"""``python -m simtenant``: the demo, or the whole thing left running."""

from __future__ import annotations

import argparse
import sys

from simtenant import demo, up
from simtenant.server import RunsInAzure, refuse_in_azure
from simtenant.stories import STORIES


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it went as it should, 1 when not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m simtenant", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("demo", help="an agent goes rogue and is stopped, with proof; ends by itself")
    shown.add_argument(
        "--scenario", choices=sorted(s.name for s in STORIES.values() if s.contained), default="vault"
    )
    shown.add_argument("--mode", choices=("enforce", "observe"), default="enforce")
    shown.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, the story on stderr"
    )
    left = commands.add_parser("up", help="the simulated tenant and the app, left running until Ctrl+C")
    left.add_argument("--mode", choices=("observe", "approve", "enforce"), default="enforce")
    left.add_argument("--port", type=_port, default=7071, help="port of the app (0: a free one)")
    left.add_argument("--tenant-port", type=_port, default=7080, help="port of the tenant (0: a free one)")
    chosen = parser.parse_args(arguments)
    try:
        refuse_in_azure()
    except RunsInAzure as error:
        print(error, file=sys.stderr)
        return 1
    try:
        if chosen.command == "demo":
            return demo.main(chosen.scenario, chosen.mode, as_json=chosen.json)
        return up.main(chosen.mode, chosen.port, chosen.tenant_port)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
