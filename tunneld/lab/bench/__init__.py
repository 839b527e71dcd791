"""The bench: what a tunnel carries, how fast and at what cost, beside the bare cable in the same run.

End: a process in a host that makes, takes and times traffic. Way: an address pair to measure, through a tunnel or
bare. Figure: one measured number. Sample: the figures of one way in one round. Round: every way once.
rounds: the whole of it. rig: the ways. measure: a sample. ends, remote: both sides of an end. report: how it looks.
"""
