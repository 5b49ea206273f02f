"""ccfd runs the slices of an SDN testbed: addresses, virtual machines, switches, DHCP."""

__version__ = "0.1.0"
