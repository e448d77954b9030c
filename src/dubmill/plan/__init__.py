"""What a run will take, before anything is paid for: memory, time, disk and cost, from a count of the computation.

Nothing here imports torch: the counts are integers, which tests hold against modules on torch's meta device.
"""
