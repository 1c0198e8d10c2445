"""What a request means: its checks, its settings, and the audio that becomes of it."""
