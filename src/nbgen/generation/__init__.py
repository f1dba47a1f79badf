"""Makes pictures. Only ``sdxl`` and what it imports load torch and diffusers."""
