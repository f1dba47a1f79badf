"""Handles on tasks and batches."""
