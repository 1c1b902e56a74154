"""Where payloads run."""
