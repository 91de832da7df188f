import httpx
import pytest
from azure.core.credentials import AccessToken

from clients.errors import BadRequest, NotSent, OutcomeUnknown, Refused, Throttled
from clients.graph import GraphClient

ID = "7c9e6679-7425-4de4-944b-e07fc1f90ae7"


class Credential:
    async def get_token(self, *_scopes, **_options):
        return AccessToken("x.y.z", 2**31)


async def turn():
    """No pacing here."""


def client(answer):
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=False)
    return http, GraphClient(
        "http://127.0.0.1:1", Credential(), http, "11111111-1111-4111-8111-111111111111", turn
    )


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, OutcomeUnknown),
        (202, {}, OutcomeUnknown),
        (302, {"Location": "http://127.0.0.1:1/elsewhere"}, OutcomeUnknown),
        (304, {}, OutcomeUnknown),
        (307, {"Location": "https://evil.example/"}, OutcomeUnknown),
        (308, {}, OutcomeUnknown),
        (400, {}, BadRequest),
        (401, {}, Refused),
        (403, {}, Refused),
        (408, {}, OutcomeUnknown),
        (429, {}, Throttled),
        (500, {}, OutcomeUnknown),
        (503, {"Retry-After": "1"}, OutcomeUnknown),
    ],
)
async def test_only_a_204_is_an_acceptance(status, headers, expected):
    calls = []

    def answer(request):
        calls.append(request.url.path)
        return httpx.Response(status, headers=headers, text="<html>sign in</html>")

    http, graph = client(answer)
    async with http:
        with pytest.raises(expected):
            await graph.confirm_compromised([ID])

    assert calls == ["/v1.0/identityProtection/riskyServicePrincipals/confirmCompromised"]


async def test_a_204_is_accepted_and_the_body_names_the_principals():
    bodies = []

    def answer(request):
        bodies.append(request.content)
        assert request.headers["Authorization"] == "Bearer x.y.z"
        return httpx.Response(204)

    http, graph = client(answer)
    async with http:
        assert (await graph.confirm_compromised([ID])).tzinfo

    assert bodies == [f'{{"servicePrincipalIds": ["{ID}"]}}'.encode()]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("no"), NotSent),
        (httpx.ConnectTimeout("no"), NotSent),
        (httpx.ReadTimeout("no"), OutcomeUnknown),
        (httpx.ReadError("no"), OutcomeUnknown),
        (httpx.RemoteProtocolError("no"), OutcomeUnknown),
        (httpx.WriteError("no"), OutcomeUnknown),
    ],
)
async def test_what_never_left_us_is_told_from_what_may_have_arrived(error, expected):
    def answer(_request):
        raise error

    http, graph = client(answer)
    async with http:
        with pytest.raises(expected):
            await graph.confirm_compromised([ID])
