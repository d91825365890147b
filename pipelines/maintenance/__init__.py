"""Removes data: what is older than the settings keep it (`retention`), and one record on request (`erasure`).

Temporary tables:
    erased_versions        the versions, with body and digest, of the record that is being erased
    erased_rows            keys of the rows that go with it, of applications and of sources
    forgotten_paths        the drift paths that only this record is known to have
"""
