"""What the bytes mean. Pure: no asyncio, socket, os, time, random, logging or pyroute2 in this package.

Time comes in as `now` (CLOCK_BOOTTIME seconds), randomness as a function. Functions that read a peer's
bytes end in `_untrusted` and raise nothing but `BadPacket`.
"""
