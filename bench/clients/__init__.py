"""Client programs of the workloads: an application that uses sqlite3 and nothing of this project.

Each is run as a program in its own interpreter and prints one JSON object.
Not here: starting and judging them, which `bench/workload.py` does.
"""
