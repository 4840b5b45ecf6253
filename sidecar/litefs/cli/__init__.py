"""The command line, the configuration, and the supervisor that starts the two processes.

Here: parsing, wiring and what a person sees on a terminal.
Not here: anything that replicates, stores or serves; the lower layers do.
"""
