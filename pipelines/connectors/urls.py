"""URLs as they may be stored and shown: without users and secrets."""

import re

PARAMETERS = re.compile(r"[?&][^?#\s\"'<>]*")
USER_IN_URL = re.compile(r"(?<=://)[^/@?#\s\"']+@")
PERHAPS_SECRET = re.compile("token|key|secret|sig|pass|login", re.IGNORECASE)
"""Parameters that are left out of what is logged and stored: rather too many than too few."""


def without_secrets(url: str) -> str:
    """A URL without user, fragment and secret parameters: it may be stored and shown."""
    return without_secrets_in_urls(url).partition("#")[0]


def without_secrets_in_urls(text: str, secret: re.Pattern[str] = PERHAPS_SECRET) -> str:
    """A text whose URLs name no user, and have no parameter with the name of a secret."""

    def clean(match: re.Match[str]) -> str:
        parameters = [each.partition("=") for each in match[0][1:].split("&")]
        kept = ["".join(each) for each in parameters if not (each[1] and secret.search(each[0]))]
        return match[0][0] + "&".join(kept) if kept else ""

    return USER_IN_URL.sub("", PARAMETERS.sub(clean, text))
