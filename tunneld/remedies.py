"""What each reason of a drop means, and what an operator can do about it: one clause for the log and for `show`."""

from __future__ import annotations

from typing import Final

from tunneld.proto.errors import Reason

_NONE = "nothing to do"

REMEDIES: Final[dict[Reason, str]] = {
    Reason.EMPTY: "packets of length 0, which are harmless; the other end should not send them",
    Reason.OVERSIZED: "packets are larger than the device takes; set the same mtu at both ends",
    Reason.WRONG_MODE: "the peer is in the other mode; write the same mode at both ends (simpletun: -u or -a)",
    Reason.TRUNCATED: "messages end in the middle of a packet; the other end speaks another protocol, or has a fault",
    Reason.STRANGER: "it came from elsewhere than the endpoint; correct endpoint, or close the firewall",
    Reason.NO_LINK: "there was no connection to the peer; its state says why",
    Reason.NO_PEER: "nobody knew yet where the peer is; if it goes on, set endpoint, or let the other end send first",
    Reason.NO_DEVICE: "the device was being repaired; see who deletes it",
    Reason.QUEUE_FULL: f"the path or the peer takes less than there is to send; {_NONE}",
    Reason.SEND_REFUSED: "the system did not send it; look at routes and firewall here, or lower mtu",
    Reason.DEVICE_REFUSED: "the kernel knows no such packet; the peer sends junk",
    Reason.DEVICE_FULL: f"the host is too busy to take it; {_NONE}",
    Reason.DEVICE_DOWN: "the device was set down; set it up again",
    Reason.UNKNOWN_SESSION: f"for a session that is over, or never was; {_NONE}",
    Reason.FORGED: "the tag was wrong; if there are many, somebody attacks or the path damages",
    Reason.REPLAYED: f"it came twice or very late; {_NONE}",
    Reason.EXPIRED: f"of a session that is too old; {_NONE}",
    Reason.UNKNOWN_KIND: "content of a kind unknown here; run the same version at both ends",
    Reason.UNKNOWN_CONTROL: "a control message unknown here; run the same version at both ends",
    Reason.MALFORMED: "the peer breaks the format; report it to those who made it",
    Reason.NOT_IP: "it is neither IPv4 nor IPv6; write the same mode at both ends",
    Reason.BPDU: f"bridges say that to each other, not through the tunnel; {_NONE}",
    Reason.STORM: "more than 1,000 broadcast frames a second; look for a loop between the LANs",
    Reason.MAC_LIMIT: "more hosts behind one peer than it may have; look who makes up addresses",
    Reason.MAC_TAKEN: "sent as a host that is behind another peer; look for two with one address",
    Reason.UNKNOWN_MESSAGE: f"of no protocol of ours, perhaps a port scan; {_NONE}",
    Reason.OTHER_SETTINGS: "of another protocol, mode or cipher; set the same at both ends",
    Reason.BAD_MAC1: "made for another public key than ours, or noise; compare public_key at the other end",
    Reason.BAD_INITIATION: "our key does not open it, made by another protocol or forged",
    Reason.BAD_RESPONSE: "it does not fit what we sent; set the same preshared key at both ends",
    Reason.BAD_COOKIE: f"late or forged; {_NONE}",
    Reason.UNEXPECTED_ANSWER: f"late, doubled or forged; {_NONE}",
    Reason.UNUSABLE_KEY: "the key makes every secret zero; somebody attacks",
    Reason.OLD_TIMESTAMP: "not newer than the last handshake of the peer; set the clock there, if it is no replay",
    Reason.UNKNOWN_PEER: "no [[peer]] has that public key; add it, or remove us at the other end",
    Reason.NO_COOKIE: f"under load, the sender had not proved its address yet; {_NONE}",
    Reason.RATE_LIMITED: f"handshakes came too fast; {_NONE}",
    Reason.WRONG_SOURCE: "the inner source is not in allowed_ips of the peer; add it if it belongs there",
    Reason.NO_ROUTE: "no peer has the destination in allowed_ips; add it to one (multicast: nothing to do)",
    Reason.NO_SESSION: "there were no keys in time; the state of the peer says why",
}
