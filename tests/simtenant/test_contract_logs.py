from pathlib import Path

import pytest
from test_log_analytics import raw
from workspace_world import check, contract, running


@pytest.mark.parametrize(
    ("query", "schema"),
    [
        (
            "print a = 1, b = 'x', c = now(), d = 1.5, e = dynamic({'k': [1]}), f = 1h, g = true",
            "queryResults",
        ),
        ("AuditLogs | take 1", "queryResults"),
        ("AuditLogs | wher", "errorResponse"),
        ("AuditLogs | where Missing == 1", "errorResponse"),
    ],
)
async def test_answers_fit_the_contract(tmp_path: Path, query: str, schema: str) -> None:
    contracted = contract("log-analytics-query.subset.yaml")
    async with running(tmp_path) as world:
        world.tenant.logs.write("AuditLogs", {"OperationName": "x", "TargetResources": [{"id": "y"}]})
        _, body = await raw(world, {"query": query})

    check(contracted, schema, body)


async def test_partial_results_and_refusals_fit_the_contract(tmp_path: Path) -> None:
    contracted = contract("log-analytics-query.subset.yaml")
    async with running(tmp_path) as world:
        world.logs.partial_next()
        _, partial = await raw(world, {"query": "range n from 1 to 4 step 1"})
        world.logs.throttle_next()
        _, throttled = await raw(world, {"query": "print 1"})
        _, unauthorized = await raw(world, {"query": "print 1"}, headers={})

    check(contracted, "queryResults", partial)
    check(contracted, "errorResponse", throttled)
    check(contracted, "errorResponse", unauthorized)
