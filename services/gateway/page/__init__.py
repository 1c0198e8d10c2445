"""The web page for musicians, in English and Portuguese."""
