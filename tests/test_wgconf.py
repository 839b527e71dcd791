"""Files of wg and wg-quick: read as those two do, every fault with its line, no secret where it could be seen."""

from __future__ import annotations

import base64
import gc
import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunneld import wgconf
from tunneld.config.document import Faults
from tunneld.config.model import Endpoint
from tunneld.keys import PresharedKey, PrivateKey, PublicKey, Secret
from tunneld.proto.errors import ConfigErrors
from tunneld.wgconf import Interface, Peer, Setting, WgConf

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
BERLIN = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PARIS = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

# What `wg showconf` prints, with a line of wg-quick's.
SHOWN = f"""\
[Interface]
ListenPort = 51820
FwMark = 0xca6c
PrivateKey = {PRIVATE}

[Peer]
PublicKey = {BERLIN}
PresharedKey = {PRESHARED}
AllowedIPs = 10.192.122.3/32, fd00:5::/64, 0.0.0.0/0
Endpoint = [2607:5300:60:6b0::c05f:543]:2468
PersistentKeepalive = 25

[Peer]
PublicKey = {PARIS}
AllowedIPs = 10.192.124.0/24
"""


def read(text: str | bytes) -> WgConf:
    content = bytearray(text if isinstance(text, bytes) else text.encode())
    return wgconf.parse(memoryview(content), Faults(Path("wg0.conf")))


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        read(text)
    return str(raised.value).splitlines()


def private(text: str = PRIVATE) -> PrivateKey:
    return PrivateKey(bytearray(base64.b64decode(text)))


def preshared(text: str = PRESHARED) -> PresharedKey:
    return PresharedKey(bytearray(base64.b64decode(text)))


def peer(lines: str) -> Peer:
    """The only peer of a file in which it has `lines`."""
    (found,) = read(f"[Interface]\n[Peer]\nPublicKey={BERLIN}\n{lines}").peers
    return found


# --- what is read


def test_what_wg_shows_is_read():
    assert read(SHOWN) == WgConf(
        Interface(private(), 51820, others=(Setting(3, "FwMark", "0xca6c"),)),
        (
            Peer(
                PublicKey.decode(BERLIN),
                None,
                preshared(),
                (IPv4Network("10.192.122.3/32"), IPv6Network("fd00:5::/64"), IPv4Network("0.0.0.0/0")),
                Endpoint("2607:5300:60:6b0::c05f:543", 2468),
                25,
            ),
            Peer(PublicKey.decode(PARIS), allowed_ips=(IPv4Network("10.192.124.0/24"),)),
        ),
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.lower().replace(PRIVATE.lower(), PRIVATE),
        lambda text: text.upper().replace("6B0::C05F", "6b0::c05f"),
        lambda text: text.replace(" = ", "="),
        lambda text: text.replace(" = ", "\t =  ").replace("\n", " \n "),
        lambda text: text.replace("\n", " # a comment = [Peer]\n"),
        lambda text: "\n\n# a comment\n" + text + "\n\n#",
        lambda text: text.removesuffix("\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("Port", " P o r t"),
        lambda text: text.replace(", ", "\nAllowedIPs = "),
        lambda text: text.replace(", ", " ,,  "),
        lambda text: text.replace("[Interface]", "[Interface]\nAddress ="),
    ],
)
def test_the_liberties_of_wg_are_taken(change):
    def keyless(text: str) -> str:
        return re.sub("(?m)^(?!Pub).*Key = .*\n", "", text)

    keys = {key.upper(): key for key in (BERLIN, PARIS)} | {key.lower(): key for key in (BERLIN, PARIS)}
    changed = change(keyless(SHOWN))
    for other, key in keys.items():
        changed = changed.replace(other, key)
    wanted = read(keyless(SHOWN))
    found = read(changed)
    assert found.peers == wanted.peers
    assert found.interface.listen_port == 51820


def test_several_lines_of_addresses_are_one_list():
    conf = read(
        f"[Interface]\nAddress = 10.0.0.2/24, fd00::2/64\nAddress = 10.1.0.2\naddress=fd01::2 10.0.0.2/24\n{REST}"
    )
    wanted = ("10.0.0.2/24", "fd00::2/64", "10.1.0.2/32", "fd01::2/128")
    assert conf.interface.addresses == tuple(map(ip_interface, wanted))


