"""The network of a slice, made real: Open vSwitch bridges, a namespace, a DHCP server, a gateway.

`Fabric`, `Namespaces`, `DhcpServers` and `Gateways` carry out what the values of
`ccfd.model.network` say.
Only `Refused` and `Transient` leave this package.
"""

from ccfd.network.dhcp import DhcpServers
from ccfd.network.fabric import Fabric
from ccfd.network.gateways import Gateways
from ccfd.network.namespaces import Namespaces

__all__ = ["DhcpServers", "Fabric", "Gateways", "Namespaces"]
