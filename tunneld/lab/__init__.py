"""Hosts in network namespaces: topology, impairment relay, sandbox. Used by the demo, the bench and the tests."""
