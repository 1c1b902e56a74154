"""The state of one Job made for a call or a map."""
