"""Random faults on a cluster under load, and a checker for what its clients saw.

Here belongs what makes a run: the network, the faults, the clients, the history. What one fault does is in
`tests/cluster`.
"""
