"""Fixtures of the host tests: the private switch, for every file that asks for it."""

from tests.host.switch import fabric, guests, settings, switch

__all__ = ["fabric", "guests", "settings", "switch"]
