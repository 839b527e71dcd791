"""Section 7 of docs/PROTOCOL.md and its vectors: what the code does, and what the text alone leads to.

Every vector of a handshake is made twice, by tunneld and by tests/sealed_reference.py, which knows only the page.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import struct
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests import sealed_reference as reference
from tunneld.proto import const, controlchannel, cookie, noise, profile, tai64n, wire
from tunneld.proto.controlchannel import Echo, Goodbye, Hello, Probe
from tunneld.proto.cookie import CookieChecker
from tunneld.proto.errors import Reason
from tunneld.proto.handshake import (
    Local,
    Remote,
    consume_initiation_untrusted,
    consume_response_untrusted,
    create_initiation,
    create_response,
)
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.profile import MODES, WIREGUARD, MessageType, spoken_untrusted, tunneld_profile
from tunneld.proto.replay import ReplayWindow, Succession
from tunneld.proto.session import Session

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "docs/PROTOCOL.md").read_text().partition("\n## 7. ")[2]
VECTORS = json.loads((ROOT / "docs/vectors/sealed.json").read_text())
HANDSHAKES = {vector["name"]: vector for vector in VECTORS["handshakes"]}
SIDES = ("initiator", "responder")

octets = bytes.fromhex


def named(kind: str) -> list:
    return [pytest.param(vector, id=vector["name"].replace(" ", "-")) for vector in VECTORS[kind]]


def drawn(*values: bytes):
    """A source of randomness that gives these, in order, and is then at its end."""
    left = list(values)

    def random(count: int) -> bytes:
        value = left.pop(0)
        assert len(value) == count
        return value

    return random


def ours(name: str) -> profile.Profile:
    return WIREGUARD if name == "wireguard" else tunneld_profile(*name.split())


# --- primitives, timestamps, profiles


@pytest.mark.parametrize("vector", named("primitives"))
def test_primitive_vector(vector):
    inputs = {key: octets(value) for key, value in vector.items() if key not in ("name", "function", "gives")}
    gives = octets(vector["gives"])
    assert ours_of(vector["function"], **inputs) == gives
    assert of_the_text(vector["function"], **inputs) == gives


def ours_of(function: str, **inputs: bytes) -> bytes:
    functions = {
        "HASH": lambda x: noise.blake2s(x),
        "MAC": lambda key, x: cookie.mac(key, x),
        "HMAC": lambda key, x: hmac.digest(key, x, hashlib.blake2s),
        "KDF3": lambda key, x: b"".join(noise.hkdf(key, x, 3)),
        "HCHACHA20": cookie.hchacha20,
        "XSEAL": sealed_with_our_subkey,
    }
    return functions[function](**inputs)


def of_the_text(function: str, **inputs: bytes) -> bytes:
    return b"".join(reference.KDF(3, **inputs)) if function == "KDF3" else getattr(reference, function)(**inputs)


def sealed_with_our_subkey(key: bytes, nonce: bytes, ad: bytes, text: bytes) -> bytes:
    return noise.ChaCha20Poly1305(cookie.hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], text, ad)


@pytest.mark.parametrize("vector", named("timestamps"))
def test_timestamp_vector(vector):
    seconds, nanoseconds = vector["seconds"], vector["nanoseconds"]
    assert reference.timestamp(seconds, nanoseconds).hex() == vector["label"]
    # A float would lose the last bits of the nanoseconds.
    assert tai64n.stamp(seconds + Fraction(nanoseconds, tai64n.NANOSECONDS)).hex() == vector["label"]


@pytest.mark.parametrize("vector", named("profiles"))
def test_profile_vector(vector):
    mine, theirs = ours(vector["name"]), reference.profile(vector["name"])
    assert (mine.noise_name, mine.prologue.decode()) == (vector["noise_name"], vector["prologue"])
    assert (theirs.name, theirs.prologue.decode()) == (vector["noise_name"], vector["prologue"])
    assert {kind.name.lower(): word.hex() for kind, word in mine.words.items()} == vector["type_words"]
    assert {word.hex() for word in theirs.words} >= set(vector["type_words"].values())
    assert (theirs.first_ck.hex(), theirs.first_h.hex()) == (vector["ck"], vector["h"])


# --- handshakes


def given(vector: dict) -> reference.Given:
    i, r = (vector[side] for side in SIDES)
    return reference.Given(
        reference.profile(vector["profile"]),
        *(octets(i["private"]), octets(i["ephemeral_private"]), i["index"]),
        *(octets(r["private"]), octets(r["ephemeral_private"]), r["index"]),
        octets(vector["Q"]),
        octets(vector["timestamp"]),
    )


@pytest.mark.parametrize("vector", named("handshakes"))
def test_handshake_vector_from_the_text(vector):
    first = reference.initiation(given(vector))
    assert vector["initiation"] == {"message": first.message.hex(), "ck": first.ck.hex(), "h": first.h.hex()}
    second = reference.response(given(vector), first)
    assert vector["response"] == {"message": second.message.hex(), "ck": second.ck.hex(), "h": second.h.hex()}
    assert (second.K1.hex(), second.K2.hex()) == (vector["K1"], vector["K2"])
    for side in SIDES:
        assert reference.PUBLIC(octets(vector[side]["private"])).hex() == vector[side]["public"]


class Ends:
    """Both ends of a vector, by tunneld."""

    def __init__(self, vector: dict) -> None:
        self.vector = vector
        self.profile = ours(vector["profile"])
        self.locals = {side: Local(self.profile, octets(vector[side]["private"])) for side in SIDES}
        self.remotes = {
            side: Remote(octets(vector[other]["public"]), octets(vector["Q"]))
            for side, other in zip(SIDES, reversed(SIDES), strict=True)
        }

    def create_initiation(self):
        mine = self.vector["initiator"]
        return create_initiation(
            self.locals["initiator"],
            self.remotes["initiator"],
            sender=mine["index"],
            timestamp=octets(self.vector["timestamp"]),
            now=0.0,
            random=drawn(octets(mine["ephemeral_private"])),
        )

    def consume_initiation(self, message: bytes):
        random = drawn(octets(self.vector["responder"]["ephemeral_private"]))
        return consume_initiation_untrusted(self.locals["responder"], message, random)

    def create_response(self, received):
        index = self.vector["responder"]["index"]
        return create_response(self.locals["responder"], self.remotes["responder"], received, sender=index, now=0.0)

    def session(self, side: str) -> Session:
        initiator = side == "initiator"
        keys = [octets(self.vector[name]) for name in ("K1", "K2")]
        return Session(
            self.profile,
            sending_key=keys[not initiator],
            receiving_key=keys[initiator],
            local_index=self.vector[side]["index"],
            remote_index=self.vector[SIDES[initiator]]["index"],
            initiator=initiator,
            born=0.0,
            received=Succession() if self.vector["profile"].startswith("tcp") else ReplayWindow(),
        )


@pytest.mark.parametrize("vector", named("handshakes"))
def test_handshake_vector(vector):
    ends = Ends(vector)
    sent = ends.create_initiation()
    assert sent.message.hex() == vector["initiation"]["message"]
    assert sent.state.handshake_hash.hex() == vector["initiation"]["h"]
    received = ends.consume_initiation(octets(vector["initiation"]["message"]))
    assert received.static.hex() == vector["initiator"]["public"]
    assert (received.timestamp.hex(), received.sender) == (vector["timestamp"], vector["initiator"]["index"])
    response, theirs = ends.create_response(received)
    assert response.hex() == vector["response"]["message"]
    mine = consume_response_untrusted(ends.locals["initiator"], sent, octets(vector["response"]["message"]))
    assert (mine.send.hex(), mine.receive.hex(), mine.receiver) == (
        vector["K1"], vector["K2"], vector["responder"]["index"]
    )  # fmt: skip
    assert (theirs.receive.hex(), theirs.send.hex()) == (vector["K1"], vector["K2"])


@pytest.mark.parametrize("vector", named("handshakes"))
def test_data_vector(vector):
    ends = Ends(vector)
    sessions = {side: ends.session(side) for side in SIDES}
    for data in vector["data"]:
        sender, receiver = sessions[data["from"]], sessions[SIDES[data["from"] == "initiator"]]
        plaintext, message = octets(data["plaintext"]), octets(data["message"])
        sender.seal_batch([b""] * (data["counter"] - sender._next), 0.0)
        assert sender.seal_batch([plaintext], 0.0) == [message], data["name"]
        assert receiver.open_batch_untrusted([message], 0.0).plaintexts == [plaintext], data["name"]
        key = octets(vector["K1" if data["from"] == "initiator" else "K2"])
        made = reference.data(
            reference.profile(vector["profile"]), key, receiver.local_index, data["counter"], plaintext
        )
        assert made == message, data["name"]


def test_handshakes_are_of_every_profile_with_and_without_a_preshared_key():
    seen = {(vector["profile"], vector["Q"] != "00" * 32) for vector in HANDSHAKES.values()}
    assert {name for name, _ in seen} == {vector["name"] for vector in VECTORS["profiles"]}
    assert len(seen) == len(HANDSHAKES)
    assert {("wireguard", True), ("wireguard", False)} < seen


# --- cookies


@pytest.mark.parametrize("vector", named("cookies"))
def test_cookie_vector(vector):
    handshake = HANDSHAKES[vector["handshake"]]
    ends = Ends(handshake)
    message = ends.create_initiation().message
    asker, answerer = SIDES if vector["answered"] == "initiation" else SIDES[::-1]
    if vector["answered"] == "response":
        message, _ = ends.create_response(ends.consume_initiation(message))
    checker = CookieChecker(
        ends.profile, octets(handshake[answerer]["public"]), drawn(octets(vector["secret"]), octets(vector["nonce"]))
    )
    source = ip_address(vector["address"]).packed + struct.pack(">H", vector["port"])
    assert source.hex() == vector["source"]
    assert checker.create_reply_untrusted(message, source, 0.0).hex() == vector["message"]
    assert cookie.mac(octets(vector["secret"]), source).hex() == vector["cookie"]
    ends.remotes[asker].jar.consume_reply_untrusted(ends.profile, octets(vector["message"]), 0.0)
    later = vector["later"]
    again = create_initiation(
        ends.locals[asker],
        ends.remotes[asker],
        sender=later["index"],
        timestamp=octets(later["timestamp"]),
        now=1.0,
        random=drawn(octets(later["ephemeral_private"])),
    )
    assert again.message.hex() == later["message"]
    assert checker.proves_source_untrusted(octets(later["message"]), source, 1.0)


@pytest.mark.parametrize("vector", named("cookies"))
def test_cookie_vector_from_the_text(vector):
    handshake = HANDSHAKES[vector["handshake"]]
    asker, answerer = SIDES if vector["answered"] == "initiation" else SIDES[::-1]
    value = reference.MAC(octets(vector["secret"]), octets(vector["source"]))
    assert value.hex() == vector["cookie"]
    made = reference.cookie_message(
        reference.profile(handshake["profile"]),
        octets(handshake[vector["answered"]]["message"]),
        Spub_us=octets(handshake[answerer]["public"]),
        cookie=value,
        nonce=octets(vector["nonce"]),
    )
    assert made.hex() == vector["message"]
    later = vector["later"]
    static, peer = octets(handshake[asker]["private"]), octets(handshake[answerer]["private"])
    ephemeral, label = octets(later["ephemeral_private"]), octets(later["timestamp"])
    again = reference.Given(
        reference.profile(handshake["profile"]),
        *(static, ephemeral, later["index"]),
        *(peer, b"", 0),
        octets(handshake["Q"]),
        label,
    )
    assert reference.initiation(again, value).message.hex() == later["message"]


# --- what is sealed


@pytest.mark.parametrize("vector", named("plaintexts"))
def test_plaintext_vector(vector):
    packets, most = [octets(packet) for packet in vector["packets"]], vector["max_plaintext"]
    payload = (
        BarePayload(max_packet=most)
        if vector["mode"] == "wireguard"
        else KindPayload(max_packet=1518, max_plaintext=most, ethernet=vector["mode"] == "tap")
    )
    assert [bytes(plaintext).hex() for plaintext in payload.pack(packets)] == vector["plaintexts"]
    unpacked = payload.unpack_untrusted([octets(plaintext) for plaintext in vector["plaintexts"]])
    assert [bytes(packet) for packet in unpacked.packets] == packets
    assert not payload.drops


@pytest.mark.parametrize("vector", named("controls"))
def test_control_vector(vector):
    messages, body = [control_message(**fields) for fields in vector["messages"]], octets(vector["body"])
    payload = KindPayload(max_packet=1400, max_plaintext=1420, ethernet=False)
    assert payload.control(body).hex() == vector["plaintext"]
    (sealed,) = payload.unpack_untrusted([octets(vector["plaintext"])]).control
    assert controlchannel.decode_untrusted(sealed) == (messages, [Reason(fault) for fault in vector["faults"]])
    if not vector["faults"]:
        assert controlchannel.encode(messages) == body
        assert reference.control(*values(vector["messages"])).hex() == vector["plaintext"]


def control_message(type: str, **fields) -> controlchannel.ControlMessage:
    if type == "HELLO":
        networks = tuple(map(ip_network, fields["allowed_ips"]))
        return Hello(octets(fields["epoch"]), fields["mtu"], fields["mode"], networks, fields["complete"])
    return {"PROBE": Probe, "ECHO": Echo, "GOODBYE": Goodbye}[type](**fields)


def values(messages: list[dict]):
    """Type and value of each message, as the text has them."""
    for fields in messages:
        if fields["type"] == "HELLO":
            head = struct.pack(">HBB", fields["mtu"], fields["mode"] == "tap", not fields["complete"])
            yield 1, octets(fields["epoch"]) + head + b"".join(map(listed, map(ip_network, fields["allowed_ips"])))
        elif fields["type"] == "PROBE":
            yield 2, struct.pack(">I", fields["identifier"]).ljust(fields["size"], b"\0")
        elif fields["type"] == "ECHO":
            yield 3, struct.pack(">IH", fields["identifier"], fields["size"])
        else:
            yield 4, b""


def listed(network) -> bytes:
    used = -(-network.prefixlen // 8)
    return bytes([network.version, network.prefixlen]) + network.network_address.packed[:used]


# --- the text


def test_the_constants_of_the_text_are_those_of_the_code():
    stated = dict(re.findall(r"^\| ([A-Z_]+) \| (\d[^|]*?) \|", SECTION, flags=re.M))
    known = {name: value for module in (const, cookie, tai64n) for name, value in vars(module).items()}
    assert len(stated) == 16
    assert {name: number(value) for name, value in stated.items()} == {name: known[name] for name in stated}


def number(text: str) -> float:
    """What a cell like `5 s`, `1/3 s` or `2^64 - 8130` says."""
    terms = re.fullmatch(r"(\d+)\^(\d+)(?: - (\d+))?", text)
    if terms is not None:
        return int(terms[1]) ** int(terms[2]) - int(terms[3] or 0)
    numerator, _, denominator = text.removesuffix(" s").partition("/")
    return float(numerator) / float(denominator or 1)


def test_the_layouts_of_the_text_have_the_lengths_of_the_code():
    for kind, most in (("Initiation", 148), ("Response", 92), ("Cookie", 64)):
        table = re.search(rf"^{kind}, {most} bytes.*?:\n\n(.*?)\n\n", SECTION, flags=re.M | re.S)
        rows = [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", table[1], flags=re.M)]
        assert all(at + size == after for (at, size), (after, _) in itertools.pairwise(rows))
        assert sum(rows[-1]) == most == wire.LENGTHS[MessageType[kind.upper()]]


def test_the_first_hashes_of_the_text_are_those_of_the_vectors():
    hashes = set(re.findall(r"`([0-9a-f]{64})`", SECTION))
    wireguard = next(vector for vector in VECTORS["profiles"] if vector["name"] == "wireguard")
    assert hashes == {vector["ck"] for vector in VECTORS["profiles"]} | {wireguard["h"]}


def test_the_longest_hello_is_as_long_as_the_text_says():
    networks = [ip_network(f"fd00:{n:x}::1/128") for n in range(65)]
    body = controlchannel.encode([Hello(bytes(8), 1400, MODES[0], tuple(networks)), Probe(0)])
    plaintext = KindPayload(max_packet=1400, max_plaintext=1420, ethernet=False).control(body)
    most = wire.LEAST_DATA_BYTES + len(plaintext)
    assert f"at most {most:,}\nbytes" in SECTION


def test_a_type_word_tells_what_is_spoken():
    for vector in VECTORS["profiles"]:
        for kind, word in vector["type_words"].items():
            assert spoken_untrusted(octets(word)) == (MessageType[kind.upper()], ours(vector["name"]).settings)
