"""
From a claim to a proven block, in one direction.

    incident ─┐
    timer    ─┼─► Finding ─► Evidence ──► Decision ─► Containment ─► Verification ─► Ledger
    analyst  ─┘   who says   what we      what to do  which levers   what the        what
                  what       could check  (pure)      were pulled    tenant shows    happened

Guardrails stand between decision and containment and can only take away. Read ``flow.py`` first.
"""
