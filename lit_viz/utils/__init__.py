"""Helpers without knowledge of images or networks: devices, files, ranks, formatting, threads."""
