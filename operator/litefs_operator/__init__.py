"""The operator: puts the LiteFS sidecar into annotated pods.

Belongs here: what speaks to Kubernetes. Does not: anything of the sidecar; the two never import each other, and a test
holds the configuration that is rendered here against the sidecar's loader.
"""
