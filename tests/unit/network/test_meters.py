"""What meters there are, in Open vSwitch's own words."""

from ccfd.network import meters

PRINTED = """OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):
meter=2 kbps burst bands=
type=drop rate=10000 burst_size=1000

meter=7 kbps burst stats bands=
type=drop rate=1000 burst_size=100
"""


def test_what_is_printed_is_what_was_set() -> None:
    found = meters.read(PRINTED)
    assert found.keys() == {2, 7}
    assert found[2] == meters.meter(2, 10)
    assert meters.read("OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):\n") == {}


def test_meters_that_differ_are_set_and_those_of_nobody_go() -> None:
    wrong, strange = meters.differences({2: 10, 4: 5}, meters.read(PRINTED))
    assert wrong == {4: 5}
    assert strange == [7]
    wrong, strange = meters.differences({2: 11, 7: 1}, meters.read(PRINTED))
    assert wrong == {2: 11, 7: 1}
    assert strange == []
