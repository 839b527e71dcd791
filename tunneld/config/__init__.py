"""The configuration file: TOML in, frozen records or every fault at once out.

model     the records
file      which file, and may it be trusted
document  its text, its lines, its faults
fields    what one value may be
keyfiles  the same for the files of the keys
table     one section
load      the sections together
rules     what values must be to each other
endpoints what endpoints must be to everything else
locate    the lines of what only the kernel could find
"""

from tunneld.config.file import resolve
from tunneld.config.load import load
from tunneld.config.model import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig

__all__ = [
    "Config",
    "Endpoint",
    "InterfaceConfig",
    "NetworkConfig",
    "PeerConfig",
    "TunnelConfig",
    "load",
    "resolve",
]