def test_what_is_handed_on_stands_as_it_stood():
    conf = read(f"[Interface]\nPostUp = a; b=%i\npostup = c # d\nDNS = 1.1.1.1, lan\nMTU=1380\nTable = off\n{REST}")
    assert conf.interface.mtu == 1380
    assert conf.interface.others == (
        Setting(2, "PostUp", "a; b=%i"),
        Setting(3, "PostUp", "c"),
        Setting(4, "DNS", "1.1.1.1, lan"),
        Setting(6, "Table", "off"),
    )


def test_host_bits_of_a_prefix_are_cleared_and_repetitions_are_one():
    allowed = peer("AllowedIPs = 10.0.0.2/24, 10.0.0.0/24, 10.9.9.9, fd00::1/64").allowed_ips
    assert allowed == tuple(map(ip_network, ("10.0.0.0/24", "10.9.9.9/32", "fd00::/64")))
    assert peer("AllowedIPs =").allowed_ips == ()


@pytest.mark.parametrize(("written", "seconds"), [("off", 0), ("Off", 0), ("0", 0), ("25", 25), ("65535", 65535)])
def test_keepalive(written, seconds):
    assert peer(f"PersistentKeepalive = {written}").keepalive == seconds


def test_zeros_are_no_preshared_key_and_port_0_is_any():
    assert peer(f"PresharedKey = {base64.b64encode(bytes(32)).decode()}").preshared_key is None
    assert read(f"[Interface]\nListenPort = 0\n{REST}").interface.listen_port is None


REST = f"[Peer]\nPublicKey = {BERLIN}\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"[Interface]\n# berlin\n{REST}", ["berlin"]),
        (f"[Interface]\n### begin berlin ###\n{REST}", ["berlin"]),
        (f"[Interface]\n### Client berlin\n{REST}", ["berlin"]),
        (f"[Interface]\n# BEGIN_PEER berlin\n{REST}", ["berlin"]),
        (f"[Interface]\n# Berlin, 3rd floor (Ünal)\n{REST}", ["Berlin, 3rd floor (Ünal)"]),
        (f"[Interface]\n#berlin\n\n{REST}", [None]),
        (f"[Interface] # office\n{REST}", [None]),
        (f"[Interface]\n# Endpoint = berlin:1\n{REST}", [None]),
        (f"[Interface]\n# {'long ' * 14}\n{REST}", [None]),
        (f"[Interface]\n# \x1b[31mred\n{REST}", [None]),
        (f"[Interface]\n{REST}# Name = berlin\n", ["berlin"]),
        (f"[Interface]\n{REST}#name:berlin", ["berlin"]),
        (f"[Interface]\n{REST}# friendly_name = berlin\nAllowedIPs=\n", ["berlin"]),
        (f"[Interface]\n# paris\n{REST}# Name = berlin\n", ["berlin"]),
        (f"[Interface]\n# berlin\n{REST}# Name = \x07\n", ["berlin"]),
        (f"[Interface]\n# paris\n{REST.replace(']', '] # berlin')}", ["berlin"]),
        (f"[Interface]\n{REST}# Name = paris\n{REST.replace(BERLIN, PARIS)}", [None, "paris"]),
        (f"[Interface]\n{REST}# END_PEER x\n# paris\n{REST.replace(BERLIN, PARIS)}", [None, "paris"]),
        (f"# Name = office\n[Interface]\n# Name = office\n{REST}", ["office"]),
    ],
)
def test_a_comment_names_a_peer(text, names):
    assert [peer.name for peer in read(text).peers] == names


