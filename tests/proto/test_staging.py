import random
from collections import deque

from tunneld.proto.const import MAX_QUEUED_PACKETS, MAX_STAGED_PACKETS
from tunneld.proto.staging import MAX_QUEUED_BYTES, PORTION_BYTES, PORTION_PACKETS, Staging, portion


def packets(count, size=4):
    return [number.to_bytes(4, "big").ljust(size, b"\0") for number in range(count)]


def drained(staging):
    """All portions, in order."""
    found = []
    while portion := staging.portion():
        assert len(portion) <= PORTION_PACKETS
        assert sum(map(len, portion[:-1])) < PORTION_BYTES
        found += portion
    assert len(staging) == 0
    return found


def test_packets_come_out_in_order_and_in_portions():
    staging = Staging()
    assert staging.portion() == []
    assert staging.stage(packets(40)) == 0
    assert len(staging) == 40
    assert staging.portion() == packets(40)[:16]
    assert staging.portion() == packets(40)[16:32]
    assert staging.portion() == packets(40)[32:]
    assert len(staging) == 0


def test_a_portion_of_long_packets_is_shorter():
    staging = Staging()
    staging.stage(packets(8, 65_000))
    assert [len(staging.portion()) for _ in range(3)] == [3, 3, 2]


def test_without_keys_the_newest_128_stay():
    staging = Staging()
    assert staging.stage(packets(100)) == 0
    assert staging.stage(packets(300)) == 272
    assert drained(staging) == packets(300)[-MAX_STAGED_PACKETS:]


def test_without_room_the_oldest_256_stay():
    staging = Staging()
    assert staging.queue(packets(200)) == 0
    assert staging.queue(packets(100)) == 44
    assert drained(staging) == packets(200) + packets(100)[:56]
    assert MAX_QUEUED_PACKETS == 256


def test_without_room_half_a_mebibyte_stays_and_a_shorter_packet_still_fits():
    staging = Staging()
    assert staging.queue(packets(9, 60_000)) == 1
    assert staging.queue(packets(1, MAX_QUEUED_BYTES - 8 * 60_000 + 1)) == 1
    assert staging.queue(packets(1, MAX_QUEUED_BYTES - 8 * 60_000)) == 0
    assert staging.queue([b""]) == 0
    assert staging.queue([b"1"]) == 1
    assert len(drained(staging)) == 10
    assert staging.queue(packets(1, MAX_QUEUED_BYTES)) == 0


def test_what_waited_for_keys_may_wait_for_room_next():
    staging = Staging()
    staging.queue(packets(256))
    assert staging.stage(packets(1)) == 129
    assert staging.queue(packets(200)) == 72
    assert len(staging) == 256


def test_the_packets_are_copies():
    staging = Staging()
    buffer = bytearray(b"packet")
    staging.stage([memoryview(buffer)])
    staging.queue([buffer])
    buffer[:] = b"\0" * 6
    assert drained(staging) == [b"packet", b"packet"]


def test_a_purge_counts_what_it_drops_and_makes_room():
    staging = Staging()
    staging.queue(packets(8, 65_000))
    assert staging.purge() == 8
    assert staging.purge() == 0
    assert staging.queue(packets(8, 65_000)) == 0


def test_any_mixture_keeps_the_bounds_of_a_plain_queue():
    lots = random.Random(3)
    staging, plain, number = Staging(), deque(), 0
    for _ in range(3000):
        batch = [
            (number + at).to_bytes(4, "big").ljust(lots.choice((4, 4, 4, 1400, 65_000)), b"\0") for at in range(9)
        ]
        number += 9
        action = lots.choice(("stage", "queue", "queue", "portion", "purge" if lots.random() < 0.01 else "stage"))
        if action == "stage":
            plain += batch
            dropped = max(len(plain) - 128, 0)
            assert staging.stage(batch) == dropped
            for _ in range(dropped):
                plain.popleft()
        elif action == "queue":
            taken = []
            for packet in batch:
                if len(plain) < 256 and sum(map(len, plain)) + len(packet) <= 512 * 1024:
                    plain.append(packet)
                    taken.append(packet)
            assert staging.queue(batch) == 9 - len(taken)
        elif action == "portion":
            assert staging.portion() == [plain.popleft() for _ in range(portion_length(plain))]
        else:
            assert staging.purge() == len(plain)
            plain.clear()
        assert len(staging) == len(plain)


def portion_length(plain):
    octets = 0
    for count, packet in enumerate(plain):
        if count == 16 or octets >= 128 * 1024:
            return count
        octets += len(packet)
    return len(plain)


def test_a_portion_of_messages_ends_behind_the_one_that_fills_it():
    for size in (1, 1000, PORTION_BYTES - 1, PORTION_BYTES, PORTION_BYTES + 1):
        for count in range(4):
            messages = [bytes(size)] * count
            assert portion(messages) == min(count, -(-PORTION_BYTES // size))
    assert portion([bytes(65_535)] * 16) == 3
