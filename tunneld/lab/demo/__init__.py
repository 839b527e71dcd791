"""The demo: six hosts, two tunnels, four real daemons, and what people do with a tunnel, a step at a time.

play: the whole of it. tun, tap: its two scenes. keep: what --keep leaves, and how to get in. screen: how it looks.
"""