# --- what is refused


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Adress = 10.0.0.1/24", '"adress": unknown key; did you mean Address?'),
        ("Jc = 4", '"jc": unknown key; remove the line'),
        ("= 4", "unknown key; remove the line"),
        ("Endpoint = a:1", "Endpoint: has no place in [Interface]; move it below [Peer]"),
        ("MTU", '"mtu": cannot be understood; write Key = value'),
        ("[Pear]", '"[pear]": cannot be understood; there are [Interface] and [Peer]'),
        ("MTU = 1e3", 'MTU: expected a whole number, got "1e3"; write digits only'),
        ("MTU = 70000", "MTU: must be 576..65475, and 1280 or more with IPv6"),
        ("ListenPort = 65536", 'ListenPort: port "65536": must be 1..65535'),
        ("Address = a/33", 'Address: "a/33" is not an address; write for example "192.168.0.1/24"'),
        ("Address = ::/8", 'Address: ::/8 cannot be the address of a host; write for example "192.168.0.1/24"'),
        ("PrivateKey =", "PrivateKey: empty"),
        (f"PrivateKey = {PRIVATE[:-2]}", "PrivateKey: expected 44 base64 characters (32 bytes), got 42"),
        (f"PrivateKey = {'A' * 43}=", "PrivateKey: all-zero key; write what wg genkey prints"),
    ],
)
def test_a_fault_of_the_interface_is_one_line(line, fault):
    assert faults(f"[Interface]\n{line}\n{REST}") == [f"wg0.conf:2: {fault}"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("MTU = 1400", "MTU: has no place in [Peer]; move it below [Interface]"),
        (f"PresharedKey = {PRESHARED[:-1]}", "PresharedKey: expected 44 base64 characters (32 bytes), got 43"),
        (f"PublicKey = {PARIS}", "PublicKey: already set in line 3; keep one of the two"),
        ("AllowedIPs = ::/0, ten", 'AllowedIPs: "ten" is not a prefix; write for example 192.168.0.0/24'),
        ("AllowedIPs = ::1/129", 'AllowedIPs: "::1/129" is not a prefix; write for example 192.168.0.0/24'),
        (
            "AllowedIPs = 9.0.0.0/255.0.0.0",
            'AllowedIPs: "9.0.0.0/255.0.0.0" is not a prefix; write for example 192.168.0.0/24',
        ),
        ("AllowedIPs = fe80::1%a/64", 'AllowedIPs: "fe80::1%a/64" is not a prefix; write for example 192.168.0.0/24'),
        ("Endpoint = example.org", 'Endpoint: "example.org" has no port; write example.org:55555'),
        ("PersistentKeepalive = -1", 'PersistentKeepalive: expected a whole number, got "-1"; write digits only'),
        ("PersistentKeepalive = 65536", "PersistentKeepalive: must be 1..65535 seconds, or 0 for none"),
    ],
)
def test_a_fault_of_a_peer_is_one_line(line, fault):
    assert faults(f"[Interface]\n{REST}{line}\n") == [f"wg0.conf:4: {fault}"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (REST, ": has no [Interface] section; add it, or give another file"),
        ("[Interface]", ": has no [Peer] section; add it, or give another file"),
        (f"[Interface]\n{REST}[Interface]\n", ":4: [Interface]: already opened in line 1; put its keys there"),
        (f"[Interface]\n[Peer]\n{REST}", ":2: [Peer]: has no PublicKey; add it"),
        (f"[Interface]\n[Peer]\nPublicKey = {'A' * 43}=\n", ":3: PublicKey: not a usable key: it is of low order"),
        (f"MTU = 9\n[Interface]\n{REST}", ':1: "mtu": stands before the first section; move it below [Interface]'),
        (f"[Interface]\n{REST}{REST}", f":5: PublicKey: {BERLIN} is in line 3 already; keep it in one place"),
        (
            f"[Interface]\n{REST}AllowedIPs = 10.0.0.0/8\n{REST.replace(BERLIN, PARIS)}AllowedIPs = 10.1.2.3/8\n",
            ":7: AllowedIPs: 10.0.0.0/8 is in line 4 already; keep it in one place",
        ),
    ],
)
def test_a_fault_of_the_whole_is_one_line(text, fault):
    assert faults(text) == [f"wg0.conf{fault}"]


def test_all_faults_are_told_in_the_order_of_the_file():
    lines = faults(f"[Interface]\nMTU = a\nBad = 1\nListenPort = b\n[Peer]\nAllowedIPs = c\nPublicKey = {PARIS}\nx\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["wg0.conf:2", "MTU"],
        ["wg0.conf:3", '"bad"'],
        ["wg0.conf:4", "ListenPort"],
        ["wg0.conf:6", "AllowedIPs"],
        ["wg0.conf:8", '"x"'],
    ]


@pytest.mark.parametrize(
    "line",
    [
        PRIVATE,
        f"PrivateKey {PRIVATE}",
        f"PrivateKey: {PRIVATE}",
        f"PrivateKey = {PRIVATE}x",
        f"PrivateKei = {PRIVATE}",
        f"{PRIVATE} = PrivateKey",
        f"PrivateKey = {PRIVATE} {PRIVATE}",
        f"PrivateKey = ={PRIVATE}",
    ],
)
def test_no_fault_shows_a_piece_of_a_secret(line):
    said = "\n".join(faults(f"[Interface]\n{line}\n{REST}")).lower()
    assert not [at for at in range(len(PRIVATE) - 4) if PRIVATE[at : at + 5].lower() in said]


