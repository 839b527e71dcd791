"""Our Noise against that of the package noiseprotocol, which was written from the same specification by others."""

import pytest
from noise.connection import Keypair, NoiseConnection

from tests.proto.keys import PSK, numbers
from tunneld.proto.noise import CipherState, HandshakeState, key_pair
from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, tunneld_profile

pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set:UserWarning")

NAMES = [f"Noise_{p}_25519_{c}_BLAKE2s" for p in ("IK", "IKpsk2") for c in ("ChaChaPoly", "AESGCM")]
PROLOGUES = [
    WIREGUARD.prologue,
    *(tunneld_profile(t, m, c).prologue for t in ("udp", "tcp") for m in MODES for c in CIPHERS),
]
STATIC = {True: numbers(1)(32), False: numbers(2)(32)}
EPHEMERAL = {True: numbers(3)(32), False: numbers(4)(32)}


def ours(name, prologue, *, initiator):
    return HandshakeState(
        name,
        initiator=initiator,
        prologue=prologue,
        s=key_pair(STATIC[initiator]),
        rs=key_pair(STATIC[False]).public if initiator else b"",
        psk=PSK if "psk" in name else b"",
        random=lambda count: EPHEMERAL[initiator][:count],
    )


def theirs(name, prologue, *, initiator):
    connection = NoiseConnection.from_name(name.encode())
    connection.set_prologue(prologue)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, STATIC[initiator])
    connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, EPHEMERAL[initiator])
    if initiator:
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, key_pair(STATIC[False]).public)
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    if "psk" in name:
        connection.set_psks(PSK)
    connection.start_handshake()
    return connection


@pytest.mark.parametrize("prologue", PROLOGUES, ids=bytes.decode)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("initiator", [True, False], ids=["we-begin", "they-begin"])
def test_both_make_the_same_messages_and_read_each_other(name, prologue, initiator):
    mine, other = ours(name, prologue, initiator=initiator), theirs(name, prologue, initiator=not initiator)
    my_twin, other_twin = ours(name, prologue, initiator=not initiator), theirs(name, prologue, initiator=initiator)
    for number, payload in enumerate((b"a timestamp", b"")):
        if initiator == (number == 0):
            message = mine.write_message(payload)
            assert other.read_message(message) == payload
            assert other_twin.write_message(payload) == message
            assert my_twin.read_message_untrusted(message) == payload
        else:
            message = bytes(other.write_message(payload))
            assert mine.read_message_untrusted(message) == payload
            assert my_twin.write_message(payload) == message
            assert other_twin.read_message(message) == payload

    assert mine.handshake_hash == my_twin.handshake_hash == other.get_handshake_hash()
    sending, receiving = (CipherState(name.split("_")[3], key) for key in ordered(mine.split(), initiator))
    for number in range(5):
        text = bytes([number]) * 100 * number
        assert other.decrypt(sending.encrypt_with_ad(b"", text)) == text
        assert receiving.decrypt_with_ad(b"", other.encrypt(text)) == text


def ordered(keys, initiator):
    return keys if initiator else keys[::-1]
