"""From an ``nn.Module`` to the network that every pass runs on."""

from conversion.graph._network import Network, SpikingSite, Timing, trace
from conversion.graph._roles import Role

__all__ = ["Network", "Role", "SpikingSite", "Timing", "trace"]
