"""The lease that makes one node the primary: the protocol, and who keeps it (the configuration, Consul).

Here: acquiring, renewing, handing over and watching a lease, and the time until which it is certain.
Not here: what a node does about it (node/role_driver.py), and who deserves it (node/election.py).
"""
