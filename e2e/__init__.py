"""A real Kubernetes cluster on one machine, and the tests that run on it.

Here belong the cluster (`machine`, `cluster`), its tools and images, and tests that need a kubelet. What can be seen
without one is tested in `tests/`.
"""
