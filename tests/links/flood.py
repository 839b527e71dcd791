"""A process that opens connections faster than anybody should: each says one thing and is left to the other end.

python flood.py HOST PORT NETWORKS RATE, and on standard input what each connection says. They come from so many
addresses of the loopback, RATE a second, until the process is ended.
"""

import socket
import sys
import time
from collections import deque
from contextlib import suppress

# So many stay open; the end that they come to has let the others go by then.
OPEN = 300
IP_BIND_ADDRESS_NO_PORT = 24


def flood(host: str, port: int, networks: int, rate: float, said: bytes) -> None:
    came: deque[socket.socket] = deque()
    began, number = time.perf_counter(), 0
    while True:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.1.{number % networks // 250}.{number % networks % 250 + 1}", 0))
        sock.setblocking(False)
        sock.connect_ex((host, port))
        with suppress(OSError):
            sock.send(said)
        came.append(sock)
        if len(came) > OPEN:
            came.popleft().close()
        number += 1
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))


if __name__ == "__main__":
    flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.stdin.buffer.read())
