"""
``python -m workbench policies``: plan, apply, promote and roll back the Conditional Access policies of this project.

    infra/conditional-access/*.json ─► catalog ─► plan ─► apply ─► (14 days of report-only) ─► promote ─► rollback
                                                    └── bodies (what is compared) · book (what we wrote) · graph · evidence

Run by a person with their own sign-in, never by the app: what it may do, the app must not.
"""
