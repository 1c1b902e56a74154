"""From the bytes that came out of a Pod to values and exceptions. What is unpickled here was verified before."""
