"""Acestage: ACE-Step 1.5 music generation for small GPUs, split by stage into gRPC services.

from acestage import Client

with Client() as client:
    song = client.generate("warm lo-fi piano, rain", duration_s=30, seed=7)
    song.tracks[0].save("song.wav")
"""

from importlib.metadata import version

from acestage import errors
from acestage.access import Access
from acestage.async_client import AsyncClient
from acestage.audio import Audio
from acestage.client import Client
from acestage.generation import Generation, Track
from acestage.generation_options import Adapter, GenerationOptions, Settings
from acestage.limits import Clamped, LanguageModelLimit, Limit, Limits
from acestage.status import Status

__version__ = version("acestage")
__all__ = [
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
