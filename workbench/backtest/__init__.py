"""
Replay the sweeps over exported logs and say what would have been found, and what ``enforce`` would have done.

``replay`` asks the rules window by window, ``verdicts`` judges as the app would, ``report`` draws the page,
``command`` is ``python -m workbench backtest``. How to read it: ``docs/backtest.md``.
"""
