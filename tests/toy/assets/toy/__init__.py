"""Authors and their books: small tables with everything that a table can have, for the tests of the engine.

Fed by a library and a shop over HTTP, and by a shelf, which is a folder.
"""
