"""Warm workers: a Pod that stays, and takes call after call over one exec stream."""
