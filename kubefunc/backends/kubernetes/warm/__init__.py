"""Warm workers: Jobs that stay and take call after call, each over one exec stream."""
