"""The languages of the page."""

from __future__ import annotations

from collections.abc import Mapping

from services.gateway.page.english import ENGLISH
from services.gateway.page.portuguese import PORTUGUESE
from services.gateway.page.texts import Texts

TEXTS: Mapping[str, Texts] = {"en": ENGLISH, "pt": PORTUGUESE}
