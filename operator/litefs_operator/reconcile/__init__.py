"""What keeps a LiteFSCluster: observe, decide, act.

Belongs here: the records of what was seen, the pure functions from them to what is to be, and the loop that drives
both. Does not: how the API server, Consul or a node is asked; that is a module of its own each.
"""
