"""Hosts in network namespaces, on one machine and without root where it allows that. Used by demo, bench and tests.

Lab: hosts and what joins them; everything in it ends with it. Host: a namespace and its processes.
Daemon: a real `tunneld run` in a host. Impairment: what a wire does to what passes; a relay applies it.
Capture: what an interface of a host sees. Traffic: what people send through a tunnel, measured and verified.
"""
