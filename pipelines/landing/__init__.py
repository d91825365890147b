"""Payload bytes into staging: extract, validate, store bodies, publish versions."""
