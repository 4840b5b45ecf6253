"""Pure functions from a LiteFSCluster to what is put into the cluster.

Belongs here: spec in, manifest out. Does not: anything that asks the API server, a clock or chance.
"""
