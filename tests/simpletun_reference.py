"""simpletun, written anew from the description of its behaviour: the partner that `tunneld simpletun` must suit.

    python simpletun_reference.py -i IF (-s | -c ADDRESS) [-p PORT] [-u | -a] [-d]

It has the original's faults on purpose: everything blocks, every write is one write(2) whose count nobody checks,
there is no TCP_NODELAY, one client is served and its end is the end of the process, and so is a length of 0. Only
where the original writes past its buffer of 2000 bytes this aborts, loudly. It shares no line with tunneld.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import socket
import struct
import sys

BUFSIZE = 2000
PORT = 55555
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 0x0001, 0x0002, 0x1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="simpletun")
    parser.add_argument("-i", dest="interface", required=True)
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("-s", dest="server", action="store_true")
    role.add_argument("-c", dest="address")
    parser.add_argument("-p", dest="port", type=int, default=PORT)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("-u", dest="flags", action="store_const", const=IFF_TUN, default=IFF_TUN)
    mode.add_argument("-a", dest="flags", action="store_const", const=IFF_TAP)
    parser.add_argument("-d", dest="debug", action="store_true")
    args = parser.parse_args()

    tap = tun_alloc(args.interface, args.flags | IFF_NO_PI)
    tell(args, f"Successfully connected to interface {args.interface}")
    net = serve(args) if args.server else connect(args)
    copy(args, tap, net)


def tun_alloc(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode()[:15], flags))
    return fd


def serve(args: argparse.Namespace) -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", args.port))
    sock.listen(5)
    client, where = sock.accept()
    tell(args, f"SERVER: Client connected from {where[0]}")
    return client.detach()


def connect(args: argparse.Namespace) -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.connect((args.address, args.port))
    tell(args, f"CLIENT: Connected to server {args.address}")
    return sock.detach()


def copy(args: argparse.Namespace, tap: int, net: int) -> None:
    tap2net = net2tap = 0
    while True:
        ready, _, _ = select.select([tap, net], [], [])
        if tap in ready:
            packet = os.read(tap, BUFSIZE)
            tap2net += 1
            tell(args, f"TAP2NET {tap2net}: Read {len(packet)} bytes from the tap interface")
            os.write(net, struct.pack("!H", len(packet)))
            count = os.write(net, packet)
            tell(args, f"TAP2NET {tap2net}: Written {count} bytes to the network")
        if net in ready:
            prefix = read_n(net, 2)
            if not prefix:
                return
            net2tap += 1
            (length,) = struct.unpack("!H", prefix)
            if length > BUFSIZE:
                print(f"simpletun: a length of {length} overflows the buffer", file=sys.stderr, flush=True)
                os.abort()
            packet = read_n(net, length)
            tell(args, f"NET2TAP {net2tap}: Read {len(packet)} bytes from the network")
            count = os.write(tap, packet)
            tell(args, f"NET2TAP {net2tap}: Written {count} bytes to the tap interface")


def read_n(fd: int, count: int) -> bytes:
    """`count` bytes, or none when the stream ends before the last of them."""
    got = b""
    while len(got) < count:
        piece = os.read(fd, count - len(got))
        if not piece:
            return b""
        got += piece
    return got


def tell(args: argparse.Namespace, line: str) -> None:
    if args.debug:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
