"""The table of bad configurations, each with the very lines that the operator gets.

The numbers of its rows are fixed, so that they can be referred to; those missing concern the kernel (plan and run).
"""

from __future__ import annotations

import base64

from tunneld.keys import PrivateKey


def secret(byte: int) -> str:
    """A private key of 32 times `byte`, as its file has it."""
    return base64.b64encode(bytes([byte]) * 32).decode()


def public(private: str) -> str:
    return str(PrivateKey(bytearray(base64.b64decode(private))).public_key())


PRIVATE, A, B = secret(7), public(secret(8)), public(secret(9))

# What lies beside the configurations of SEALED: the content of each file and its mode.
KEY_FILES = {
    "left.key": (PRIVATE, 0o600),
    "open.key": (PRIVATE, 0o644),
    "empty.key": ("", 0o600),
    "short.key": (PRIVATE[:43], 0o600),
    "star.key": (f"{PRIVATE[:4]}*{PRIVATE[5:]}", 0o600),
    "zero.key": (secret(0), 0o600),
    "a.psk": (secret(10), 0o600),
    "short.psk": (secret(10)[:39] + "=", 0o600),
    "words.psk": ("correct horse battery staple", 0o600),
}

GOOD = """\
[tunnel]
protocol = "plain"
listen = "[::]:55555"

[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]

[[peer]]
name = "a"
endpoint = "192.0.2.2:55555"
"""
SEALED = f"""\
[tunnel]
private_key_file = "left.key"
listen = "[::]:55555"

[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]

[[peer]]
name = "a"
endpoint = "192.0.2.2:55555"
public_key = "{A}"
allowed_ips = ["10.0.0.2/32"]
"""
SECOND_PEER = ("", "[[peer]]", 'name = "b"', 'endpoint = "192.0.2.3:55555"')
SECOND_SEALED = f"""
[[peer]]
name = "b"
public_key = "{B}"
allowed_ips = ["10.0.0.3/32"]
"""

# What takes the configuration of conftest.py out of plain.
SEALED_CHANGES = {
    "protocol": "tunneld",
    "tunnel": 'private_key_file = "left.key"',
    "allowed_ips": ["10.0.0.2/32"],
    "peer": f'public_key = "{A}"',
}

UNUSED = 'protocol = "plain" sends everything in clear, so this would not be used; remove the line'
SESSIONLESS = 'protocol = "plain" has no sessions, so this would not be used; remove the line'
LATER = "this version cannot do that yet; remove the line"
ONE_PEER = 'protocol = "plain" cannot tell two peers apart; keep one [[peer]]'
MTU = "mtu: must be 576..65475, and 1280 or more with IPv6"
NAME = 'at most 15 characters, no "/" and no blank'
ITSELF = "which would route the tunnel into itself"
IN_A_FILE = "put it in a file of mode 0600; see"
A_KEY_ITSELF = "this is a key itself; put it in a file of mode 0600, and write the name of that file here"
FROM_THEIR_KEY = "what tunneld pubkey prints from its key"
PUBKEY = "write what tunneld pubkey prints from the key of the peer"
STUCK = "nobody can start: no listen and no endpoint; set one of the two"
BOTH_ENDS = 'needs protocol = "tunneld" at both ends; write that, or'


def after(line: int, *added: str, of: str = GOOD) -> str:
    """A good file with lines added behind number `line`."""
    lines = of.splitlines()
    return "\n".join([*lines[:line], *added, *lines[line:], ""])


def instead(line: int, *given: str, of: str = GOOD) -> str:
    """A good file with other lines in place of number `line`."""
    lines = of.splitlines()
    return "\n".join([*lines[: line - 1], *given, *lines[line:], ""])


def private_file(name: str) -> str:
    return instead(2, f'private_key_file = "{name}"', of=SEALED)


def preshared_file(name: str) -> str:
    return after(12, f'preshared_key_file = "{name}"', of=SEALED)


def peer_key(written: str) -> str:
    return instead(12, f'public_key = "{written}"', of=SEALED)


def allowed(written: str) -> str:
    return instead(13, f"allowed_ips = {written}", of=SEALED)


