"""Models and media: what exists, where it is published, what it was made with.

Fed by model hubs and by folders of workflow graphs; every other domain refers to it by content (sha256) or by name.
"""
