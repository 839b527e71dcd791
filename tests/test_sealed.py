from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from traceback import TracebackException

import pytest

from tests.pieces import pieces_in
from tests.proto.ends import NOW, TO_A, TO_B, Way, Wire, events, point, send
from tests.sealed_configs import key_of, psk_of, sealed_config
from tunneld.keys import KEY_BYTES, PrivateKey, encode
from tunneld.proto import handshake
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.errors import Reason
from tunneld.proto.handshake import NO_PRESHARED_KEY
from tunneld.proto.noise import HandshakeState, KeyPair
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.profile import WIREGUARD, tunneld_profile
from tunneld.proto.routing import CableRouting, CryptokeyRouting, SwitchRouting
from tunneld.proto.session import Session
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.tai64n import stamp
from tunneld.sealed import build, profile_of

ETHERNET_V6 = 1500 - 40 - 8 - 32  # what an IPv6 path of 1,500 bytes has left for a plaintext


def built(*names: str, **choices: object):
    return build(sealed_config(*names, **choices), lambda: bytes(12), 0.0)


@pytest.mark.parametrize("cipher", ["chacha20-poly1305", "aes-256-gcm"])
@pytest.mark.parametrize("mode", ["tun", "tap"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_profile_has_all_that_both_ends_must_agree_on(transport, mode, cipher):
    config = sealed_config("right", transport=transport, mode=mode, cipher=cipher)
    assert profile_of(config) == tunneld_profile(transport, mode, cipher)


def test_wireguard_has_one_profile():
    assert profile_of(sealed_config("right", protocol="wireguard", cipher="chacha20-poly1305")) is WIREGUARD


@pytest.mark.parametrize(("transport", "kind"), [("udp", DatagramTunnel), ("tcp", StreamTunnel)])
def test_the_transport_decides_the_kind_of_tunnel(transport, kind):
    assert type(built("right", transport=transport)) is kind


@pytest.mark.parametrize(
    ("mode", "names", "kind"),
    [
        ("tun", ("a",), CryptokeyRouting),
        ("tun", ("a", "b"), CryptokeyRouting),
        ("tap", ("a",), CableRouting),
        ("tap", ("a", "b"), SwitchRouting),
    ],
)
def test_mode_and_number_of_peers_decide_whose_packets_are_whose(mode, names, kind):
    assert type(built(*names, mode=mode)._routing) is kind


def test_a_peer_is_as_it_was_configured():
    config = sealed_config("a", "b", keepalive=25, pin_endpoint=True)
    config = replace(config, peers=(replace(config.peers[0], preshared_key=psk_of("a")), config.peers[1]))
    first, second = build(config, lambda: bytes(12), 0.0).peers
    assert [first.name, second.name] == ["a", "b"]
    assert first.remote.public == key_of("a").public_key().raw
    assert first.allowed_ips == config.peers[0].allowed_ips
    assert (first.remote.preshared_key, second.remote.preshared_key) == (bytes(psk_of("a").raw), NO_PRESHARED_KEY)
    assert (first.keepalive, first.pin_endpoint) == (25.0, True)


def test_packets_that_are_for_no_peer_are_counted_from_the_start():
    tunnel = built("a", "b")
    tunnel.max_packet = 1400
    tunnel.enqueue([b"\x45" + bytes(15) + bytes((10, 7, 0, 1))], 0.0)
    assert tunnel.drops == {Reason.NO_ROUTE: 1}


@pytest.mark.parametrize(
    ("choices", "most"),
    [
        # The kind byte, the prefix, the packet.
        ({"mtu": 1400}, 1 + 2 + 1400),
        ({"mtu": 1380, "mode": "tap"}, 1 + 2 + 18 + 1380),
        ({"mtu": None}, ETHERNET_V6),
        ({"mtu": 65_535}, ETHERNET_V6),
        ({"mtu": 1400, "transport": "tcp"}, 65_535 - 32),
    ],
)
def test_what_shares_a_message_fits_the_path(choices, most):
    (peer,) = built("a", **choices).peers
    assert isinstance(peer.payload, KindPayload)
    assert peer.payload.max_plaintext == most


def test_wireguard_carries_packets_bare_and_has_no_control_channel():
    tunnel = built("a", protocol="wireguard")
    assert type(tunnel.peers[0].payload) is BarePayload
    assert not tunnel._station.control
    assert built("a")._station.control


# --- secrets


def test_what_was_configured_is_cleared_and_our_public_key_stays():
    config = sealed_config("a", preshared_key=psk_of("a"))
    held = [config.tunnel.private_key.raw, config.peers[0].preshared_key.raw]
    build(config, lambda: bytes(12), 0.0)
    assert held == [bytes(32)] * 2
    assert config.tunnel.private_key.public_key() == key_of("left").public_key()
    with pytest.raises(ValueError, match="32 bytes"):
        build(config, lambda: bytes(12), 0.0)


COPIES = """
import gc, json, os, re, sys
from pathlib import Path
from tunneld.config import load
from tunneld.keys import wipe
from tunneld.sealed import build

MASK = 0x55
memory = os.open("/proc/self/mem", os.O_RDONLY)
buffer = bytearray(1 << 20)

def copies(masked):
    # The one that is searched for is in memory as well.
    wanted = bytearray(code ^ MASK for code in masked)
    found = -1
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end, mode = re.match("([0-9a-f]+)-([0-9a-f]+) (..)", line).groups()
        if mode != "rw":
            continue
        for at in range(int(start, 16), int(end, 16), len(buffer) - len(wanted) + 1):
            count = os.preadv(memory, [memoryview(buffer)[:int(end, 16) - at]], at)
            found += buffer.count(wanted, 0, count)
            wipe(buffer)
    wipe(wanted)
    return found

secrets = [bytes.fromhex(word) for word in sys.argv[2:]]
config = load(Path(sys.argv[1]))
loaded = [copies(secret) for secret in secrets]
tunnel = build(config, lambda: bytes(12), 0.0)
gc.collect()
print(json.dumps([loaded, [copies(secret) for secret in secrets]]))
"""


def test_of_each_secret_there_is_one_copy_in_memory_and_none_of_its_text(tmp_path):
    """Of the private key in OpenSSL, which overwrites it at the end, of the preshared one in a `bytes`."""
    private, psk = key_of("left").raw, psk_of("a").raw
    for name, key in (("t.key", private), ("t.psk", psk)):
        (tmp_path / name).write_bytes(encode(key))
        (tmp_path / name).chmod(0o600)
    (tmp_path / "t.toml").write_text(
        f'[tunnel]\nprivate_key_file = "t.key"\n[interface]\nname = "t0"\naddresses = []\n[[peer]]\n'
        f'name = "a"\npublic_key = "{key_of("a").public_key()}"\npreshared_key_file = "t.psk"\n'
        'endpoint = "192.0.2.1:55555"\nallowed_ips = ["10.9.0.2/32"]\n'
    )
    secrets = [bytes(code ^ 0x55 for code in secret).hex() for secret in (private, psk, encode(private), encode(psk))]
    words = [sys.executable, "-c", COPIES, str(tmp_path / "t.toml"), *secrets]
    loaded, built = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert loaded[:2] == [1, 1]
    assert built == [1, 1, 0, 0]


@pytest.mark.parametrize("choices", [{}, {"protocol": "wireguard"}, {"cipher": "aes-256-gcm"}], ids=str)
def test_no_object_of_a_tunnel_with_sessions_shows_a_secret(choices, monkeypatch):
    """Neither as text, nor in a traceback with the values of variables, nor when it is logged or stored."""
    secrets, keys = listened(monkeypatch)
    wire, configs = talking(**choices)
    secrets += [bytes(key_of(name).raw) for name in "ab"] + [bytes(psk_of("both").raw)]
    secrets += [key for pair in keys for key in (pair.send, pair.receive)]
    assert len(secrets) == 10  # three of handshakes, three configured ones, two of each session and end
    seen = {}
    for item in (*reached([wire.tunnels["a"], wire.tunnels["b"], *configs]), *keys):
        seen[type(item)] = seen.get(type(item), 0) + 1
        for form in FORMS:
            told = form(item)
            for secret in secrets:
                assert pieces_in(secret, told) == [], f"{form} of {type(item)}"
    assert {
        DatagramTunnel,
        Session,
        KeyPair,
        HandshakeState,
        PrivateKey,
        handshake.Remote,
        type(keys[0]),
    } <= seen.keys()


def test_the_forms_show_what_an_object_does_not_hide():
    class Open:
        key = os.urandom(32)

        def __repr__(self) -> str:
            return f"Open({self.key!r})"

    for form in FORMS[:-1]:
        assert pieces_in(Open.key, form(Open()))
    assert pieces_in(Open.key, FORMS[-1](handshake.ReceivedInitiation(Open.key, b"", 1, None)))


def listened(monkeypatch) -> tuple[list[bytes], list[handshake.TransportKeys]]:
    """The random bytes that tunnels take from now on, and the keys that their handshakes yield."""
    taken: list[bytes] = []
    made: list[handshake.TransportKeys] = []

    def random(count: int, draw=os.urandom) -> bytes:
        drawn = draw(count)
        if count == KEY_BYTES:
            taken.append(drawn)
        return drawn

    def keep(*values, make=handshake.TransportKeys):
        made.append(make(*values))
        return made[-1]

    monkeypatch.setattr(os, "urandom", random)
    monkeypatch.setattr(handshake, "TransportKeys", keep)
    return taken, made


def talking(**choices) -> tuple[Wire, list]:
    """a and b with a session each way, of whom a has begun the next handshake; and two configurations like theirs."""
    configs = [
        sealed_config(other, ours=name, preshared_key=psk_of("both"), allowed_ips=(ip_network(address),), **choices)
        for name, other, address in (("a", "b", "10.0.0.2/32"), ("b", "a", "10.0.0.1/32"))
        for _ in range(2)
    ]
    tunnels = [build(config, partial(stamp, 2e9), NOW) for config in configs[::2]]
    for tunnel, other in zip(tunnels, "ba", strict=True):
        tunnel.max_packet = 1400
        point(tunnel, other, Way(other))
    wire = Wire(a=tunnels[0], b=tunnels[1])
    send(wire, "a", NOW)
    send(wire, "b", NOW)
    assert wire.received == {"a": [TO_A], "b": [TO_B]}
    for tunnel in tunnels:
        events(tunnel)
    tunnels[0].peers[0].association.initiate(NOW + 130)
    return wire, configs[1::2]


def reached(roots: list) -> Iterator[object]:
    """All objects of classes of ours and of the libraries' that can be reached from `roots`."""
    known = {id(item) for item in roots}
    waiting = list(roots)
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) or (type(item).__module__ == "builtins" and type(item).__name__ in CODE):
            continue
        if type(item).__module__.partition(".")[0] in ("tunneld", "cryptography"):
            yield item
        fresh = [other for other in gc.get_referents(item) if id(other) not in known]
        known.update(map(id, fresh))
        waiting += fresh


CODE = {"module", "function", "builtin_function_or_method", "frame", "code"}


def in_a_traceback(item: object) -> str:
    try:
        raise RuntimeError(f"{item}")
    except RuntimeError as error:
        return "".join(TracebackException.from_exception(error, capture_locals=True).format())


def logged(item: object) -> str:
    record = logging.LogRecord("tunneld", logging.ERROR, "", 1, "%s %r", (item, item), None)
    return logging.Formatter().format(record)


def pickled(item: object) -> bytes:
    try:
        return pickle.dumps(item)
    except (TypeError, AttributeError, pickle.PicklingError):
        return b""


FORMS = (repr, str, format, in_a_traceback, logged, pickled)
