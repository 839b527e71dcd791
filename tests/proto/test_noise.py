import json
import os
from copy import copy
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from tests.conftest import missing
from tests.proto.keys import LOW_ORDER, PSK, numbers
from tunneld.proto.noise import (
    CipherState,
    HandshakeState,
    KeyPair,
    SymmetricState,
    UnusableKeyError,
    blake2s,
    dh,
    hkdf,
    key_pair,
)

ROOT = Path(__file__).resolve().parents[2]
VECTORS = Path(os.environ.get("TUNNELD_VECTORS", ROOT.parent / "shared" / "vectors"))
NAMES = [f"Noise_{p}_25519_{c}_BLAKE2s" for p in ("IK", "IKpsk2") for c in ("ChaChaPoly", "AESGCM")]
PSK_NAMES = NAMES[2:]


def ends(name, *, prologues=(b"p", b"p"), psks=(PSK, PSK), seed=0):
    """An initiator and a responder that know each other."""
    random = numbers(seed)
    mine, theirs = key_pair(random(32)), key_pair(random(32))
    first = HandshakeState(
        name, initiator=True, prologue=prologues[0], s=mine, rs=theirs.public, psk=psks[0], random=random
    )
    second = HandshakeState(name, initiator=False, prologue=prologues[1], s=theirs, psk=psks[1], random=random)
    return first, second


def published():
    """The vectors of our names in the files of VECTORS, which have the format of cacophony, snow and noise-c."""
    for path in sorted([*VECTORS.glob("*.json"), *VECTORS.glob("*.txt")]):
        for candidate in json.loads(path.read_text()).get("vectors", []):
            name = candidate.get("protocol_name", candidate.get("name"))
            if name in NAMES:
                yield pytest.param(name, candidate, id=f"{path.stem}-{name}")


PUBLISHED = list(published())


def end_of_vector(name, vector, side):
    fields = {key.removeprefix(f"{side}_"): value for key, value in vector.items() if key.startswith(side)}
    return HandshakeState(
        name,
        initiator=side == "init",
        prologue=bytes.fromhex(fields["prologue"]),
        s=key_pair(bytes.fromhex(fields["static"])),
        rs=bytes.fromhex(fields.get("remote_static", "")),
        psk=bytes.fromhex((fields.get("psks") or [""])[0]),
        random=lambda count: bytes.fromhex(fields["ephemeral"])[:count],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_published_vector_is_at_hand(name):
    if name not in [vector.values[0] for vector in PUBLISHED]:
        missing(f"no vector of {name} in {VECTORS}; set TUNNELD_VECTORS")


@pytest.mark.parametrize(("name", "expected"), PUBLISHED)
def test_the_published_vectors_come_out_byte_for_byte(name, expected):
    first, second = (end_of_vector(name, expected, side) for side in ("init", "resp"))
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in expected["messages"]]

    for (payload, message), writer, reader in zip(messages, (first, second), (second, first), strict=False):
        assert writer.write_message(payload) == message
        assert reader.read_message_untrusted(message) == payload

    assert first.handshake_hash == second.handshake_hash
    assert first.handshake_hash.hex() == expected.get("handshake_hash", first.handshake_hash.hex())
    keys = first.split()
    assert keys == second.split()
    cipher = name.split("_")[3]
    senders = [CipherState(cipher, key) for key in keys]
    receivers = [copy(sender) for sender in senders]
    for number, (payload, message) in enumerate(messages[2:]):
        assert senders[number % 2].encrypt_with_ad(b"", payload) == message
        assert receivers[number % 2].decrypt_with_ad(b"", message) == payload


@pytest.mark.parametrize("name", NAMES)
def test_the_responder_learns_who_the_initiator_is(name):
    first, second = ends(name)
    second.read_message_untrusted(first.write_message(b"payload"))
    assert second.rs == key_pair(numbers(0)(32)).public


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_finish_with_the_same_transcript(name):
    first, second = ends(name)
    begun = first.handshake_hash
    second.read_message_untrusted(first.write_message(b""))
    first.read_message_untrusted(second.write_message(b""))
    assert first.handshake_hash == second.handshake_hash != begun
    assert first.split() == second.split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0, 31, 32, 79, 80, 95])
def test_a_message_that_cannot_be_read_leaves_everything_as_it_was(name, position):
    first, second = ends(name)
    message = first.write_message(b"")
    bad = bytearray(message)
    bad[position] ^= 1
    with pytest.raises(InvalidTag):
        second.read_message_untrusted(bytes(bad))
    assert second.rs == b""
    assert second.read_message_untrusted(message) == b""

    answer = second.write_message(b"hello")
    bad = bytearray(answer)
    bad[position % len(answer)] ^= 1
    with pytest.raises(InvalidTag):
        first.read_message_untrusted(bytes(bad))
    assert first.read_message_untrusted(answer) == b"hello"
    assert first.split() == second.split()


@pytest.mark.parametrize("name", PSK_NAMES)
def test_another_psk_fails_at_the_second_message(name):
    first, second = ends(name, psks=(PSK, bytes(32)))
    second.read_message_untrusted(first.write_message(b""))
    with pytest.raises(InvalidTag):
        first.read_message_untrusted(second.write_message(b""))