PLAIN: list[tuple[str, str | bytes, list[str]]] = [
    ("4 empty", "", ["1: empty: no [tunnel] section, no [interface] section; start from a sample in configs/"]),
    ("4 no interface", '[tunnel]\nprotocol = "plain"\nlisten = "[::]:1024"\n',
     ["1: [interface]: no [interface] section; add it with a name and addresses"]),
    ("5 not UTF-8", b"[tunnel]\n\n\xff", ["3: byte 0xff at line 3; save as UTF-8"]),
    ("6 syntax", instead(7, 'addresses ["10.0.0.1/24"]'),
     ["7: column 11: expected '=' after a key in a key/value pair; write key = value"]),
    ("7 key twice", after(6, "mtu = 1400", "mtu = 1420"), ["8: mtu: already set in line 7; keep one of the two"]),
    ("8 section twice", after(11, "", "[interface]", "mtu = 1400"),
     ["13: [interface]: already opened in line 5; put its keys there"]),
    ("9 unknown key", after(2, 'listn = "x"'), ['3: "listn": unknown key; did you mean "listen"?']),
    ("9 key of another section", after(10, "mtu = 1400"), ['11: "mtu": unknown key; it belongs below [interface]']),
    ("9 key of no section", 'listen = "[::]:1024"\n' + instead(3),
     ['1: "listen": stands before the first section; move it below [tunnel]']),
    ("10 unknown section", instead(5, "[interfaces]"),
     ["5: [interfaces]: unknown section; did you mean [interface]?"]),
    ("10 unknown section with the endpoint", instead(9, "[[peers]]").replace('listen = "[::]:55555"\n', ""),
     ["8: [peers]: unknown section; did you mean [[peer]]?"]),
    ("10 single brackets", instead(9, "[peer]"), ["9: [peer]: write [[peer]] with double brackets"]),
    ("10 double brackets", instead(1, "[[tunnel]]"), ["1: [[tunnel]]: write [tunnel] with single brackets, once"]),
    ("11 text for a number", after(6, 'mtu = "1420"'),
     ['7: mtu: expected a number, got "1420"; write it without quotes']),
    ("11 three wrong types", after(6, "mtu = 1.5", "mode = 3", 'persist = "yes"'),
     ["7: mtu: expected a whole number, got the number 1.5; write digits only",
      '8: mode: expected text, got the number 3; write "3"',
      '9: persist: expected true or false, got "yes"; write it without quotes']),
    ("11 text for a list", instead(7, 'addresses = "10.0.0.1/24"'),
     ['7: addresses: expected a list; write addresses = ["10.0.0.1/24"]']),
    ("11 a number for a section", 'interface = 3\n[tunnel]\nprotocol = "plain"\nlisten = "[::]:1024"\n',
     ["1: interface: expected a section; write [interface] and its keys below it"]),
    ("22 name twice", after(11, "", "[[peer]]", 'name = "a"', 'endpoint = "192.0.2.3:55555"'),
     [f"13: [[peer]]: {ONE_PEER}", '14: name: name "a" already used in line 10; choose another']),
    ("27 port 0", instead(3, 'listen = "[::]:0"'), ['3: listen: port "0": must be 1..65535']),
    ("27 port 70000", instead(3, 'listen = "0.0.0.0:70000"'), ['3: listen: port "70000": must be 1..65535']),
    ("31 no port", instead(11, 'endpoint = "vpn.example.org"'),
     ['11: endpoint: "vpn.example.org" has no port; write vpn.example.org:55555']),
    ("32 no brackets", instead(11, "endpoint = [", '  "192.0.2.2:55555",', '  "2001:db8::1:51820",', "]"),
     ['13: endpoint: "2001:db8::1:51820": write [2001:db8::1]:51820']),
    ("34 this host", instead(11, 'endpoint = "127.0.0.1:55555"'),
     ["11: endpoint: 127.0.0.1:55555 is this host itself; write the address of the peer"]),
    ("35 inside allowed_ips", after(11, 'allowed_ips = ["192.0.2.0/24"]'),
     [f"11: endpoint: 192.0.2.2 lies inside allowed_ips 192.0.2.0/24, {ITSELF}; take 192.0.2.2 out of it"]),
    ("35 inside the own subnet", instead(11, 'endpoint = "10.0.0.2:55555"'),
     [f"11: endpoint: 10.0.0.2 lies inside the subnet of addresses 10.0.0.1/24, {ITSELF}; take 10.0.0.2 out of it"]),
    ("36 no prefix", after(11, 'allowed_ips = ["10.0.0.0/33"]'),
     ['12: allowed_ips: "10.0.0.0/33" is not a prefix; write for example "192.168.0.0/24"']),
    ("37 host bits", after(11, "allowed_ips = [", '  "10.1.0.0/16",', '  "10.0.0.5/24",', "]"),
     ["14: allowed_ips: 10.0.0.5/24 has host bits set; did you mean 10.0.0.0/24 or 10.0.0.5/32?"]),
    ("38 prefix in two peers",
     after(11, 'allowed_ips = ["10.1.0.0/16"]', *SECOND_PEER, 'allowed_ips = ["10.1.0.0/16"]'),
     [f"14: [[peer]]: {ONE_PEER}",
      '17: allowed_ips: 10.1.0.0/16 in "a" (line 12) and "b" (line 17); keep it in one place']),
    ("40 no address", instead(7),
     ["5: addresses: interface has no address; set addresses, or addresses = [] if it needs none"]),
    ("42 mtu small", after(6, "mtu = 575"), [f"7: {MTU}"]),
    ("42 mtu small for IPv6", instead(7, "mtu = 1279", 'addresses = ["fd00::1/64"]'), [f"7: {MTU}"]),
    ("42 mtu large", after(6, "mtu = 65476"), [f"7: {MTU}"]),
    ("44 name long", instead(6, 'name = "sixteen-letters!"'), [f'6: name: "sixteen-letters!": {NAME}']),
    ("44 name with slash", instead(6, 'name = "a/b"'), [f'6: name: "a/b": {NAME}']),
    ("44 name with blank", instead(6, 'name = "a b"'), [f'6: name: "a b": {NAME}']),
    ("46 tap with allowed_ips", after(6, 'mode = "tap"') + 'allowed_ips = ["10.9.0.0/16"]\n',
     ["13: allowed_ips: tap peers use macs, not allowed_ips; remove the line, and write routes in [network]"]),
    ("50 nobody can start", instead(3).replace('endpoint = "192.0.2.2:55555"\n', ""),
     ["8: endpoint: nobody can start: no listen and no endpoint; set one of the two"]),
    ("51 plain with keys, psk and cipher",
     after(2, 'cipher = "aes-256-gcm"', 'private_key_file = "k"', f'private_key = "{PRIVATE}"')
     + 'public_key = "A"\npreshared_key_file = "p"\npreshared_key = "A"\n',
     [*(f"{line}: {key}: {UNUSED}" for line, key in ((3, "cipher"), (4, "private_key_file"), (5, "private_key"),
        (15, "public_key"), (16, "preshared_key_file"), (17, "preshared_key")))]),
    ("52 plain with keepalive", after(11, "keepalive = 25", "pin_endpoint = true"),
     [f"12: keepalive: {SESSIONLESS}", f"13: pin_endpoint: {SESSIONLESS}"]),
    ("53 table", after(7, "[network]", "table = 51820"), [f"9: table: {LATER}"]),
    ("55 kill switch", after(7, "[network]", "kill_switch = true"), [f"9: kill_switch: {LATER}"]),
    ("later keys", after(3, 'netns = "outer"') + "[bridge]\nstorm = 1\n[log]\n[metrics]\n",
     [f"4: netns: {LATER}",
      *(f"{line}: [{section}]: this version cannot do that yet; remove the section"
        for line, section in ((13, "bridge"), (15, "log"), (16, "metrics")))]),
    ("auto", after(2, 'transport = "auto"'),
     ['3: transport: this version cannot choose between transports; write "udp" or "tcp"']),
    ("terminal codes", instead(10, 'name = "\\u001b[2J"', '"\\u001b" = 1'),
     [r'10: name: "\x1b[2J": 1 to 64 printable characters, no blank at the ends',
      r'11: "\x1b": unknown key; remove it, or see tunneld.toml(5)']),
]  # fmt: skip

