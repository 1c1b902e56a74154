"""Kubernetes objects as data: the manifests we send and views of what the server sends back. No I/O."""
