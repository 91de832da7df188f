"""
Microsoft Graph, through msgraph-sdk: service principals, ID Protection, Conditional Access policies.

Callers get our types (``clients/terms.py``) or an error of ``clients/errors.py``; paging and
throttling end here. ``calls`` is how a request is made, the other modules are what is asked.
"""

from clients.graph.access import Access
from clients.graph.calls import SCOPE, SERVICE
from clients.graph.inventory import Grant, HeldCredential, Inventory, Listed, ListedApplication
from clients.graph.risk import Protection

__all__ = [
    "SCOPE",
    "SERVICE",
    "Grant",
    "GraphClient",
    "HeldCredential",
    "Listed",
    "ListedApplication",
]


class GraphClient(Inventory, Protection, Access):
    """The Graph calls that containment needs; one instance a process. How it is made: ``GraphCalls``."""
