"""The byte formats that both ends share."""
