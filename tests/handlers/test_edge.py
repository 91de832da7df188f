import pytest

from handlers import edge
from handlers.http import Request
from settings import Settings, SettingsError


class Unbuilt:
    def __init__(self, error):
        self._error = error

    async def get(self):
        raise self._error


async def test_unreadable_settings_do_nothing_and_tell_strangers_nothing():
    once = Unbuilt(SettingsError(["AGENTBREAKER_MODE is none of observe, approve, enforce"]))

    answer = await edge.answer("incidents", Request("POST"), once)

    assert answer.status == 503
    assert answer.body["error"]["code"] == "settings_unreadable"
    assert "MODE" not in answer.text()


async def test_an_unforeseen_error_is_500_without_its_text(caplog):
    answer = await edge.answer("incidents", Request("POST"), Unbuilt(ZeroDivisionError("secret detail")))

    assert answer.status == 500
    assert "secret detail" not in answer.text()
    assert "Traceback" not in answer.text()
    assert "ZeroDivisionError" in caplog.text


async def test_a_timer_raises_so_that_the_platform_counts_the_failure():
    with pytest.raises(SettingsError):
        await edge.tick("sweep", Unbuilt(SettingsError(["x"])))


async def test_a_failed_start_is_tried_again(monkeypatch):
    tries = []

    def read(_env):
        tries.append(1)
        raise SettingsError(["not yet"])

    monkeypatch.setattr(Settings, "from_env", read)
    once = edge.Once()

    for _ in range(2):
        with pytest.raises(SettingsError):
            await once.get()

    assert len(tries) == 2
