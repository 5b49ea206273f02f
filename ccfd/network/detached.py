"""Says how a command is run outside of the daemon, so that what it makes outlives it.

Where systemd is PID 1, a child of ccfd belongs to its unit: it ends with it, and mounts (a named
network namespace is one) stay in its private mount namespace. So systemd itself runs the command:
systemd-run(1). Elsewhere a session of its own is all that is needed; `commands.run` makes one.
"""

from pathlib import Path

from ccfd.network.commands import Argv

SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd is the service manager: sd_booted(3)."""


def under_systemd() -> bool:
    """Tell whether systemd runs this machine."""
    return SYSTEMD.is_dir()


def outside(argv: Argv, *, systemd: bool) -> Argv:
    """Return the command that carries *argv* out in the machine's own namespaces, to its end."""
    if not systemd:
        return argv
    return ("systemd-run", "--wait", "--collect", "--quiet", "--pipe", "--", *argv)


def server(argv: Argv, *, unit: str, description: str, systemd: bool) -> Argv:
    """Return the command that starts the server *argv*, which outlives us.

    With systemd *argv* must stay in the foreground and becomes the unit *unit*, which is forgotten
    when it ends. Without, it must go to the background by itself, when it is ready.
    """
    if not systemd:
        return argv
    return (
        "systemd-run",
        "--collect",
        "--quiet",
        "--no-ask-password",
        f"--unit={unit}",
        f"--description={description}",
        "--property=Type=exec",
        "--",
        *argv,
    )
