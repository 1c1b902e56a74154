"""Where payloads run: on this machine, or on a Kubernetes cluster."""
