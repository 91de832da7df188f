"""What ``scripts/package.py`` does, a module a step: sources, locks, wheels, reach, leaving_out, archive, checking."""
