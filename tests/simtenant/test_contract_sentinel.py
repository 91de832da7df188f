import uuid
from pathlib import Path

from test_sentinel import call
from workspace_world import check, contract, running


async def test_every_answer_fits_the_contract(tmp_path: Path) -> None:
    contracted = contract("sentinel-incidents.subset.yaml")
    async with running(tmp_path) as world:
        agent = world.tenant.add_application("invoice-reader")
        one = world.sentinel.raise_incident(
            "First Key Vault use", principals=[agent], ip_addresses=["192.0.2.9"]
        )
        comment = f"{one.arm_id}/comments/{uuid.uuid4()}"
        message = {"properties": {"message": "contained"}}
        _, read = await call(world, "GET", one.arm_id)
        root = one.arm_id.rpartition("/")[0]
        new = {"properties": {"title": "by hand", "severity": "Low", "status": "New"}}
        answers = [
            ("Incident", read),
            ("Incident", (await call(world, "PUT", one.arm_id, read))[1]),
            ("Incident", (await call(world, "PUT", f"{root}/{uuid.uuid4()}", new))[1]),
            ("IncidentList", (await call(world, "GET", root))[1]),
            ("IncidentEntitiesResponse", (await call(world, "POST", f"{one.arm_id}/entities"))[1]),
            ("IncidentAlertList", (await call(world, "POST", f"{one.arm_id}/alerts"))[1]),
            ("IncidentComment", (await call(world, "PUT", comment, message))[1]),
            ("IncidentComment", (await call(world, "PUT", comment, message))[1]),
            ("IncidentComment", (await call(world, "GET", comment))[1]),
            ("IncidentCommentList", (await call(world, "GET", f"{one.arm_id}/comments"))[1]),
            ("CloudError", (await call(world, "GET", f"{root}/{uuid.uuid4()}"))[1]),
        ]

    for schema, body in answers:
        check(contracted, schema, body)
    account = next(entity for entity in answers[4][1]["entities"] if entity["kind"] == "Account")
    check(contracted, "AccountEntityProperties", account["properties"])
