"""Versions from staging into the tables of a domain, by SELECT files."""
