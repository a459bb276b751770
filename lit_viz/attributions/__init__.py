"""Saliency methods: which pixels decide?"""
