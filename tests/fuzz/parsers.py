"""What reads the bytes of others, and the inputs for it.

A parser here is a function that makes `count` inputs, gives them in, and returns how often each outcome was seen.
What it is fed with is noise, or true and damaged. An input that makes it raise anything, or that breaks one of the
assertions, is a bug.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from random import Random

from tests.fuzz.damage import damaged
from tests.fuzz.plaintexts import true_bodies, true_plaintexts
from tests.fuzz.tunnels import Pair
from tests.proto.ends import public
from tunneld.config import load
from tunneld.keys import BadKey, decode, encode
from tunneld.proto import controlchannel
from tunneld.proto.allowedips import AllowedIPs
from tunneld.proto.const import MAX_PACKET_BYTES, PREFIX_BYTES
from tunneld.proto.controlchannel import decode_untrusted
from tunneld.proto.errors import BadPacket, ConfigErrors, Reason
from tunneld.proto.framing import StreamDecoder, split_untrusted
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.switch import Switch

Outcomes = Counter[str]
Parser = Callable[[Random, int], Outcomes]

ROOT = Path(__file__).resolve().parents[2]
MTU = 1400


def datagrams(choose: Random, count: int) -> Outcomes:
    """Datagrams of a stranger to both ends of a tunnel that is in use and in the middle of a new handshake."""
    pair = Pair.over_datagrams(choose)
    for _ in range(count):
        pair.receive_from_stranger()
    pair.finish()
    return pair.outcomes()


def streams(choose: Random, count: int) -> Outcomes:
    """First messages of strangers on new connections, and what an attacker puts into one that is in use."""
    pair = Pair.over_streams(choose)
    for _ in range(count):
        pair.receive_on_connection()
    pair.finish()
    return pair.outcomes()


def sealed(choose: Random, count: int) -> Outcomes:
    """Data messages of a peer that is hostile: it has the keys, and seals what it likes."""
    pair = Pair.over_datagrams(choose)
    outcomes: Outcomes = Counter()
    for _ in range(count):
        pair.receive_from_hostile_peer()
        if not pair.in_use:  # it said goodbye
            outcomes += pair.outcomes()
            pair = Pair.over_datagrams(choose)
    pair.finish()
    return outcomes + pair.outcomes()


def inner(choose: Random, count: int) -> Outcomes:
    """Plaintexts, and what routes the packets in them."""
    payloads = (
        BarePayload(max_packet=MTU),
        KindPayload(max_packet=MTU, max_plaintext=MTU + 40, ethernet=False),
        KindPayload(max_packet=MTU + 18, max_plaintext=MTU + 40, ethernet=True),
    )
    table: AllowedIPs[str] = AllowedIPs()
    table.insert([ip_network("10.0.0.0/8"), ip_network("fd00::/8")], "peer")
    switch = Switch("device")
    switch.add("peer", 0.0)
    outcomes: Outcomes = Counter()
    true = list(true_plaintexts())
    for number in range(count):
        plaintext = damaged(choose, choose.choice(true), true)
        payload = choose.choice(payloads)
        counters = choose.choice((None, [choose.getrandbits(64)]))
        held = payload.unpack_untrusted([memoryview(bytearray(plaintext))], counters)
        least, most = (14, MTU + 18) if payload is payloads[2] else (20, MTU)
        for packet in held.packets:
            assert least <= len(packet) <= most
            if payload is payloads[2]:
                outcomes[f"switched {forwarded(switch, packet, number / 1e5)}"] += 1
            else:
                assert packet[0] >> 4 in (4, 6)
                outcomes[f"from {table.source_untrusted(packet)}, to {table.destination(packet)}"] += 1
        table.destination(plaintext)
        table.source_untrusted(plaintext)
        forwarded(switch, memoryview(plaintext), number / 1e5)
        outcomes["control"] += len(held.control)
    return outcomes + total(payload.drops for payload in payloads)


def forwarded(switch: Switch[str], frame: memoryview, now: float) -> str:
    try:
        return " ".join(switch.forward_untrusted(frame, "peer", now))
    except BadPacket as bad:
        return bad.reason.value


def control(choose: Random, count: int) -> Outcomes:
    """Bodies of the control channel."""
    outcomes: Outcomes = Counter()
    true = list(true_bodies())
    for _ in range(count):
        body = b"".join(choose.choices(true, k=choose.choice((1, 2, 20))))
        messages, faults = decode_untrusted(memoryview(damaged(choose, body, true)))
        assert len(messages) + len(faults) <= controlchannel.MOST_MESSAGES + 1
        assert decode_untrusted(controlchannel.encode(messages)) == (messages, [])
        outcomes.update(type(message).__name__ for message in messages)
        outcomes.update(fault.value for fault in faults)
    return outcomes


def framing(choose: Random, count: int) -> Outcomes:
    """Streams cut at random into pieces, and datagrams, with lengths of all kinds."""
    outcomes: Outcomes = Counter()
    decoder, model = StreamDecoder(capacity=PREFIX_BYTES + MAX_PACKET_BYTES), b""
    for _ in range(count):
        length = choose.choice(
            (0, 1, 2, 31, 32, 148, *choose.choices(range(2000), k=30), choose.randrange(65536), 65535)
        )
        piece = struct.pack("!H", length) + choose.randbytes(choose.choice((length, choose.randrange(length + 1))))
        records, fault = split_untrusted(piece)
        outcomes["whole" if fault is None else fault.reason.value] += 1
        assert sum(PREFIX_BYTES + len(record) for record in records) <= len(piece)
        model += piece
        at = 0
        while at < len(piece):
            space = decoder.space()
            assert space
            size = min(len(piece) - at, len(space), choose.choice((1, 2, 3, 500, 70_000)) if at < 50 else 70_000)
            space[:size] = piece[at : at + size]
            at += size
            records = decoder.received_untrusted(size)
            while decoder.more:
                records += decoder.received_untrusted(0)
            for record in records:
                assert record == model[PREFIX_BYTES : PREFIX_BYTES + len(record)]
                assert model[:PREFIX_BYTES] == struct.pack("!H", len(record))
                model = model[PREFIX_BYTES + len(record) :]
                outcomes["record"] += 1
        assert decoder.pending == len(model)
    return outcomes


def keys(choose: Random, count: int) -> Outcomes:
    """Texts of keys."""
    outcomes: Outcomes = Counter()
    for _ in range(count):
        true = encode(choose.randbytes(32)) + choose.choice((b"", b"\n", b"\r\n", b" \t\0"))
        text = choose.choice((true, damaged(choose, true, [true])))
        found = key_of(text)
        if isinstance(found, str):
            assert found.isprintable()
            outcomes["bad"] += 1
        else:
            assert len(found) == 32
            assert text.startswith(encode(found))
            outcomes["key"] += 1
    return outcomes


def key_of(text: bytes) -> bytearray | str:
    """The key, or why it is none."""
    try:
        return decode(memoryview(text))
    except BadKey as bad:
        return str(bad)


def config(choose: Random, count: int) -> Outcomes:
    """Configuration files: the samples, with lines mixed, values of one key given to another, and characters lost."""
    samples = [filled_in(path.read_text()) for path in sorted((ROOT / "configs").glob("*.toml"))]
    lines = [line for sample in samples for line in sample.splitlines()]
    values = [line.partition("= ")[2] for line in lines if "= " in line]
    values += [
        "[]",
        "{}",
        "-1",
        "1e400",
        "nan",
        "true",
        '""',
        '"\\u0000"',
        "1979-05-27",
        "[[[]]]",
        '"höst:1"',
        '"[::1]:70000"',
        "'''",
        '"\\u202e"',
    ]
    outcomes: Outcomes = Counter()
    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/fuzz.toml", "wb") as file:
        path = Path(file.name)
        path.chmod(0o644)
        for _ in range(count):
            file.seek(0)
            file.write(changed(choose, choose.choice(samples), lines, values))
            file.truncate()
            file.flush()
            faults = faults_of(path)
            assert all(fault.isprintable() for fault in faults), faults
            outcomes["faults" if faults else "good"] += 1
    return outcomes


def filled_in(sample: str) -> str:
    """A sample with keys in the places for them, and without its comments, so that it is faster to read."""
    said = (line.partition(" #")[0].rstrip() for line in sample.splitlines() if line[:1] not in ("", "#"))
    places = re.split(r'(?<=public_key = ").*?(?=")', "\n".join(said))
    return "".join(
        f"{encode(public(str(number))).decode() if number else ''}{text}" for number, text in enumerate(places)
    )


def faults_of(path: Path) -> list[str]:
    """What is wrong with a configuration file, a line each."""
    try:
        load(path, read_keys=False)
    except ConfigErrors as errors:
        return [*map(str, errors.errors)] or ["\0 an error that says nothing"]
    return []


def changed(choose: Random, sample: str, lines: list[str], values: list[str]) -> bytes:
    text = sample.splitlines()
    for _ in range(choose.randrange(4)):
        at = choose.randrange(len(text))
        way = choose.randrange(4)
        if way == 0:
            text[at] = choose.choice(lines)
        elif way == 1 and "= " in text[at]:
            text[at] = f"{text[at].partition('= ')[0]}= {choose.choice(values)}"
        elif way == 2:
            text.insert(at, choose.choice(lines))
        elif len(text) > 1:
            del text[at]
    written = "\n".join(text).encode()
    return damaged(choose, written, [written]) if choose.random() < 0.3 else written


def total(counters: Iterator[Counter[Reason]]) -> Outcomes:
    return Counter({reason.value: count for drops in counters for reason, count in drops.items()})


PARSERS: dict[str, Parser] = {
    parser.__name__: parser for parser in (datagrams, streams, sealed, inner, control, framing, keys, config)
}

# Few enough that a failure is quickly had again, enough that what a pair of tunnels costs is nothing beside them.
INPUTS_PER_ROUND = 2000


def one_round(name: str, seed: int, number: int) -> Outcomes:
    """One round of a parser, the same for the same `seed` and `number`."""
    return PARSERS[name](Random(f"{name} {seed} {number}"), INPUTS_PER_ROUND)
