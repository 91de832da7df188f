"""
Microsoft Graph, through msgraph-sdk: service principals, ID Protection, Conditional Access policies.

Callers get our types (``clients/terms.py``) or an error of ``clients/errors.py``; paging and
throttling end here. ``calls`` is how a request is made, the other modules are what is asked.
"""

from clients.graph.access import Access
from clients.graph.calls import SCOPE, SERVICE
from clients.graph.dossier import Dossiers
from clients.graph.inventory import Grant, HeldCredential, Listed, ListedApplication
from clients.graph.removals import AssignmentSnapshot, CredentialSnapshot, GrantSnapshot, Removals
from clients.graph.risk import Protection

__all__ = [
    "SCOPE",
    "SERVICE",
    "AssignmentSnapshot",
    "CredentialSnapshot",
    "Grant",
    "GrantSnapshot",
    "GraphClient",
    "HeldCredential",
    "Listed",
    "ListedApplication",
]


class GraphClient(Dossiers, Protection, Access, Removals):
    """The Graph calls that containment needs; one instance a process. How it is made: ``GraphCalls``."""
