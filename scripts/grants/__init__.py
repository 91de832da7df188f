"""What ``scripts/grant_permissions.py`` is made of."""
