"""Reading what was given out."""

from ccfd.network.leases import GivenLease, parse


def test_leases_are_read_and_a_line_being_written_is_not() -> None:
    text = (
        "1795374474 02:e9:0a:00:00:05 10.0.0.5 vm-a 01:02:e9:0a:00:00:05\n"
        "0 02:e9:0a:00:00:06 10.0.0.6 * *\n"
        "duid 00:01:00\n"
        "1795374474 02:e9:0a:00:00:07 10.0.0.7 vm-c 01"
    )
    assert parse(text) == (
        GivenLease(expires=1795374474, mac="02:e9:0a:00:00:05", ip="10.0.0.5", name="vm-a"),
        GivenLease(expires=0, mac="02:e9:0a:00:00:06", ip="10.0.0.6", name=None),
    )
    assert parse("") == ()
