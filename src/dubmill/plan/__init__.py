"""Predicts memory, disk, time and cost of a run from its parameters, before a GPU is paid for.

architecture  sizes of a backbone's modules
layers        the transformer as a list of matrix products
work          what each GPU step computes
memory        GPU memory of a step; fit: which savings make it fit
host          CPU memory and disk of each step's task
disk          what a run leaves on disk
tables        a plan as tables and as JSON

Only `sizes` imports torch: it builds the modules on torch's meta device, and tests compare the counts with them.
"""
