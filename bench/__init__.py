"""Measures LiteFS: every figure the README quotes is the output of a command of this package.

Here: workloads, the small client programs they run, targets, measuring and the table.
Not here: anything the product needs; and no figure that is not measured in the run that prints it.
"""
