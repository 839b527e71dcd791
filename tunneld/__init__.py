"""tunneld joins Linux hosts by a sealed tunnel: a TUN or TAP device here, peers there, UDP or TCP between.

The words used everywhere:

packet       what the device gives or takes: an IP packet (TUN) or an Ethernet frame (TAP)
message      one unit on the wire
Device       the TUN/TAP file descriptor
Port         a socket that the pump watches: one for all peers over UDP, one for each connection over TCP
Link         the way to one peer through a port
Peer         another end and what is known of it
Session      one pair of transport keys, with counters, limits and a replay window
Association  the handshakes and sessions with one peer over one link
Station      our own end, as all associations share it
Tunnel       the pure machine that turns packets into messages and back
Pump         moves batches between Device and Links
Plan         the kernel changes (addresses, routes, bridge ports) that a configuration needs
"""

__version__ = "0.1.0"
