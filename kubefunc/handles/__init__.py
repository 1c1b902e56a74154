"""What a caller holds of what runs: calls, maps, gangs, streams."""