def test_no_record_shows_a_secret():
    conf = read(SHOWN)
    assert PRIVATE[:8] not in repr(conf)
    assert PRESHARED[:8] not in repr(conf)


def test_no_secret_outlives_a_refusal():
    # The traceback holds what the reader has made.
    with pytest.raises(ConfigErrors) as refused:
        read(SHOWN + "x\n")
    secrets = [one for one in gc.get_objects() if isinstance(one, Secret) and one in (private(), preshared())]
    assert refused.traceback
    assert secrets == []


def test_clear_wipes():
    conf = read(SHOWN)
    held = [conf.interface.private_key.raw, conf.peers[0].preshared_key.raw]
    conf.clear()
    assert held == [bytes(32)] * 2


# --- there and back

words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=64)
v4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda t: IPv4Network(t, strict=False))
v6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda t: IPv6Network(t, strict=False))
hosts = st.sampled_from(["192.0.2.1", "2001:db8::1", "vpn.example.org", "fe80::1%eth0"])


@st.composite
def confs(draw) -> WgConf:
    raw = st.binary(min_size=32, max_size=32).filter(any)
    prefixes = draw(st.lists(v4 | v6, unique=True, max_size=6))
    count = draw(st.integers(1, 4))
    peers = [
        Peer(
            PublicKey(bytes([9 + index]) + draw(raw)[1:31] + b"\x00"),
            draw(st.none() | words),
            draw(st.none() | raw.map(lambda key: PresharedKey(bytearray(key)))),
            tuple(prefixes[index::count]),
            draw(st.none() | st.builds(Endpoint, hosts, st.integers(1, 65535))),
            draw(st.integers(0, 65535)),
        )
        for index in range(count)
    ]
    interface = Interface(
        draw(st.none() | raw.map(lambda key: PrivateKey(bytearray(key)))),
        draw(st.none() | st.integers(1, 65535)),
        tuple(
            map(
                ip_interface,
                draw(st.lists(st.sampled_from(["10.0.0.1/24", "fd00::1/64", "10.1.1.1/32"]), unique=True)),
            )
        ),
        draw(st.none() | st.integers(576, 9000)),
    )
    return WgConf(interface, tuple(peers))


@settings(max_examples=40)
@given(confs())
def test_what_is_written_is_read(conf):
    assert wgconf.parse(memoryview(wgconf.render(conf)), Faults(Path("wg0.conf"))) == conf


PIECES = [
    *SHOWN.split("\n"),
    *(f"{word} = " for word in wgconf.OTHERS),
    "=",
    "#",
    "[",
    "]",
    ",",
    "\0",
    "\r",
    "/",
    "off",
    "Address",
    " ",
]


@given(st.lists(st.sampled_from([piece.encode() for piece in PIECES]) | st.binary(max_size=9), max_size=40))
def test_any_bytes_are_a_file_or_faults(pieces):
    for joint in (b"", b"\n"):
        try:
            read(joint.join(pieces))
        except ConfigErrors as error:
            told = str(error)
        else:
            told = ""
        assert all(line.startswith("wg0.conf") for line in told.splitlines())


def test_much_of_anything_takes_no_time():
    for piece in (b"=", b"#", b" ", b"[Peer]\n", b"a", b"\n", b",", b"Address = 1,\n"):
        faults(piece * (20_000 // len(piece)))


# --- the file itself


def test_a_file_is_read(tmp_path):
    (tmp_path / "wg0.conf").write_text(SHOWN)
    assert wgconf.load(tmp_path / "wg0.conf") == read(SHOWN)


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(wgconf.LARGEST + 1))
    for name, message in (
        ("none", "No such file or directory; give a file such as /etc/wireguard/wg0.conf"),
        ("pipe", "is not a regular file; give a file"),
        (".", "is not a regular file; give a file"),
        ("large", "larger than 1,048,576 bytes; is this a file of wg?"),
    ):
        with pytest.raises(ConfigErrors) as raised:
            wgconf.load(tmp_path / name)
        assert str(raised.value).endswith(f": {message}"), name
