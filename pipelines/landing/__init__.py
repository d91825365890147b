"""Lands payload bytes in staging: extract, validate, store bodies, publish versions.

    extract, bulk_files ──> intake ──> land: validate ──> stage_bodies ──> deletions ──> publish

Temporary tables, of this package alone:
    classified   a row an arrival of the run: its result (created, updated, unchanged …), made by `publish`
    large_body   a body that is written in chunks, made by `stage_bodies`
"""
