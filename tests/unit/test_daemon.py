"""What the whole daemon says of itself: `/readyz` shows it."""

from ccfd.daemon import Daemon
from ccfd.settings import Broker
from tests.harness import lab_settings


async def test_what_is_missing_is_named_with_its_reason() -> None:
    config = lab_settings("sqlite+aiosqlite://")
    daemon = Daemon(config.model_copy(update={"broker": Broker(url="amqp://127.0.0.1:1/")}))
    assert daemon.problems() == {"broker": "not connected yet", "hosts": "no host is up"}
    daemon.database.problem = "could not extend file: No space left on device"
    assert daemon.problems()["database"] == "could not extend file: No space left on device"
    told = daemon.metrics.text().decode()
    for gauge in ("ccfd_database_up", "ccfd_broker_connected", "ccfd_broker_consumer"):
        assert f"{gauge} 0.0" in told
    daemon.database.problem = ""
    daemon._watch.up["h1"] = True
    assert set(daemon.problems()) == {"broker"}
    assert "ccfd_database_up 1.0" in daemon.metrics.text().decode()


async def test_without_a_broker_in_the_settings_none_is_missed() -> None:
    daemon = Daemon(lab_settings("sqlite+aiosqlite://"))
    assert set(daemon.problems()) == {"hosts"}
