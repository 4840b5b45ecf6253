"""The HTTP API of a node: what replicas, operators, tools and monitoring ask of it.

Here: the FastAPI application, the body of a replication stream, transfer of whole databases, status,
events, metrics, the limits on what a peer may do to the server, and exceptions as HTTP statuses.
Not here: the role, the link to the filesystem process, anything that applies data (node/ does), and the
client side of replication.
"""
