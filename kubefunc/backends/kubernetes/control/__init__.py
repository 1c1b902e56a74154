"""What happens next to an attempt: watches and the clock in, requests and fetches out."""
