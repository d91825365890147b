"""Applies versions from staging to the tables of a domain, by SELECT files.

    change_set ──evaluate──> incoming_<table> ──constraints──> rejected rows · apply ──> the domain's tables

Temporary tables, each dropped when its transaction ends, and read in this package alone:

- `change_set`: one row per record, with the version that is applied. `change_set_bodies`: the payloads that SELECTs
  read, with current counters. `change_set_observations`: the observations that are applied.
- `dependent_records`: records to add to the change set. `changes_of_applications`: what brings some of them.
- `editions`: the source and the digest of the SELECT files of each edition.
- `incoming_<table>`: what the SELECT files yield for a table.
- `referenced_<table>`: keys of a shared table to which rows of the change set referred before.
- `rejected_rows`: rows, and values of rows, that do not fit their table.
- `found_pending_rows`: keys that rows of this run are pending for.
- `found_aliases`: keys of rows that another row of their identity stands for.
- `conflict_losers`: rows that are not written, because another row has their key or a unique value.
"""