# DIR stands for the directory of the configuration.
WITH_KEYS: list[tuple[str, str, list[str]]] = [
    ("9 key file misspelt", instead(2, 'private_key_flie = "left.key"', of=SEALED),
     ['2: "private_key_flie": unknown key; did you mean "private_key_file"?']),
    ("9 protocol misspelt", instead(2, 'protocl = "plain"'),
     ['2: "protocl": unknown key; did you mean "protocol"?']),
    ("9 public key in [tunnel]", after(2, f'public_key = "{A}"', of=SEALED),
     ['3: "public_key": unknown key; it belongs below [[peer]]']),
    ("11 protocol unknown", instead(2, 'protocol = "plian"'),
     ['2: protocol: "plian" is not known; did you mean "plain"?']),
    ("11 cipher unknown", after(2, 'cipher = "aes-gcm"', of=SEALED),
     ['3: cipher: "aes-gcm" is not known; did you mean "aes-256-gcm"?']),
    ("12 readable by others", private_file("open.key"),
     ["2: private_key_file: DIR/open.key: has mode 0644; run: chmod 600 DIR/open.key"]),
    ("13 missing", private_file("no.key"),
     ["2: private_key_file: DIR/no.key: not found; "
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/no.key)"]),
    ("14 empty", private_file("empty.key"),
     ["2: private_key_file: DIR/empty.key: empty; "
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/empty.key)"]),
    ("15 43 characters", private_file("short.key"),
     ["2: private_key_file: DIR/short.key: expected 44 base64 characters (32 bytes), got 43; "
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/short.key)"]),
    ("16 not base64", private_file("star.key"),
     ['2: private_key_file: DIR/star.key: character "*" at position 5; a key is 32 random bytes in base64; '
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/star.key)"]),
    ("17 all zeros", private_file("zero.key"),
     ["2: private_key_file: DIR/zero.key: all-zero key; "
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/zero.key)"]),
    ("18 key inline", instead(2, f'private_key = "{PRIVATE}"', of=SEALED),
     [f"2: private_key: {IN_A_FILE} private_key_file"]),
    ("18 key inline and in a file", after(2, f'private_key = "{PRIVATE}"', of=SEALED),
     [f"3: private_key: {IN_A_FILE} private_key_file"]),
    ("18 key for its file", private_file(PRIVATE), [f"2: private_key_file: {A_KEY_ITSELF}"]),
    ("18 preshared key inline", after(12, f'preshared_key = "{secret(10)}"', of=SEALED),
     [f"13: preshared_key: {IN_A_FILE} preshared_key_file"]),
    ("18 preshared key for its file", preshared_file(secret(10)), [f"13: preshared_key_file: {A_KEY_ITSELF}"]),
    ("18 no key at all", instead(2, of=SEALED),
     ['1: private_key_file: missing; write for example private_key_file = "office.key", '
      "and make that file with tunneld genkey"]),
    ("18 no key, no protocol", instead(2),
     ['1: private_key_file: missing; write for example private_key_file = "office.key", '
      "and make that file with tunneld genkey",
      f'8: public_key: missing; write for peer "a" {FROM_THEIR_KEY}',
      '8: allowed_ips: nothing could be sent to peer "a"; write what it has, such as ["10.0.0.2/32"]']),
    ("19 our own public key", peer_key(public(PRIVATE)),
     [f'12: public_key: peer "a" has our own public key; write {FROM_THEIR_KEY}']),
    ("20 no public key", instead(12, of=SEALED), [f'9: public_key: missing; write for peer "a" {FROM_THEIR_KEY}']),
    ("20 no peer", "\n".join(SEALED.splitlines()[:8]),
     ["1: [[peer]]: no [[peer]] section; add one with the public_key of the other end"]),
    ("21 public key twice", SEALED + SECOND_SEALED.replace(B, A),
     ['17: public_key: same key as peer "a" (line 12); each peer has its own']),
    ("22 name twice", SEALED + SECOND_SEALED.replace('"b"', '"a"'),
     ['16: name: name "a" already used in line 10; choose another']),
    ("22 no name", SEALED.replace('name = "a"\n', "") + SECOND_SEALED.replace('name = "b"\n', ""),
     ["9: name: missing; several peers are told apart by their names",
      "14: name: missing; several peers are told apart by their names"]),
    ("23 low-order public key", peer_key(secret(0)),
     [f"12: public_key: not a usable key: it is of low order; {PUBKEY}"]),
    ("23 short public key", peer_key(A[:43]),
     [f"12: public_key: expected 44 base64 characters (32 bytes), got 43; {PUBKEY}"]),
    ("24 preshared key short", preshared_file("short.psk"),
     ["13: preshared_key_file: DIR/short.psk: expected 44 base64 characters (32 bytes), got 40; "
      "create it with tunneld genpsk: (umask 077; tunneld genpsk >DIR/short.psk)"]),
    ("25 the private key", preshared_file("left.key"),
     ["13: preshared_key_file: DIR/left.key: equals the private key; "
      "create it with tunneld genpsk: (umask 077; tunneld genpsk >DIR/left.key)"]),
    ("26 a passphrase", preshared_file("words.psk"),
     ['13: preshared_key_file: DIR/words.psk: character " " at position 8; a key is 32 random bytes in base64; '
      "create it with tunneld genpsk: (umask 077; tunneld genpsk >DIR/words.psk)"]),
    ("13, 26 both keys", after(12, 'preshared_key_file = "no.psk"', of=private_file("no.key")),
     ["2: private_key_file: DIR/no.key: not found; "
      "create it with tunneld genkey: (umask 077; tunneld genkey >DIR/no.key)",
      "13: preshared_key_file: DIR/no.psk: not found; "
      "create it with tunneld genpsk: (umask 077; tunneld genpsk >DIR/no.psk)"]),
    ("35 inside its own allowed_ips", allowed('["192.0.2.0/24"]'),
     [f"11: endpoint: 192.0.2.2 lies inside allowed_ips 192.0.2.0/24, {ITSELF}; take 192.0.2.2 out of it"]),
    ("35 inside those of another", SEALED + SECOND_SEALED.replace("10.0.0.3/32", "192.0.0.0/16"),
     [f'11: endpoint: 192.0.2.2 lies inside allowed_ips 192.0.0.0/16 of peer "b", {ITSELF}; '
      "take 192.0.2.2 out of it"]),
    ("38 prefix in two peers", SEALED + SECOND_SEALED.replace("10.0.0.3", "10.0.0.2"),
     ['18: allowed_ips: 10.0.0.2/32 in "a" (line 13) and "b" (line 18); keep it in one place']),
    ("39 no allowed_ips", instead(13, of=SEALED),
     ['9: allowed_ips: nothing could be sent to peer "a"; write what it has, such as ["10.0.0.2/32"]']),
    ("39 empty allowed_ips", allowed("[]"),
     ['13: allowed_ips: nothing could be sent to peer "a"; write what it has, such as ["10.0.0.2/32"]']),
    ("42 mtu of a datagram", after(6, "mtu = 65465", of=SEALED),
     ["7: mtu: must be 576..65464, or no sealed packet fits one datagram"]),
    ("42 mtu of a datagram with a frame", after(6, 'mode = "tap"', "mtu = 65447", of=instead(13, of=SEALED)),
     ["8: mtu: must be 576..65446, or no sealed packet fits one datagram"]),
    ("42 mtu of a record", after(2, 'transport = "tcp"', of=after(6, 'mode = "tap"', "mtu = 65475",
                                                                 of=instead(13, of=SEALED))),
     ["9: mtu: must be 576..65474, or no sealed packet fits one record of TCP"]),
    ("46 tap with allowed_ips", after(6, 'mode = "tap"', of=SEALED),
     ["14: allowed_ips: tap peers use macs, not allowed_ips; remove the line, and write routes in [network]"]),
    ("47-49 wireguard", after(1, 'protocol = "wireguard"', 'transport = "tcp"', 'cipher = "aes-256-gcm"',
                              of=after(6, 'mode = "tap"', of=instead(13, of=SEALED))),
     [f'3: transport: "tcp" {BOTH_ENDS} write "udp"', f'4: cipher: "aes-256-gcm" {BOTH_ENDS} remove the line',
      f'10: mode: "tap" {BOTH_ENDS} write "tun"']),
    ("50 nobody can start", instead(3, of=SEALED).replace('endpoint = "192.0.2.2:55555"\n', ""),
     [f"8: endpoint: {STUCK}"]),
    ("50 one of two cannot be started", instead(3, of=SEALED) + SECOND_SEALED, [f"14: endpoint: {STUCK}"]),
    ("52 keepalive a part of a second", after(11, "keepalive = 0.1", of=SEALED),
     ["12: keepalive: expected a whole number, got the number 0.1; write digits only"]),
    ("52 keepalive of a day", after(11, "keepalive = 100000", of=SEALED),
     ["12: keepalive: must be 1..65535 seconds, or 0 for none"]),
    ("pinned to nothing", SEALED + SECOND_SEALED + "pin_endpoint = true\n",
     ["19: pin_endpoint: there is no endpoint to stay at; set endpoint or remove the line"]),
]  # fmt: skip

BAD = [*PLAIN, *WITH_KEYS]
