"""How does the lab get a RabbitMQ of its own?"""

from __future__ import annotations

import asyncio
import socket

import aiormq

from tests.lab import daemons
from tests.lab.layout import CLIENT_PORT_AMQP, SERVICES, Layout
from tests.lab.shell import wait_until

# Not /usr/sbin/rabbitmq*: those wrappers switch to user rabbitmq and read the machine's settings.
_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_HOME = "/var/lib/rabbitmq"

ENVIRONMENT = {
    "HOME": _HOME,
    "RABBITMQ_NODENAME": "lab@localhost",
    "RABBITMQ_MNESIA_BASE": f"{_HOME}/mnesia",
    "RABBITMQ_LOG_BASE": f"{_HOME}/log",
    "RABBITMQ_PID_FILE": f"{_HOME}/pid",
    "RABBITMQ_ENABLED_PLUGINS_FILE": f"{_HOME}/plugins",
    "RABBITMQ_CONFIG_FILE": f"{_HOME}/rabbitmq.conf",
    "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    # Idle schedulers that spin would take the processor from the guests, which emulate.
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
}
"""For the server and for rabbitmqctl. The place has a loopback of its own, so epmd and the
distribution port have their usual numbers and meet nobody's."""


def start(layout: Layout) -> None:
    """Start the broker; returns when it accepts a login."""
    home = layout.home(SERVICES) / "lib-rabbitmq"
    for name in ("mnesia", "log"):
        (home / name).mkdir()
    (home / "plugins").write_text("[].\n")
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {layout.management(SERVICES)}:{CLIENT_PORT_AMQP}\n"
        "loopback_users = none\n"
        "vm_memory_high_watermark.absolute = 512MB\n"
        "disk_free_limit.absolute = 50MB\n"
        "log.console = false\n"
    )
    start_daemon(layout)
    wait_until(lambda: answers(layout), "RabbitMQ", timeout=120)


def start_daemon(layout: Layout) -> None:
    """Start the broker's process."""
    daemons.detach(layout, SERVICES, [_SERVER], log=f"{_HOME}/output", variables=ENVIRONMENT)


def answers(layout: Layout) -> bool:
    """Tell whether the broker accepts a login."""
    # First a bare connection: the client logs each refusal, and there are many while it starts.
    socket.create_connection((layout.management(SERVICES), CLIENT_PORT_AMQP), timeout=30).close()
    asyncio.run(_log_in(layout.amqp_url))
    return True


async def _log_in(url: str) -> None:
    async with asyncio.timeout(30):
        connection = await aiormq.connect(url)
        await connection.close()
