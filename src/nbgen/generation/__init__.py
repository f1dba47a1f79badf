"""Makes pictures. Only ``sdxl`` imports torch and diffusers."""
