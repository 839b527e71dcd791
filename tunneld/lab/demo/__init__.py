"""The demo: six hosts, four tunnels, real daemons, and what people do with a tunnel, a step at a time.

play: the whole of it. tun, trouble, plain, tap, wireguard: its scenes. scene, wire: what they have in common.
keep: what --keep leaves, and how to get in. screen: how it looks.
"""
