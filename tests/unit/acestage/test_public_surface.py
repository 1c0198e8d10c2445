"""What `import acestage` offers, which is what users may rely on."""

from __future__ import annotations

import acestage

PUBLIC = [
    "Access",
    "Adapter",
    "AsyncClient",
    "Audio",
    "Clamped",
    "Client",
    "Generation",
    "GenerationOptions",
    "LanguageModelLimit",
    "Limit",
    "Limits",
    "Settings",
    "Status",
    "Track",
    "errors",
]


def test_the_public_surface_is_exactly_this() -> None:
    assert sorted(acestage.__all__) == PUBLIC
    assert all(hasattr(acestage, name) for name in PUBLIC)