def test_another_prologue_fails_at_the_first_message():
    first, second = ends(NAMES[0], prologues=(b"p", b"q"))
    with pytest.raises(InvalidTag):
        second.read_message_untrusted(first.write_message(b""))


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_a_key_of_low_order_is_refused(public):
    with pytest.raises(UnusableKeyError):
        dh(key_pair(numbers(1)(32)), public)


# 2^255 - 19 plus the two points of order 8, and twice 2^255 - 19 with its neighbours: often listed as of low order,
# which they are only where the top bit counts. RFC 7748 has it ignored, and what is left is a point like others.
ONCE_LISTED = (
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)


@pytest.mark.parametrize("text", ONCE_LISTED)
def test_keys_that_are_of_low_order_only_with_their_top_bit_are_keys_like_others(text):
    public = bytes.fromhex(text)
    secrets = {dh(key_pair(numbers(seed)(32)), public) for seed in range(20)}
    assert len(secrets) == 20
    assert secrets == {
        dh(key_pair(numbers(seed)(32)), public[:31] + bytes([public[31] & 0x7F])) for seed in range(20)
    }


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
@pytest.mark.parametrize("name", NAMES)
def test_a_zero_secret_is_refused_in_every_place_of_the_handshake_and_changes_nothing(name, public):
    first, second = ends(name)
    message = first.write_message(b"")
    with pytest.raises(UnusableKeyError):  # es
        second.read_message_untrusted(public + message[32:])

    liar = HandshakeState(
        name, initiator=True, prologue=b"p", s=KeyPair(key_pair(numbers(4)(32)).private, public),
        rs=second._s.public, psk=PSK, random=numbers(5),
    )  # fmt: skip
    with pytest.raises(UnusableKeyError):  # ss, of a static key that is sealed as it should be
        second.read_message_untrusted(liar.write_message(b""))
    assert second.rs == b""

    assert second.read_message_untrusted(message) == b""
    answer = second.write_message(b"")
    with pytest.raises(UnusableKeyError):  # ee, and se after it has the same ephemeral key
        first.read_message_untrusted(public + answer[32:])
    assert first.read_message_untrusted(answer) == b""
    assert first.split() == second.split()

    with pytest.raises(UnusableKeyError):  # es, of the initiator
        HandshakeState(
            name, initiator=True, prologue=b"", s=second._s, rs=public, psk=PSK, random=numbers(6)
        ).write_message(b"")


def test_keys_exist_only_after_both_messages():
    first, second = ends(NAMES[2])
    second.read_message_untrusted(first.write_message(b""))
    for end in (first, second):
        with pytest.raises(AssertionError):
            end.split()


def test_a_handshake_that_gave_its_keys_holds_no_secret_and_gives_none_again():
    for end in finished():
        ephemeral, chaining_key = end._e, end._symmetric._chaining_key
        keys = end.split()
        left = [*vars(end).values(), *vars(end._symmetric).values()]
        assert not any(secret in left for secret in (ephemeral, chaining_key, PSK, *keys))
        assert not any(isinstance(value, CipherState) for value in left)
        assert len(end.handshake_hash) == 32
        with pytest.raises(AttributeError):
            end.split()


def finished():
    first, second = ends(NAMES[2])
    second.read_message_untrusted(first.write_message(b""))
    first.read_message_untrusted(second.write_message(b""))
    return first, second


def test_a_key_pair_does_not_show_its_private_half():
    private = numbers(1)(32)
    assert private.hex() not in repr(key_pair(private))
    assert repr(private) not in repr(key_pair(private))


def test_hkdf_gives_the_first_keys_of_the_longer_form():
    three = hkdf(b"c" * 32, b"m", 3)
    assert hkdf(b"c" * 32, b"m", 2) == three[:2]
    assert len({*three, b"c" * 32}) == 4


@pytest.mark.parametrize(
    ("key", "material", "keys"),
    [
        (
            b"test-key", b"test-input",
            ("6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
             "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
             "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24"),
        ),
        (
            b"wireguard", b"wireguard",
            ("491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
             "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
             "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160"),
        ),
        (
            b"", b"",
            ("8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
             "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
             "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e"),
        ),
    ],
    ids=["test", "wireguard", "empty"],
)  # fmt: skip
def test_hkdf_gives_the_known_answers_of_wireguard_go(key, material, keys):
    for count in (1, 2, 3):
        assert [output.hex() for output in hkdf(key, material, count)] == list(keys[:count])


def test_blake2s_takes_its_input_in_pieces():
    # RFC 7693, appendix B.
    assert blake2s(b"a", b"", b"bc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"


def test_a_cipher_without_a_key_passes_text_through_as_the_specification_wants():
    cipher = CipherState("ChaChaPoly")
    assert cipher.decrypt_with_ad(b"ad", cipher.encrypt_with_ad(b"ad", b"text")) == b"text"


def test_a_copy_of_a_symmetric_state_goes_its_own_way():
    state = SymmetricState(NAMES[0])
    state.mix_key(b"material")
    twin = state.copy()
    assert [state.encrypt_and_hash(b"a"), state.encrypt_and_hash(b"b")] == [
        twin.encrypt_and_hash(b"a"),
        twin.encrypt_and_hash(b"b"),
    ]
    assert state.split() == twin.split()
