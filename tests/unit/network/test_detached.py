"""How what outlives us is started."""

from ccfd.network import detached

ARGV = ("ip", "netns", "exec", "ccf-1001", "dnsmasq", "--conf-file=/x")


def test_under_systemd_a_server_is_a_unit_of_its_own() -> None:
    argv = detached.server(
        ARGV, unit="ccf-dhcp-1001.service", description="DHCP of slice demo", systemd=True
    )
    assert argv == (
        "systemd-run",
        "--collect",
        "--quiet",
        "--no-ask-password",
        "--unit=ccf-dhcp-1001.service",
        "--description=DHCP of slice demo",
        "--property=Type=exec",
        "--",
        *ARGV,
    )


def test_under_systemd_a_namespace_is_made_in_the_machines_mounts() -> None:
    add = ("ip", "netns", "add", "ccf-1001")
    assert detached.outside(add, systemd=True) == (
        *("systemd-run", "--wait", "--collect", "--quiet", "--pipe", "--"),
        *add,
    )


def test_without_systemd_commands_are_run_as_they_are() -> None:
    assert detached.server(ARGV, unit="u", description="d", systemd=False) == ARGV
    assert detached.outside(ARGV, systemd=False) == ARGV
