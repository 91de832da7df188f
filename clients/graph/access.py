"""Conditional Access through Graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients.graph.calls import GraphCalls
from clients.policies import policy_from_graph

if TYPE_CHECKING:
    from clients.terms import Policy


class Access(GraphCalls):
    """The policies that turn a risk into a block."""

    async def policies(self) -> tuple[Policy, ...]:
        """Read all Conditional Access policies (Policy.Read.All). One turn a page."""
        builder = self._graph.identity.conditional_access.policies
        return tuple(policy_from_graph(item) for item in await self._read_all("list policies", builder))
