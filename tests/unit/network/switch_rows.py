"""Rows of a switch's database as its server tells them to whoever monitors them."""

from typing import Any

Row = dict[str, Any]


def texts(values: dict[str, str] | dict[str, int]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def ids(*names: str) -> list[Any]:
    return ["set", [["uuid", name] for name in names]]


def new(row: Row, **old: Any) -> Row:
    return {"old": old, "new": row} if old else {"new": row}


OURS = {"ccf-slice": "demo", "ccf-vni": "1001"}


def bridge(name: str, *ports: str, tags: dict[str, str], controllers: tuple[str, ...] = ()) -> Row:
    return {
        "name": name,
        "external_ids": texts(tags),
        "ports": ids(*ports),
        "controller": ids(*controllers),
        "fail_mode": "secure" if controllers else "standalone",
        "datapath_id": "0003e9aaaaaaaaaa",
        "datapath_type": "netdev",
    }


def port(interface: str) -> Row:
    return {"name": interface, "interfaces": ["uuid", interface]}


def interface(
    name: str,
    kind: str = "system",
    *,
    received: int | None = None,
    sent: int = 0,
    tags: dict[str, str] | None = None,
    **columns: Any,
) -> Row:
    """Give a row with so many bytes (and a tenth of packets) received and sent by who is behind."""
    statistics = {} if received is None else _statistics(received, sent)
    return {
        "name": name,
        "type": kind,
        "external_ids": texts({"ccf-slice": "demo"} if tags is None else tags),
        "options": texts({}),
        "ofport": 1,
        "error": ["set", []],
        "admin_state": "up",
        "link_state": "up",
        "status": texts({}),
        "bfd_status": texts({}),
        "mac_in_use": "02:00:00:00:00:01",
        "statistics": texts(statistics),
        **columns,
    }


def _statistics(received: int, sent: int) -> dict[str, int]:
    return {
        "tx_bytes": received,
        "tx_packets": received // 10,
        "tx_dropped": 3,
        "rx_bytes": sent,
        "rx_packets": sent // 10,
        "rx_dropped": 4,
        "collisions": 0,
    }


def controller(*, connected: bool, seconds: int = 1) -> Row:
    return {
        "target": "tcp:192.0.2.9:6633",
        "is_connected": connected,
        "status": texts(
            {"state": "ACTIVE" if connected else "BACKOFF", "sec_since_connect": str(seconds)}
        ),
    }


def demo() -> dict[str, Any]:
    """Give slice demo's bridge with a tap and a tunnel, beside one that is none of ours."""
    vm = {"ccf-slice": "demo", "ccf-vm": "vm-1", "ccf-host": "h1"}
    return {
        "Open_vSwitch": {"o": new({"other_config": texts({})})},
        "Bridge": {
            "b": new(bridge("ccf-1001", "p-tap", "p-tun", tags=OURS)),
            "x": new(bridge("br-int", "p-eth", tags={})),
        },
        "Port": {f"p-{name}": new(port(name)) for name in ("tap", "tun", "eth")},
        "Interface": {
            "tap": new(interface("ccf-tap", received=1000, sent=500, tags=vm)),
            "tun": new(
                interface(
                    "t0003e9ac140002",
                    "vxlan",
                    options=texts({"remote_ip": "172.20.0.2", "key": "1001"}),
                    status=texts({"tunnel_egress_iface_carrier": "up"}),
                )
            ),
            "eth": new(interface("eth0", received=9, tags={})),
        },
        "Controller": {},
    }
