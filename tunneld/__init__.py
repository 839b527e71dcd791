"""tunneld joins two Linux hosts by a tunnel: a TUN or TAP device here, a peer there, UDP or TCP between.

The words used everywhere:

packet   what the device gives or takes: an IP packet (TUN) or an Ethernet frame (TAP)
message  one unit on the wire
Device   the TUN/TAP file descriptor
Link     the UDP socket or TCP connection to a peer
Peer     the other end and its state
Tunnel   the pure machine that turns packets into messages and back
Pump     moves batches between Device and Link
Plan     the kernel changes (addresses, routes, bridge ports) that a configuration needs
"""

__version__ = "0.1.0"
