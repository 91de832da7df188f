"""Microsoft's What If as a second opinion, and users that stand for agents: over real sockets."""

from desk_app import desk

from clients.terms import Kind, Unknown, WhatIf, object_id
from response import flow, gathering
from response.finding import Finding, Source, Tier


def finding(app):
    now = app.process.world.now()
    return Finding(
        source=Source.RULE,
        rule_id="AG-04",
        family="reach",
        tier=Tier.AUTO,
        principal=object_id(app.rogue.object_id),
        first_seen=now,
        last_seen=now,
        reason="first Key Vault use",
        raised_by="agentbreaker",
    )


async def test_where_microsoft_agrees_the_agent_is_contained(tmp_path, quick_turns):
    async with desk(tmp_path, WHAT_IF="true") as app:
        opened = await flow.respond(finding(app), app.process.world)

        assert opened.containment.state == "pulled"
        assert [seen for seen in app.estate.tenant.requests if seen.path.endswith("/evaluate")]


async def test_where_microsoft_disagrees_a_person_is_asked(tmp_path, quick_turns, monkeypatch):
    async with desk(tmp_path, WHAT_IF="true") as app:

        async def disagrees(*_):
            return (WhatIf(app.estate.policy_id, "enabled", True, False, ("location",)),)

        monkeypatch.setattr(app.process.world.graph, "what_if", disagrees)
        opened = await flow.respond(finding(app), app.process.world)

        assert opened.containment.state == "awaiting_approval"
        assert app.confirms(status=None) == 0


async def test_it_is_not_asked_unless_the_settings_say_so(app):
    await flow.respond(finding(app), app.process.world)

    assert [seen for seen in app.estate.tenant.requests if seen.path.endswith("/evaluate")] == []


async def test_a_user_that_stands_for_an_agent_is_known_and_its_agent_named(app):
    blueprint = app.estate.tenant.add_agent_blueprint("blueprint")
    agent = app.estate.tenant.add_agent_identity("agent", blueprint=blueprint)
    user = app.estate.tenant.add_agent_user("agent user", parent=agent)
    identity = object_id(user["id"])

    found = await gathering.find_principal(identity, app.process.world)

    assert not isinstance(found, Unknown)
    assert (found.kind, found.parent) == (Kind.AGENT_USER, agent.object_id)
