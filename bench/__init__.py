"""
Measurements of what the design promises about speed; ``python -m bench`` prints them as one JSON object.

    start            start until the functions are indexed
    first_incident   start until the first incident is answered
    hot_path         incident accepted until the confirmation is sent, and the Graph calls that takes
    storm            a hundred orders at once, with the tenant's real second

``place`` is the tenant they run in, ``app`` and ``app_process`` the two ends of a pipe to the app, ``figures``
the arithmetic. Never
deployed. What each figure means and does not mean: ``docs/bench.md``.
"""
