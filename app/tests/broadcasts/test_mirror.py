"""What other programs see of broadcasts in Redis, while it comes and goes."""

from __future__ import annotations

import pytest

from antiphon.dev.broker_server import BrokerServer
from encore.broadcasts import mirror as module
from encore.broadcasts.mirror import Mirror


async def test_one_line_tells_of_an_outage_when_it_is_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "AWAY_S", 0.0)
    caplog.set_level("INFO", logger="encore.broadcasts")
    with BrokerServer.start("valkey") as server:
        mirror = Mirror(server.url)
        for outage in (1, 2):
            server.kill()
            for _ in range(3):
                await mirror.current("{}")
            assert (mirror.failures, mirror.is_stale) == (3 * outage, True)
            server.restart()
            await mirror.current("{}")
        await mirror.close()
    told = [record.getMessage() for record in caplog.records if record.name == "encore.broadcasts"]
    away, back = "the active broadcast is not shown in Redis for now", "the active broadcast is shown in Redis again"
    assert [line.partition(":")[0] for line in told] == [away, back] * 2
