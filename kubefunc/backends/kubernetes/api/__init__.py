"""Requests, streams and credentials: everything that talks to the API server. Only ``pool`` imports ``kubernetes``."""
